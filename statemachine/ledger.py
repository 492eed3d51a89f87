"""The tool ledger. A call starts and ends in the checkpoint, the conversation, the events and the plan together."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from statemachine.call import CallStatus, ToolCall
from statemachine.checkpoint import StepStatus
from statemachine.errors import FactRefused
from statemachine.events import ToolExecution, ToolStatus
from statemachine.outside_text import needs_approval
from statemachine.plan import set_step_status
from statemachine.step_builder import StepBuilder

_STEP_STATUS: dict[CallStatus, StepStatus] = {
    CallStatus.COMPLETED: "completed",
    CallStatus.FAILED: "failed",
    CallStatus.REJECTED: "skipped",
}
_EVENT_STATUS: dict[CallStatus, ToolStatus] = {
    CallStatus.COMPLETED: "completed",
    CallStatus.FAILED: "failed",
    CallStatus.REJECTED: "rejected",
}


def get_call(builder: StepBuilder, call_id: str) -> ToolCall:
    """Return a call that the ledger is known to contain."""
    call = builder.find_call(call_id)
    if call is None:
        raise LookupError(f"the ledger has no call {call_id}")
    return call


def start_call(builder: StepBuilder, call: ToolCall) -> None:
    """Mark a call as started. Raises `FactRefused` for one that needs an approval and has none."""
    if call.grant is None and needs_approval(builder.checkpoint, call):
        raise FactRefused("start", builder.checkpoint.state, f"call {call.id} needs an approval")
    call = replace(call, status=CallStatus.STARTED, started_at=builder.now, error=None)
    builder.put_call(call)
    builder.add_event(tool_event(call, "executing"))
    set_step_status(builder, call.id, "in_progress")


def end_call(
    builder: StepBuilder,
    call: ToolCall,
    status: CallStatus,
    *,
    answer: str,
    result: Any = None,
    error: str | None = None,
) -> None:
    """Record the one outcome of a call. `answer` is the text that the model reads."""
    ended = replace(call, status=status, result=result, error=error, ended_at=builder.now)
    builder.put_call(ended)
    add_tool_message(builder, call.id, answer)
    builder.add_event(tool_event(ended, _EVENT_STATUS[status]))
    set_step_status(builder, call.id, _STEP_STATUS[status])


def end_open_calls(builder: StepBuilder, reason: str) -> None:
    """Give every open call its outcome because the run ends.

    A call that was not started did not run. A started call is being stopped, and its outcome is unknown.
    """
    for call in tuple(builder.checkpoint.calls):
        if call.status is CallStatus.REQUESTED and call.outcome_unknown:
            answer = f"Not run again, it may have run before: {reason}"
            end_call(builder, call, CallStatus.REJECTED, answer=answer, error=reason)
        elif call.status is CallStatus.REQUESTED:
            end_call(builder, call, CallStatus.REJECTED, answer=f"Not run: {reason}", error=reason)
        elif call.status is CallStatus.STARTED:
            unknown = replace(call, outcome_unknown=True)
            answer = f"Stopped, outcome unknown: {reason}"
            end_call(builder, unknown, CallStatus.FAILED, answer=answer, error=reason)


def add_tool_message(builder: StepBuilder, call_id: str, content: str) -> None:
    """Append the result message that the chat API requires, once for each tool call."""
    builder.add_message({"role": "tool", "tool_call_id": call_id, "content": content})


def tool_event(call: ToolCall, status: ToolStatus) -> ToolExecution:
    """Return the event that shows the call with that status."""
    return ToolExecution(
        tool_name=call.name,
        tool_args=call.shown_arguments,
        status=status,
        result=call.result,
        error=call.error,
        requires_approval=call.needs_approval,
        tool_call_id=call.id,
    )
