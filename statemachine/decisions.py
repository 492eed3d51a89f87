"""A person's decision, and the forms in which the platform sends it (§5)."""

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
"""The first bytes of a Java object stream."""
JAVA_REMEDY = (
    "The sender's RedisTemplate uses its default serialiser (JdkSerializationRedisSerializer), which no other language"
    " reads: use a StringRedisTemplate, or set StringRedisSerializer as its key and value serialiser."
)

_MAX_UNIX_SECONDS = 1e11
"""A larger number (after the year 5138) is in milliseconds."""
_MAX_UNIX_MILLISECONDS = 1e14
_MAX_TEXT_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about one approval request.

    `decided_at` is in Unix seconds. `arguments` are set if the person edited the arguments of the call. `skip`: the
    run continues without the rejected call.
    """

    verdict: Verdict
    request_id: str
    decided_at: float
    decided_by: str | None = None
    reason: str | None = None
    arguments: JsonObject | None = None
    skip: bool = False


class SignalIgnored(ValueError):
    """A signal contains no valid decision; the message names the cause. It is counted and never fails the run (§5)."""


class SignalForOtherRequest(SignalIgnored):
    """A signal is for another request. If it was stored, it is left over from an earlier request."""


def parse_signal(raw: str | bytes, *, request_id: str, received_at: float, is_live: bool = True) -> Decision:
    """Parse the decision in a signal or in a stored request, in any of the forms that senders use.

    `request_id` is the open request; a signal without a request id is for this one. `received_at` is in Unix seconds. A
    live signal was decided when it was received. For a stored one the sender's time counts, unless it is in the future.
    Raises `SignalIgnored`, or `SignalForOtherRequest` if the signal is for another request.
    """
    message = _parse_object(raw)
    signal_request_id = message.get("requestId")
    if signal_request_id is not None and signal_request_id != request_id:
        raise SignalForOtherRequest(f"it is for request {signal_request_id!r:.80}, {request_id} is open")
    return Decision(
        verdict=_read_verdict(message),
        request_id=request_id,
        decided_at=received_at if is_live else _read_time(message, received_at),
        decided_by=_read_text(message, "approvedBy", "rejectedBy", "userId" if is_live else "decidedBy"),
        reason=_read_text(message, "reason"),
        arguments=_read_arguments(message),
        skip=message.get("skip") is True,
    )


def _read_time(message: JsonObject, latest: float) -> float:
    """Return the sender's time in Unix seconds, or `latest` if there is no valid time before it.

    Senders write seconds or milliseconds.
    """
    for name in ("approvedAt", "rejectedAt", "timestamp"):
        value = message.get(name)
        if isinstance(value, (int, float)) and 0 < value < _MAX_UNIX_MILLISECONDS and not isinstance(value, bool):
            seconds = value / 1000 if value > _MAX_UNIX_SECONDS else float(value)
            if seconds <= latest:
                return seconds
    return latest


def has_request_id(raw: str | bytes) -> bool:
    """Return whether a stored signal names its request. One that does not must never decide a later request."""
    try:
        return isinstance(_parse_object(raw).get("requestId"), str)
    except SignalIgnored:
        return False


def _parse_object(raw: str | bytes) -> JsonObject:
    if raw[:2] in (b"\xac\xed", "\xac\xed"):
        raise SignalIgnored(f"its bytes begin with a Java serialisation header. {JAVA_REMEDY}")
    try:
        message = json.loads(raw)
        if isinstance(message, str):  # some senders serialise twice
            message = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise SignalIgnored(f"it is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise SignalIgnored("it is not a JSON object")
    return message


def _read_verdict(message: JsonObject) -> Verdict:
    """Read the verdict from `status`, `action`, `approved` and `type`.

    `type` counts only if the others are missing, except that `rejection` always counts. Raises `SignalIgnored` if two
    fields disagree or none contains a verdict.
    """
    verdicts: set[Verdict] = set()
    for name in ("status", "action"):
        value = message.get(name)
        if value is not None:
            if not isinstance(value, str) or value.lower() not in _VERDICTS:
                raise SignalIgnored(f"{name} {value!r:.80} is not a decision")
            verdicts.add(_VERDICTS[value.lower()])
    approved = message.get("approved")
    if isinstance(approved, bool):
        verdicts.add("approved" if approved else "rejected")
    elif approved is not None:
        raise SignalIgnored(f"approved {approved!r:.80} is neither true nor false")
    kind = message.get("type")
    if not verdicts and isinstance(kind, str) and kind.lower() in _VERDICTS:
        verdicts.add(_VERDICTS[kind.lower()])
    if isinstance(kind, str) and kind.lower() == "rejection":
        verdicts.add("rejected")
    if len(verdicts) != 1:
        raise SignalIgnored("its fields contradict each other" if verdicts else "it contains no decision")
    return verdicts.pop()


def _read_text(message: JsonObject, *names: str) -> str | None:
    """Return the first of these fields that is a non-empty text, or None.

    The sender is unknown, so the text is cut, and single surrogates, which a checkpoint cannot store, are replaced.
    """
    text = next((value for name in names if isinstance(value := message.get(name), str) and value), None)
    return None if text is None else text[:_MAX_TEXT_CHARACTERS].encode("utf-8", "replace").decode()


def _read_arguments(message: JsonObject) -> JsonObject | None:
    value = message.get("params")
    if value is not None and not isinstance(value, dict):
        raise SignalIgnored("params is not an object")
    return value
