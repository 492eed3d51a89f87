"""Decisions by HTTP (CONTRACT §5): see an approval request, decide it, see the last signal."""

from __future__ import annotations

from dataclasses import replace

import structlog

from app.errors import FieldInvalid, NotFound, RecordChanged
from app.ports.audit import AuditTrail, DecisionMade
from app.ports.clock import Clock
from app.ports.decisions import ApprovalRequest, ApprovalRequests, RequestStatus
from app.ports.identity import NO_ORIGIN, Origin, Principal
from app.ports.journal import Journal
from app.ports.tools import Toolbox
from app.runs.access import AccessPolicy
from app.runs.audit_events import decision_made
from app.runs.changed_records import changed_request
from statemachine.approvals import DEFAULT_REASON
from statemachine.checkpoint import Checkpoint
from statemachine.decisions import Decision, Verdict
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable
from statemachine.stored import JsonObject

_DECIDER_FIELDS = frozenset({"approvedBy", "approvedAt", "rejectedBy", "rejectedAt", "reason"})
_STATUSES = {
    "approved": RequestStatus.APPROVED,
    "rejected": RequestStatus.REJECTED,
    "expired": RequestStatus.EXPIRED,
}
"""The status of a request by the verdict in its run; without one it was cancelled with its run."""

log = structlog.get_logger(__name__)


class ApprovalService:
    """Gives the same answers as the Main Service does from the same Redis keys."""

    def __init__(
        self,
        requests: ApprovalRequests,
        journal: Journal,
        tools: Toolbox,
        clock: Clock,
        access: AccessPolicy,
        audit: AuditTrail,
    ) -> None:
        self._audit = audit
        self._requests = requests
        self._journal = journal
        self._tools = tools
        self._clock = clock
        self._access = access

    async def request(self, principal: Principal, request_id: str) -> ApprovalRequest:
        """Return an approval request.

        Raises `NotFound`, also for what belongs to another tenant, `PermissionDenied`, and `RecordChanged` where
        another program has changed what the request shows: such a request cannot be decided.
        """
        request, unknown = await self._requests.get(request_id), f"there is no approval request {request_id[:80]}"
        if request is None:
            raise NotFound(unknown)
        self._access.check(principal, (request.tenant_id, request.user_id), unknown)
        if not request.is_intact:
            log.warning("record.changed", requestId=request_id[:80], sessionId=request.session_id[:120])
            raise RecordChanged(f"the approval request {request_id[:80]} does not show what would run")
        return await self._unless_expired(request) if request.is_decided else request

    async def _unless_expired(self, request: ApprovalRequest) -> ApprovalRequest:
        """Return a decided request as expired where its run knows better: the Main Service writes a decision over
        `expired`, too, and that changes nothing (CONTRACT §5)."""
        try:
            checkpoint = await self._journal.load(request.session_id)
        except (CheckpointTooNew, CheckpointUnreadable, RecordChanged):
            return request
        reviews = [] if checkpoint is None else checkpoint.reviews
        if any(each.request_id == request.request_id and each.verdict == "expired" for each in reviews):
            stored = {name: value for name, value in request.stored.items() if name not in _DECIDER_FIELDS}
            stored["status"] = RequestStatus.EXPIRED.value
            return replace(request, status=RequestStatus.EXPIRED, reason=None, decision=None, stored=stored)
        return request

    async def decide(
        self,
        principal: Principal,
        request_id: str,
        verdict: Verdict,
        *,
        arguments_digest: str | None = None,
        reason: str | None = None,
        arguments: JsonObject | None = None,
        skip: bool = False,
        origin: Origin = NO_ORIGIN,
    ) -> tuple[ApprovalRequest, bool]:
        """Decide a request. Returns it as decided, and whether by this call: an earlier decision stays valid.

        `arguments_digest` is that of the arguments which the person saw. `arguments` replace those of the tool. `skip`,
        with a rejection, continues the run without this call. Raises what `request` raises, `RecordChanged` where the
        run is not as this service saved it, and for an open request `FieldInvalid` where the digest is another one or
        edited arguments do not fit: then it stays open.
        """
        request, trace_id = await self._of_its_run(await self.request(principal, request_id))
        now, edited = self._clock.now(), None
        if request.status is RequestStatus.PENDING and now < request.expires_at:
            if arguments_digest is not None and arguments_digest != request.arguments_digest:
                raise FieldInvalid("argumentsDigest: it is not that of this request; show the request again")
            if arguments is not None:
                edited = self._tools.validate_edit(request.action_type, arguments, request.arguments).arguments
        decision = Decision(
            verdict=verdict,
            request_id=request_id,
            decided_at=now,
            decided_by=principal.user_id,
            reason=reason or (DEFAULT_REASON if verdict == "rejected" else None),
            arguments=arguments,
            skip=skip,
        )
        made = decision_made(principal, origin, request, decision, edited)
        # Between the record of the decision and its message, so that it comes before what the run does then.
        return await self._requests.decide(
            request, decision, on_recorded=lambda: self._record(made, request.tenant_id, trace_id)
        )

    def _record(self, made: DecisionMade, tenant_id: str, trace_id: str | None) -> None:
        self._audit.record(tenant_id, made)
        _log_decision(made, tenant_id, trace_id)

    async def _of_its_run(self, request: ApprovalRequest) -> tuple[ApprovalRequest, str | None]:
        """Return a request as its run knows it, with the run's trace id where that is known: an older copy of one that
        is closed may have been put back.

        Where another program has changed what would run, the request is closed, so that its run looks at it and ends.
        Raises `RecordChanged` then.
        """
        if request.status is not RequestStatus.PENDING:
            return request, None
        try:
            checkpoint = await self._journal.load(request.session_id)
            closed = _closed(request, checkpoint)
        except (CheckpointTooNew, CheckpointUnreadable):
            return request, None  # the node that writes the run can read it
        except RecordChanged:
            await self._requests.close(request.request_id, RequestStatus.CANCELLED)
            raise
        if checkpoint is None:
            await self._requests.close(request.request_id, RequestStatus.CANCELLED)
        return closed or request, None if checkpoint is None else checkpoint.request.trace_id

    async def signal(self, principal: Principal, session_id: str) -> str | None:
        """Return the last signal of a session as stored; None where there is none, or no such session in this tenant.

        Raises `PermissionDenied`. The owner is known from the run's record: other programs write `hitl:session:`.
        """
        record = await self._journal.get_record(session_id)
        if record is None or not self._access.exists(principal, owner := (record.tenant_id, record.user_id)):
            return None
        self._access.check(principal, owner)
        return await self._requests.get_signal(session_id)


