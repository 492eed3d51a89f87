"""How a run ends: every call gets its outcome, no plan step stays open, the last event is `end` (§2.3, §4)."""

from __future__ import annotations

from msgspec.structs import replace

from statemachine.checkpoint import CallStatus, Ending
from statemachine.events import End as EndEvent
from statemachine.events import EndStatus, ErrorRaised, ErrorType
from statemachine.messages import Stop
from statemachine.states import Trigger
from statemachine.step_builder import Draft


def complete(draft: Draft) -> Stop:
    draft.settle_plan("completed")
    draft.move(Trigger.FINISH)
    return _end(draft, "completed", "작업이 완료되었습니다.")


def fail(draft: Draft, error_type: ErrorType, error_code: str, message: str, *, retryable: bool) -> Stop:
    """End with an error; `message` is for the user, without secrets."""
    _close_calls(draft, message)
    draft.settle_plan("failed")
    draft.move(Trigger.FAIL)
    return _end_with_error(draft, "failed", error_type, error_code, message, retryable=retryable)


def cancel(draft: Draft, cancelled_by: str) -> Stop:
    message = "요청에 따라 작업이 취소되었습니다."
    draft.change(cancelled_by=cancelled_by)
    _close_calls(draft, message)
    draft.settle_plan("skipped")
    draft.move(Trigger.CANCEL)
    return _end_with_error(draft, "cancelled", "Cancelled", "E1000", message, retryable=False)


def reject(draft: Draft, reason: str) -> Stop:
    """The run has already moved to `rejected`."""
    _close_calls(draft, reason)
    draft.settle_plan("skipped")
    return _end_with_error(draft, "rejected", "RejectionError", "E2001", reason, retryable=False)


def time_out(draft: Draft) -> Stop:
    """The run has already moved to `timed_out`."""
    seconds = f"{draft.now_is.limits.approval_seconds:g}"
    message = f"HITL 승인 요청이 {seconds}초 내에 응답되지 않아 작업이 중단되었습니다."
    _close_calls(draft, message)
    draft.settle_plan("skipped")
    return _end_with_error(draft, "timed_out", "TimeoutError", "E5001", message, retryable=True)


def _close_calls(draft: Draft, why: str) -> None:
    """What waited was not run; what ran was told to stop, and nobody knows how far it came."""
    draft.end_turn("stopped")
    draft.end_review("withdrawn")
    draft.change(pending_approvals=[], deadline_at=None)
    for call in draft.now_is.calls:
        if call.status is CallStatus.REQUESTED and call.outcome_unknown:
            draft.end_call(call, CallStatus.REJECTED, answer=f"Not run again, it may have run before: {why}", error=why)
        elif call.status is CallStatus.REQUESTED:
            draft.end_call(call, CallStatus.REJECTED, answer=f"Not run: {why}", error=why)
        elif call.status is CallStatus.STARTED:
            unknown = replace(call, outcome_unknown=True)
            draft.end_call(unknown, CallStatus.FAILED, answer=f"Stopped, outcome unknown: {why}", error=why)


def _end_with_error(
    draft: Draft, status: EndStatus, error_type: ErrorType, error_code: str, message: str, *, retryable: bool
) -> Stop:
    draft.emit(ErrorRaised(message=message, error_type=error_type, error_code=error_code, retryable=retryable))
    draft.change(ending=Ending(error_type=error_type, error_code=error_code, message=message))
    return _end(draft, status, message)


def _end(draft: Draft, status: EndStatus, message: str) -> Stop:
    usage = draft.now_is.usage
    counted = {
        "promptTokens": usage.prompt_tokens,
        "completionTokens": usage.completion_tokens,
        "totalTokens": usage.total_tokens,
    }
    draft.emit(EndEvent(message=message, status=status, usage=counted if usage.total_tokens else None))
    return Stop()
