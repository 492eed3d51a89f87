"""Decisions by HTTP (CONTRACT §5): see an approval request, decide it, see the last signal."""

from __future__ import annotations

from app.errors import NotFound
from app.ports.clock import Clock
from app.ports.decisions import ApprovalRequest, ApprovalRequests, RequestStatus
from app.ports.identity import Principal
from app.ports.journal import Journal
from app.ports.tools import Toolbox
from app.runs.access import AccessPolicy, Owner
from statemachine.checkpoint import JsonObject
from statemachine.decisions import Decision, Verdict


class ApprovalService:
    """Gives the same answers as the Main Service does from the same Redis keys."""

    def __init__(
        self, requests: ApprovalRequests, journal: Journal, tools: Toolbox, clock: Clock, access: AccessPolicy
    ) -> None:
        self._requests = requests
        self._journal = journal
        self._tools = tools
        self._clock = clock
        self._access = access

    async def request(self, principal: Principal, request_id: str) -> ApprovalRequest:
        """Return an approval request. Raises `NotFound`, `PermissionDenied`."""
        request, unknown = await self._requests.get(request_id), f"there is no approval request {request_id[:80]}"
        if request is None:
            raise NotFound(unknown)
        self._access.check(principal, (request.tenant_id, request.user_id), unknown)
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
        """Decide a request. Returns it as decided, and whether by this call: an earlier decision stays valid.

        `arguments` replace those of the tool. `skip`, with a rejection, continues the run without this call.
        Raises `NotFound`, `PermissionDenied`, and for an open request `FieldInvalid` where edited arguments do not fit.
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
        return await self._requests.decide(request, decision)

    async def signal(self, principal: Principal, session_id: str) -> str | None:
        """Return the last signal of a session as stored. None where there is none, also for a session that does not
        exist for the caller (§5). Raises `PermissionDenied`."""
        record = await self._journal.get_record(session_id)
        if record is not None:
            owner: Owner | None = (record.tenant_id, record.user_id)
        else:  # a session of another service; what it writes about one of ours does not count
            owner = await self._requests.get_session_owner(session_id)
        if owner is None or not self._access.exists(principal, owner):
            return None
        self._access.check(principal, owner)
        return await self._requests.get_signal(session_id)
