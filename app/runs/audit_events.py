"""What the engine records of a run (`ports.audit`): who is asked, what was decided, which tools ran. No content."""

from __future__ import annotations

from app.ports.audit import AppliedVerdict, DecisionApplied, DecisionMade, RequestOpened, ToolStarted
from app.ports.decisions import ApprovalRequest
from app.ports.identity import Origin, Principal
from statemachine.call import ToolCall
from statemachine.checkpoint import Approval, Checkpoint
from statemachine.decisions import Decision
from statemachine.messages import ApprovalGranted, ApprovalRejected, Fact
from statemachine.stored import JsonObject, digest


def request_opened(checkpoint: Checkpoint, approval: Approval, deadline_at: float) -> RequestOpened:
    return RequestOpened(
        session=checkpoint.session_id,
        request=approval.request_id,
        call=approval.call_id,
        tool=approval.action_type,
        user=checkpoint.request.user_id,
        arguments_digest=approval.arguments_digest,
        expires_at=int(deadline_at),
        outcome_unknown=approval.outcome_unknown,
    )


def decision_made(
    principal: Principal, origin: Origin, request: ApprovalRequest, decision: Decision, edited: JsonObject | None
) -> DecisionMade:
    """`edited` are the arguments that will run in place of the requested ones, if the approver has changed them."""
    return DecisionMade(
        session=request.session_id,
        request=request.request_id,
        tool=request.action_type,
        verdict=decision.verdict,
        user=principal.user_id,
        arguments_digest=request.arguments_digest if edited is None else digest(edited),
        via="http",
        role=principal.role,
        caller_type=origin.caller_type,
        address=origin.address,
        forwarded_for=origin.forwarded_for,
        edited=edited is not None,
        skip=decision.skip,
    )


def decision_applied(checkpoint: Checkpoint, approval: Approval, fact: Fact) -> DecisionApplied:
    """`checkpoint` is the run after `fact`, a decision or the end of the wait: its grant is for what will run."""
    call = checkpoint.call(approval.call_id)
    grant = call.grant if call is not None and isinstance(fact, ApprovalGranted) else None
    decided = fact if isinstance(fact, ApprovalGranted | ApprovalRejected) else None
    is_rejected = isinstance(decided, ApprovalRejected)
    verdict: AppliedVerdict = "rejected" if is_rejected else "expired" if grant is None else "approved"
    return DecisionApplied(
        session=checkpoint.session_id,
        request=approval.request_id,
        tool=approval.action_type,
        verdict=verdict,
        arguments_digest=approval.arguments_digest if grant is None else grant.arguments_digest,
        user=None if decided is None else decided.decided_by,
        via=None if decided is None else decided.via,
        edited=grant is not None and grant.edited,
        skip=isinstance(decided, ApprovalRejected) and decided.skip,
    )


def tool_started(checkpoint: Checkpoint, call: ToolCall) -> ToolStarted:
    """The digest is that of the arguments that run, computed now."""
    grant = call.grant
    return ToolStarted(
        session=checkpoint.session_id,
        call=call.id,
        tool=call.name,
        user=checkpoint.request.user_id,
        arguments_digest=digest(call.arguments),
        request=None if grant is None else grant.request_id,
        decided_by=None if grant is None else grant.decided_by,
        edited=grant is not None and grant.edited,
    )
