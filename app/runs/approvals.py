"""Decisions by HTTP (§5): who may decide what, and what he is told."""

from __future__ import annotations

from app.errors import NotFound, PermissionDenied
from app.ports.clock import Clock
from app.ports.decisions import ApprovalRequest, DecisionBus, RequestStatus
from app.ports.identity import Principal
from app.ports.journal import Journal
from app.ports.tools import Toolbox
from statemachine.checkpoint import JsonObject
from statemachine.decisions import Decision, Verdict


class ApprovalService:
    """The same answers as the Main Service gives from the same keys."""

    def __init__(
        self, decisions: DecisionBus, journal: Journal, tools: Toolbox, clock: Clock, approver_roles: frozenset[str]
    ) -> None:
        self._decisions = decisions
        self._journal = journal
        self._tools = tools
        self._clock = clock
        self._approver_roles = approver_roles

    async def request(self, principal: Principal, request_id: str) -> ApprovalRequest:
        """Raises `NotFound`, `PermissionDenied`."""
        request = await self._decisions.get_request(request_id)
        if request is None:
            raise NotFound(f"there is no approval request {request_id[:80]}")
        self._allow(principal, request.tenant_id, request.user_id)
        return request

    async def decide(
        self,
        principal: Principal,
        request_id: str,
        verdict: Verdict,
        *,
        reason: str | None = None,
        arguments: JsonObject | None = None,
        skip: bool = False,
    ) -> tuple[ApprovalRequest, bool]:
        """The request as decided, and whether by this call; an earlier decision stands.

        `skip`, with a rejection: this call is not run, the run goes on.

        Raises `NotFound`, `PermissionDenied`, and of an open request `FieldInvalid` (edited arguments do not fit).
        """
        request = await self.request(principal, request_id)
        now = self._clock.now()
        if arguments is not None and request.status is RequestStatus.PENDING and now < request.expires_at:
            self._tools.validate_edit(request.action_type, arguments, request.arguments)
        decision = Decision(
            verdict=verdict,
            request_id=request_id,
            decided_at=now,
            decided_by=principal.user_id,
            reason=reason,
            arguments=arguments,
            skip=skip,
        )
        return await self._decisions.decide(request, decision)

    async def signal(self, principal: Principal, session_id: str) -> str | None:
        """The last signal, as stored; None: there is none yet. Raises `NotFound`, `PermissionDenied`."""
        owner = await self._decisions.get_session_owner(session_id)
        if owner is None:
            record = await self._journal.get_record(session_id)
            if record is None:
                raise NotFound(f"there is no session {session_id[:120]}")
            owner = record.tenant_id, record.user_id
        self._allow(principal, *owner)
        return await self._decisions.get_signal(session_id)

    def _allow(self, principal: Principal, tenant_id: str, user_id: str) -> None:
        if tenant_id != principal.tenant_id:
            raise PermissionDenied("it belongs to another tenant")
        if user_id != principal.user_id and principal.role not in self._approver_roles:
            raise PermissionDenied("only the run's owner or an approver may see and decide it")
