"""A person's decision, and the forms in which the platform sends it (§5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from statemachine import foreign_json
from statemachine.call import Via
from statemachine.checkpoint import Checkpoint
from statemachine.foreign_json import ForeignJsonInvalid, read_number, read_text
from statemachine.stored import JsonObject

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


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about one approval request.

    `decided_at` is in Unix seconds. `via` is the way by which it came. Only a decision by Aura's HTTP has `arguments`,
    which the person edited, or `skip`: the run continues without the rejected call. By Redis, `decided_by` is what
    another service told.
    """

    verdict: Verdict
    request_id: str
    decided_at: float
    decided_by: str | None = None
    reason: str | None = None
    arguments: JsonObject | None = None
    skip: bool = False
    via: Via = "http"


class SignalIgnored(ValueError):
    """A signal contains no valid decision; the message names the cause. It is counted and never fails the run (§5)."""


class SignalForOtherRequest(SignalIgnored):
    """A signal is for another request. If it was stored, it is left over from an earlier request."""


def is_only_request(checkpoint: Checkpoint) -> bool:
    """Whether the open request is the first and so far the only one of its session.

    Only then a signal that names no request counts: it cannot be a late or repeated one for an earlier request.
    """
    return len(checkpoint.reviews) == 1


def parse_signal(
    raw: str | bytes, *, request_id: str, received_at: float, is_live: bool = True, may_lack_id: bool = False
) -> Decision:
    """Parse the verdict and the reason in a signal, in any of the forms that senders use. Nothing else in it counts.

    `request_id` is the open request; with `may_lack_id` a signal that names none is for this one. `received_at` is in
    Unix seconds. A live signal was decided when it was received. For a stored one the sender's time counts, unless it
    is in the future. Raises `SignalIgnored`, or `SignalForOtherRequest` if the signal is for another request.
    """
    message = _parse_object(raw)
    signal_request_id = message.get("requestId")
    if signal_request_id is None and not may_lack_id:
        raise SignalForOtherRequest("it names no request, and the open one is not the first and only one of its run")
    if signal_request_id is not None and signal_request_id != request_id:
        raise SignalForOtherRequest(f"it is for request {signal_request_id!r:.80}, {request_id} is open")
    verdict = _read_verdict(message)
    names = (_own_fields(verdict)[1], "timestamp")
    return Decision(
        verdict=verdict,
        request_id=request_id,
        decided_at=received_at if is_live else _read_time(message, names, 0.0, received_at),
        reason=read_text(message, "reason"),
        via="redis",
    )


def parse_stored_decision(stored: JsonObject, *, request_id: str, asked_at: float, now: float) -> Decision | None:
    """Return the decision that another service wrote into a stored request, or None while there is none.

    Its decider and its time are in the fields of its verdict, and in no others: only those does its MAC cover. A time
    before the request was made, or in the future, does not count. All times are Unix seconds.
    """
    status = stored.get("status")
    verdict = _VERDICTS.get(status.lower()) if isinstance(status, str) else None
    if verdict is None:
        return None
    by, at = _own_fields(verdict)
    return Decision(
        verdict=verdict,
        request_id=request_id,
        decided_at=_read_time(stored, (at,), asked_at, now),
        decided_by=read_text(stored, by),
        reason=read_text(stored, "reason"),
        via="redis",
    )


def _own_fields(verdict: Verdict) -> tuple[str, str]:
    """Return the names of the fields for the decider and the time of a verdict."""
    return ("approvedBy", "approvedAt") if verdict == "approved" else ("rejectedBy", "rejectedAt")


def _read_time(message: JsonObject, names: tuple[str, ...], earliest: float, latest: float) -> float:
    """Return the sender's time in Unix seconds, or `latest` if no field has a valid time in this interval.

    Senders write seconds or milliseconds.
    """
    for name in names:
        value = read_number(message, name)
        if value is not None and 0 < value < _MAX_UNIX_MILLISECONDS:
            seconds = value / 1000 if value > _MAX_UNIX_SECONDS else value
            if earliest <= seconds <= latest:
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
        return foreign_json.parse_object(raw)
    except ForeignJsonInvalid as error:
        raise SignalIgnored(str(error)) from error


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
