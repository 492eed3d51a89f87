"""The facts that the search tries in each situation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from statemachine.checkpoint import Checkpoint, Usage
from statemachine.messages import (
    AnswerArrived,
    AnswerFinished,
    ApprovalGranted,
    ApprovalRejected,
    CancelRequested,
    DeadlinePassed,
    Fact,
    InternalErrorOccurred,
    ModelFailed,
    RequestedCall,
    RunRecovered,
    RunResumed,
    ThoughtArrived,
    ToolFinished,
    ToolsRequested,
)


class _Kind(Struct, frozen=True):
    """The marks of the tool that the model calls."""

    name: str = "safe"
    needs_approval: bool = False
    idempotent: bool = False
    outward: bool = False
    untrusted: bool = False


_SAFE = _Kind(idempotent=True)
_ONCE = _Kind()
_RISKY = _Kind("risky", needs_approval=True)
_RISKY_IDEMPOTENT = _Kind("risky", needs_approval=True, idempotent=True)
_READ = _Kind("read", idempotent=True, untrusted=True)
_SEND = _Kind("send", outward=True)

TURNS: dict[str, tuple[_Kind, ...]] = {
    "a safe call": (_SAFE,),
    "a safe call that is not idempotent": (_ONCE,),
    "a risky call": (_RISKY,),
    "a risky call that is idempotent": (_RISKY_IDEMPOTENT,),
    "a safe and a risky call": (_SAFE, _RISKY),
    "two risky calls and a safe one": (_RISKY, _RISKY_IDEMPOTENT, _ONCE),
    "a call that reads text from outside": (_READ,),
    "a call that sends something to others": (_SEND,),
    "a call that reads text from outside and one that sends": (_READ, _SEND),
}
"""The calls that the model may request in a turn."""


def facts(run: Checkpoint, now: float) -> Iterator[tuple[str, Fact, float]]:
    """Yield every relevant form of every fact, legal or not, with its description and its time (Unix s)."""
    yield from ((f"the model requests {name}", _tools_requested(run, calls), now) for name, calls in TURNS.items())
    refused = _tools_requested(run, (_RISKY,), refusal="no such tool")
    yield "the model requests a call that cannot run", refused, now
    yield "the model sends a thought", ThoughtArrived("…"), now
    yield "the answer begins", AnswerArrived("…"), now
    yield "the answer ends", AnswerFinished("…"), now
    yield "the model's stream is interrupted", ModelFailed("interrupted", "…"), now
    yield "the provider refuses the request", ModelFailed("refused", "…"), now
    for call in run.running:
        yield f"{call.id} succeeds", ToolFinished(call.id, "…"), now
        yield f"{call.id} fails", ToolFinished(call.id, "…", error="…"), now
        yield f"{call.id} may have run", ToolFinished(call.id, "…", error="…", outcome_unknown=True), now
    yield "a call that is not running ends", ToolFinished("another", "…"), now
    yield from _decisions(run, now)
    yield "the deadlines are compared at once", DeadlinePassed(), now
    yield "the run's deadline passes", DeadlinePassed(), max(now, run.run_deadline_at)
    yield "the run is cancelled", CancelRequested("u"), now
    yield "the service fails", InternalErrorOccurred("…"), now
    yield "the node crashes", RunRecovered(), now
    yield (
        "the node crashes, and the takeover is after the run's deadline",
        RunRecovered(),
        max(now, run.run_deadline_at),
    )
    yield "the waiting run is loaded again", RunResumed(), now


def _decisions(run: Checkpoint, now: float) -> Iterator[tuple[str, Fact, float]]:
    request = run.open_approval.request_id if run.open_approval else "req-none"
    late = now if run.deadline_at is None else max(now, run.deadline_at)
    edit: dict[str, object] = {"edited": True}
    yield "a person approves", ApprovalGranted(request, now, "u"), now
    yield "a person edits and approves", ApprovalGranted(request, now, "u", edit), now
    yield "a person approves in time, and it is received late", ApprovalGranted(request, now, "u"), late
    yield "a person approves too late", ApprovalGranted(request, late, "u"), late
    yield "a person approves another request", ApprovalGranted("req-other", now, "u"), now
    yield "a person rejects", ApprovalRejected(request, now, "u"), now
    yield "a person rejects only the call", ApprovalRejected(request, now, "u", skip=True), now
    yield "a person rejects too late", ApprovalRejected(request, late, "u"), late
    yield "a person rejects another request", ApprovalRejected("req-other", now, "u"), now
    yield "the approval's deadline passes", DeadlinePassed(), late


def _tools_requested(run: Checkpoint, calls: Iterable[_Kind], refusal: str | None = None) -> ToolsRequested:
    requested = []
    for number, kind in enumerate(calls, start=len(run.calls)):
        requested.append(
            RequestedCall(
                id=f"{kind.name}-{number}",
                name=kind.name,
                arguments={},
                raw_arguments="{}",
                needs_approval=kind.needs_approval,
                idempotent=kind.idempotent,
                outward=kind.outward,
                untrusted=kind.untrusted,
                refusal=refusal,
            )
        )
    return ToolsRequested(tuple(requested), usage=Usage(total_tokens=10))
