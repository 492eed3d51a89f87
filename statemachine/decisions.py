"""A person's decision, and how the platform spells it on the wire (§5)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from statemachine.checkpoint import JsonObject

Verdict = Literal["approved", "rejected"]

_VERDICTS: dict[str, Verdict] = {
    "approved": "approved",
    "approve": "approved",
    "approval": "approved",
    "rejected": "rejected",
    "reject": "rejected",
    "rejection": "rejected",
}


JAVA_HEADER = b"\xac\xed\x00\x05"
"""How Java's object serialisation begins."""
JAVA_REMEDY = (
    "The sender's RedisTemplate uses its default serialiser (JdkSerializationRedisSerializer), which no other language"
    " reads: use a StringRedisTemplate, or set StringRedisSerializer as its key and value serialiser."
)

_FIRST_MILLISECONDS = 1e11
"""Above it a time cannot be Unix seconds (the year 5138), so it is milliseconds."""
_LAST_MILLISECONDS = 1e14
_MOST_TEXT_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, by whom and when (Unix s). `arguments` are a person's edit of the call's arguments."""

    verdict: Verdict
    request_id: str
    decided_at: float
    decided_by: str | None = None
    reason: str | None = None
    arguments: JsonObject | None = None
    skip: bool = False


class SignalIgnored(ValueError):
    """A signal that decides nothing; the message says why. Counted, never an error of the run (§5)."""


class SignalForOtherRequest(SignalIgnored):
    """It decides another request. Stored, that is what remains of an earlier one."""


def parse_signal(raw: str | bytes, *, request_id: str, received_at: float, is_live: bool = True) -> Decision:
    """The decision in a signal, or in a request that was decided, in any of the forms that senders use.

    `request_id` is the one request that is open: a signal without its own means this one. A live message was decided
    when it was received (Unix s); of a stored one the sender's own time counts, where it is one that has been.
    Raises `SignalIgnored`, for another request `SignalForOtherRequest`.
    """
    message = _object(raw)
    named = message.get("requestId")
    if named is not None and named != request_id:
        raise SignalForOtherRequest(f"it is for request {named!r:.80}, {request_id} is open")
    return Decision(
        verdict=_verdict(message),
        request_id=request_id,
        decided_at=received_at if is_live else _stored_time(message, received_at),
        decided_by=_text(message, "approvedBy", "rejectedBy", "userId" if is_live else "decidedBy"),
        reason=_text(message, "reason"),
        arguments=_arguments(message),
        skip=message.get("skip") is True,
    )


def _stored_time(message: JsonObject, latest: float) -> float:
    """Senders write seconds or milliseconds; what is in the future or no number says nothing."""
    for name in ("approvedAt", "rejectedAt", "timestamp"):
        value = message.get(name)
        if isinstance(value, (int, float)) and 0 < value < _LAST_MILLISECONDS and not isinstance(value, bool):
            seconds = value / 1000 if value > _FIRST_MILLISECONDS else float(value)
            if seconds <= latest:
                return seconds
    return latest


def has_request_id(raw: str | bytes) -> bool:
    """Whether a stored signal says which request it decides; one that does not must not decide a later one."""
    try:
        return isinstance(_object(raw).get("requestId"), str)
    except SignalIgnored:
        return False


def _object(raw: str | bytes) -> JsonObject:
    if raw[:2] in (b"\xac\xed", "\xac\xed"):
        raise SignalIgnored(f"its bytes begin with a Java serialisation header. {JAVA_REMEDY}")
    try:
        message = json.loads(raw)
        if isinstance(message, str):  # a sender that serialised twice
            message = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise SignalIgnored(f"it is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise SignalIgnored("it is not a JSON object")
    return message


def _verdict(message: JsonObject) -> Verdict:
    """`status` says it best, then `action`, then `approved`, then `type`; two that disagree decide nothing."""
    said: set[Verdict] = set()
    for name in ("status", "action"):
        value = message.get(name)
        if value is not None:
            if not isinstance(value, str) or value.lower() not in _VERDICTS:
                raise SignalIgnored(f"{name} {value!r:.80} is no decision")
            said.add(_VERDICTS[value.lower()])
    approved = message.get("approved")
    if isinstance(approved, bool):
        said.add("approved" if approved else "rejected")
    elif approved is not None:
        raise SignalIgnored(f"approved {approved!r:.80} is neither true nor false")
    kind = message.get("type")
    if not said and isinstance(kind, str) and kind.lower() in _VERDICTS:
        said.add(_VERDICTS[kind.lower()])
    if isinstance(kind, str) and kind.lower() == "rejection":
        said.add("rejected")
    if len(said) != 1:
        raise SignalIgnored("it contradicts itself" if said else "it holds no decision")
    return said.pop()


def _text(message: JsonObject, *names: str) -> str | None:
    """Of unknown senders: bounded, and without halves of characters, which a checkpoint cannot hold."""
    text = next((value for name in names if isinstance(value := message.get(name), str) and value), None)
    return None if text is None else text[:_MOST_TEXT_CHARACTERS].encode("utf-8", "replace").decode()


def _arguments(message: JsonObject) -> JsonObject | None:
    value = message.get("params")
    if value is not None and not isinstance(value, dict):
        raise SignalIgnored("params is not an object")
    return value
