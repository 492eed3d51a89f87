"""The ways in which a run ends. Each closes all calls and plan steps; the last event is `end` (§2.3, §4)."""

from __future__ import annotations

from msgspec.structs import replace

from statemachine.checkpoint import Ending
from statemachine.events import End as EndEvent
from statemachine.events import EndStatus, ErrorRaised, ErrorType
from statemachine.ledger import end_open_calls
from statemachine.messages import Stop
from statemachine.plan import close_plan
from statemachine.prompt import used_context
from statemachine.states import Trigger
from statemachine.step_builder import StepBuilder


def complete(builder: StepBuilder) -> Stop:
    """End a run whose answer is complete."""
    close_plan(builder, "completed")
    builder.transition(Trigger.FINISH)
    return _end(builder, "completed", "작업이 완료되었습니다.")


def fail(builder: StepBuilder, error_type: ErrorType, error_code: str, message: str, *, retryable: bool) -> Stop:
    """End a run with an error. The user reads `message`, so it must not contain secrets."""
    _close_work(builder, message)
    close_plan(builder, "failed")
    builder.transition(Trigger.FAIL)
    return _end_with_error(builder, "failed", error_type, error_code, message, retryable=retryable)


def cancel(builder: StepBuilder, cancelled_by: str) -> Stop:
    """End a run at the request of the user `cancelled_by`."""
    message = "요청에 따라 작업이 취소되었습니다."
    builder.update(cancelled_by=cancelled_by)
    _close_work(builder, message)
    close_plan(builder, "skipped")
    builder.transition(Trigger.CANCEL)
    return _end_with_error(builder, "cancelled", "Cancelled", "E1000", message, retryable=False)


def reject(builder: StepBuilder, reason: str) -> Stop:
    """End a run that has already entered `rejected`."""
    _close_work(builder, reason)
    close_plan(builder, "skipped")
    return _end_with_error(builder, "rejected", "RejectionError", "E2001", reason, retryable=False)


def time_out(builder: StepBuilder) -> Stop:
    """End a run that has already entered `timed_out`."""
    seconds = f"{builder.checkpoint.limits.approval_seconds:g}"
    message = f"HITL 승인 요청이 {seconds}초 내에 응답되지 않아 작업이 중단되었습니다."
    _close_work(builder, message)
    close_plan(builder, "skipped")
    return _end_with_error(builder, "timed_out", "TimeoutError", "E5001", message, retryable=True)


def _close_work(builder: StepBuilder, reason: str) -> None:
    """Close the open model turn, the open review, the approval queue and all open calls."""
    builder.end_turn("stopped")
    builder.end_review("withdrawn")
    builder.update(pending_approvals=[], deadline_at=None)
    end_open_calls(builder, reason)


def _end_with_error(
    builder: StepBuilder, status: EndStatus, error_type: ErrorType, error_code: str, message: str, *, retryable: bool
) -> Stop:
    builder.add_event(ErrorRaised(message=message, error_type=error_type, error_code=error_code, retryable=retryable))
    builder.update(ending=Ending(error_type=error_type, error_code=error_code, message=message))
    return _end(builder, status, message)


def _end(builder: StepBuilder, status: EndStatus, message: str) -> Stop:
    """Publish the end. Of the screen's context only what the model got stays: the rest has no further use."""
    request = builder.checkpoint.request
    builder.update(request=replace(request, context=used_context(request.context)))
    usage = builder.checkpoint.usage
    tokens = {
        "promptTokens": usage.prompt_tokens,
        "completionTokens": usage.completion_tokens,
        "totalTokens": usage.total_tokens,
    }
    if usage.cached_tokens:
        tokens["cachedTokens"] = usage.cached_tokens
    builder.add_event(EndEvent(message=message, status=status, usage=tokens if usage.total_tokens else None))
    return Stop()