def _log_decision(made: DecisionMade, tenant_id: str, trace_id: str | None) -> None:
    """Log a decision under the trace id of its run, which the line of the request itself does not have."""
    log.info(
        "approval.decided",
        sessionId=made.session,
        tenantId=tenant_id,
        requestId=made.request,
        tool=made.tool,
        verdict=made.verdict,
        userId=made.user,
        role=made.role,
        via=made.via,
        edited=made.edited,
        **({} if trace_id is None else {"traceId": trace_id}),
    )


def _closed(request: ApprovalRequest, checkpoint: Checkpoint | None) -> ApprovalRequest | None:
    """Return a pending request as its run has closed it, None where the run waits for it, or is about to.

    Raises `RecordChanged` where the request does not show what would run.
    """
    if checkpoint is None:
        return replace(request, status=RequestStatus.CANCELLED)
    approval = checkpoint.open_approval
    if approval is not None and approval.request_id == request.request_id:
        if not request.shows(approval):
            raise changed_request(request.request_id)
        return None
    review = next((each for each in checkpoint.reviews if each.request_id == request.request_id), None)
    verdict = None if review is None else review.verdict
    if verdict is None and not checkpoint.state.is_final:
        return None  # a request is stored before the step of its run that waits for it
    reason = None if review is None else review.reason
    return replace(request, status=_STATUSES.get(verdict or "", RequestStatus.CANCELLED), reason=reason)
