"""How a run ends: every call gets its outcome, no plan step stays open, the last event is `end` (§2.3, §4)."""

from __future__ import annotations

from msgspec.structs import replace

from statemachine.checkpoint import CallStatus, Ending
from statemachine.events import End as EndEvent
from statemachine.events import EndStatus, ErrorRaised, ErrorType
from statemachine.messages import Stop
from statemachine.states import Trigger
from statemachine.step_builder import StepBuilder


def complete(builder: StepBuilder) -> Stop:
    builder.settle_plan("completed")
    builder.transition(Trigger.FINISH)
    return _end(builder, "completed", "작업이 완료되었습니다.")


def fail(builder: StepBuilder, error_type: ErrorType, error_code: str, message: str, *, retryable: bool) -> Stop:
    """End with an error; `message` is for the user, without secrets."""
    _close_calls(builder, message)
    builder.settle_plan("failed")
    builder.transition(Trigger.FAIL)
    return _end_with_error(builder, "failed", error_type, error_code, message, retryable=retryable)


def cancel(builder: StepBuilder, cancelled_by: str) -> Stop:
    message = "요청에 따라 작업이 취소되었습니다."
    builder.update(cancelled_by=cancelled_by)
    _close_calls(builder, message)
    builder.settle_plan("skipped")
    builder.transition(Trigger.CANCEL)
    return _end_with_error(builder, "cancelled", "Cancelled", "E1000", message, retryable=False)


def reject(builder: StepBuilder, reason: str) -> Stop:
    """The run has already moved to `rejected`."""
    _close_calls(builder, reason)
    builder.settle_plan("skipped")
    return _end_with_error(builder, "rejected", "RejectionError", "E2001", reason, retryable=False)


def time_out(builder: StepBuilder) -> Stop:
    """The run has already moved to `timed_out`."""
    seconds = f"{builder.checkpoint.limits.approval_seconds:g}"
    message = f"HITL 승인 요청이 {seconds}초 내에 응답되지 않아 작업이 중단되었습니다."
    _close_calls(builder, message)
    builder.settle_plan("skipped")
    return _end_with_error(builder, "timed_out", "TimeoutError", "E5001", message, retryable=True)


def _close_calls(builder: StepBuilder, why: str) -> None:
    """What waited was not run; what ran was told to stop, and nobody knows how far it came."""
    builder.end_turn("stopped")
    builder.end_review("withdrawn")
    builder.update(pending_approvals=[], deadline_at=None)
    for call in builder.checkpoint.calls:
        if call.status is CallStatus.REQUESTED and call.outcome_unknown:
            builder.end_call(
                call, CallStatus.REJECTED, answer=f"Not run again, it may have run before: {why}", error=why
            )
        elif call.status is CallStatus.REQUESTED:
            builder.end_call(call, CallStatus.REJECTED, answer=f"Not run: {why}", error=why)
        elif call.status is CallStatus.STARTED:
            unknown = replace(call, outcome_unknown=True)
            builder.end_call(unknown, CallStatus.FAILED, answer=f"Stopped, outcome unknown: {why}", error=why)


def _end_with_error(
    builder: StepBuilder, status: EndStatus, error_type: ErrorType, error_code: str, message: str, *, retryable: bool
) -> Stop:
    builder.add_event(ErrorRaised(message=message, error_type=error_type, error_code=error_code, retryable=retryable))
    builder.update(ending=Ending(error_type=error_type, error_code=error_code, message=message))
    return _end(builder, status, message)


def _end(builder: StepBuilder, status: EndStatus, message: str) -> Stop:
    usage = builder.checkpoint.usage
    counted = {
        "promptTokens": usage.prompt_tokens,
        "completionTokens": usage.completion_tokens,
        "totalTokens": usage.total_tokens,
    }
    builder.add_event(EndEvent(message=message, status=status, usage=counted if usage.total_tokens else None))
    return Stop()
