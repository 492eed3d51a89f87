"""The state `awaiting_approval`: what an approval, a rejection and a deadline that has passed lead to (§4)."""

from __future__ import annotations

from msgspec.structs import replace

from statemachine import endings
from statemachine.call import CallStatus, Grant, ToolCall
from statemachine.errors import FactRefused
from statemachine.ledger import end_call, get_call, start_call
from statemachine.messages import ApprovalGranted, ApprovalRejected, Effect
from statemachine.outside_text import warning_of
from statemachine.states import Trigger
from statemachine.step_builder import StepBuilder
from statemachine.stored import digest
from statemachine.tool_calls import next_tool_effect

DEFAULT_REASON = "User rejected"
"""The reason of a rejection without one, which the Main Service writes, too (§5)."""


def approval_granted(builder: StepBuilder, fact: ApprovalGranted) -> Effect:
    """Start the approved call, with the edited arguments if there are any."""
    builder.transition(Trigger.APPROVE, request_id=fact.request_id, decided_at=fact.decided_at)
    edited = fact.arguments is not None
    builder.end_review("approved", fact, edited=edited)
    approved = builder.checkpoint.pending_approvals[0]
    call = _close_open_approval(builder)
    arguments = call.arguments if fact.arguments is None else fact.arguments
    grant = Grant(
        request_id=fact.request_id,
        # The digest of what the approver saw, not of what the ledger contains now: if they differ, nothing runs.
        arguments_digest=approved.arguments_digest if fact.arguments is None else digest(fact.arguments),
        decided_by=fact.decided_by,
        decided_at=fact.decided_at,
        edited=edited,
        via=fact.via,
        decider_told=fact.via == "redis",
    )
    secrets = list(fact.secret_fields) if edited else call.secret_fields
    warnings = (*warning_of(call), *fact.warnings) if edited else call.warnings
    changed = replace(call, arguments=arguments, secret_fields=secrets, warnings=warnings)
    start_call(builder, replace(changed, grant=grant, outcome_unknown=False))
    return next_tool_effect(builder)


def approval_rejected(builder: StepBuilder, fact: ApprovalRejected) -> Effect:
    """End the run or, if it replans or only the call is skipped, let the model read the rejection."""
    reason = fact.reason or DEFAULT_REASON
    if fact.skip or builder.checkpoint.limits.on_reject == "replan":
        builder.transition(Trigger.DECLINE, request_id=fact.request_id, decided_at=fact.decided_at)
        builder.end_review("rejected", fact, reason=fact.reason or None)
        call = _close_open_approval(builder)
        execution = "It may have run before" if call.outcome_unknown else "It was not run"
        answer = f"A person refused this call: {reason} {execution}; do not try it again unchanged."
        end_call(builder, call, CallStatus.REJECTED, answer=answer, error=reason)
        return next_tool_effect(builder)
    builder.transition(Trigger.REJECT, request_id=fact.request_id, decided_at=fact.decided_at)
    builder.end_review("rejected", fact, reason=fact.reason or None)
    return endings.reject(builder, reason)


def deadline_passed(builder: StepBuilder) -> Effect:
    """End the run at the deadline of its approval or its own. If both have passed, the earlier one counts."""
    checkpoint = builder.checkpoint
    approval_ends_at, run_ends_at = checkpoint.deadline_at, checkpoint.run_deadline_at
    if approval_ends_at is not None and approval_ends_at < run_ends_at and builder.now >= approval_ends_at:
        builder.transition(Trigger.EXPIRE)
        builder.end_review("expired")
        return endings.time_out(builder)
    if builder.now >= run_ends_at:
        message = f"실행 시간 한도({checkpoint.limits.run_seconds:g}초)를 초과하여 작업을 중단했습니다."
        return endings.fail(builder, "LimitExceeded", "E5001", message, retryable=True)
    raise FactRefused("DeadlinePassed", checkpoint.state, "no deadline has passed")


def _close_open_approval(builder: StepBuilder) -> ToolCall:
    """Remove the open approval from the queue and return its call."""
    approval, *queue = builder.checkpoint.pending_approvals
    builder.update(pending_approvals=queue, deadline_at=None)
    return get_call(builder, approval.call_id)
