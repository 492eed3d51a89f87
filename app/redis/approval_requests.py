"""Approval requests in Redis (CONTRACT §5): `ports.decisions.ApprovalRequests`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from app.errors import StorageUnavailable
from app.ports.clock import Clock
from app.ports.decisions import ApprovalRequest, RequestStatus
from app.redis import keys, scripts
from app.redis.seals import DECISION_FIELDS, RequestSeal
from app.redis.sender_diagnostics import SenderDiagnostics
from app.redis.tasks import link_command
from app.redis.wire.acknowledgements import Acknowledgements
from app.redis.wire.connection import Connection
from app.redis.wire.script import Command
from statemachine.checkpoint import Approval, Checkpoint
from statemachine.decisions import Decision, parse_stored_decision
from statemachine.foreign_json import ForeignJsonInvalid, parse_object, read_number, read_text
from statemachine.frames import compact_json
from statemachine.stored import JsonObject

log = structlog.get_logger(__name__)

REQUEST_TTL_SECONDS = 30 * 60
SESSION_TTL_SECONDS = 60 * 60
SIGNAL_TTL_SECONDS = 5 * 60
_SWAP_ATTEMPTS = 20
"""Another program may write a request again and again; nothing waits for it to stop."""
_STATUSES = {status.value: status for status in RequestStatus}
_DECIDED = (RequestStatus.APPROVED, RequestStatus.REJECTED)


class RedisApprovalRequests:
    """The keys `hitl:request:*` and `hitl:signal:*`. Methods raise `StorageUnavailable`."""

    def __init__(
        self,
        connection: Connection,
        seal: RequestSeal,
        diagnostics: SenderDiagnostics,
        clock: Clock,
        acknowledgements: Acknowledgements,
    ) -> None:
        self._connection = connection
        self._acknowledgements = acknowledgements
        self._seal = seal
        self._diagnostics = diagnostics
        self._clock = clock
        self._swap = connection.register(scripts.SWAP)

    @property
    def signals_decide(self) -> bool:
        """Whether a signal alone decides. It does not where decisions need a MAC, which only a request can hold."""
        return not self._seal.needs_decision_mac

    async def get(self, request_id: str) -> ApprovalRequest | None:
        (request,) = await self.get_many([request_id])
        return request

    async def get_many(self, request_ids: Sequence[str]) -> list[ApprovalRequest | None]:
        found = await self._connection.get_many([keys.hitl_request(id) for id in request_ids])
        return [self.parse(id, raw) for id, raw in zip(request_ids, found, strict=True)]

    async def restore(self, checkpoint: Checkpoint, approval: Approval, deadline_at: float) -> bytes | None:
        """Store the request of a waiting run again, which a failover has lost: nobody could decide it. Returns it."""
        task_id = await self._connection.execute("HGET", keys.run(checkpoint.session_id), "task")
        raw, (store, *others) = self.writes(checkpoint, approval, deadline_at, task_id.decode() if task_id else None)
        if await self._connection.execute(*store, "NX") is not None:
            await self._connection.pipeline(others)
            log.warning("request.restored", requestId=approval.request_id, sessionId=checkpoint.session_id)
            return raw
        (stored,) = await self._connection.get_many([keys.hitl_request(approval.request_id)])
        return stored

    def writes(
        self, checkpoint: Checkpoint, approval: Approval, deadline_at: float, task_id: str | None
    ) -> tuple[bytes, list[Command]]:
        """Return a new request as it is stored, and the commands that store it, the request itself first."""
        request = self._seal.seal(new_request(checkpoint, approval, deadline_at, task_id))
        owner = {name: request[name] for name in ("sessionId", "requestId", "userId", "tenantId")}
        raw, session_key = compact_json(request).encode("utf-8", "replace"), keys.hitl_session(checkpoint.session_id)
        return raw, [
            ("SET", keys.hitl_request(approval.request_id), raw, "EX", REQUEST_TTL_SECONDS),
            ("SET", session_key, compact_json(owner), "EX", SESSION_TTL_SECONDS),
            *([] if task_id is None else [link_command(task_id, approval.request_id)]),
        ]

    def parse(self, request_id: str, raw: bytes | None) -> ApprovalRequest | None:
        """Parse a stored request, within bounds; None where there is none, or what is stored is none."""
        if raw is None:
            return None
        self._diagnostics.notice(raw, "An approval request")
        try:
            stored = parse_object(raw)
        except ForeignJsonInvalid:
            return None
        status = _STATUSES.get(str(stored.get("status")).lower(), RequestStatus.PENDING)
        decision = self._decision(request_id, stored) if status in _DECIDED else None
        counts = decision is not None if status in _DECIDED else self._seal.may_be_closed(stored)
        if not counts:  # it is as if it were absent
            stored, status = _without_decision(stored), RequestStatus.PENDING
        context = stored.get("context")
        return ApprovalRequest(
            request_id=request_id,
            session_id=_text(stored, "sessionId"),
            user_id=_text(stored, "userId"),
            tenant_id=_text(stored, "tenantId"),
            action_type=_text(stored, "actionType"),
            arguments=context if isinstance(context, dict) else {},
            arguments_digest=_text(stored, "argumentsDigest"),
            status=status,
            expires_at=_expires_at(stored),
            reason=read_text(stored, "reason"),
            is_intact=self._seal.is_intact(request_id, stored),
            decision=decision,
            stored=stored,
            raw=raw.decode(),
        )

    def _decision(self, request_id: str, stored: JsonObject) -> Decision | None:
        """Return the decision in a stored request, or None where it does not count.

        Only a decision that this service has recorded can change the arguments or skip the call.
        """
        asked_at = (read_number(stored, "createdAt") or 0.0) / 1000
        decision = parse_stored_decision(stored, request_id=request_id, asked_at=asked_at, now=self._clock.now())
        if decision is not None and self._seal.is_own_decision(stored):
            return replace(decision, via="http", arguments=stored.get("params"), skip=stored.get("skip") is True)
        return decision if self._seal.is_authentic(stored) else None

    async def decide(
        self, request: ApprovalRequest, decision: Decision, on_recorded: Callable[[], None] = lambda: None
    ) -> tuple[ApprovalRequest, bool]:
        decided, is_first = await self.record(request, decision)
        if is_first:
            on_recorded()
            if not await self._acknowledgements.has(keys.hitl_request(request.request_id), decided.raw):
                raise StorageUnavailable("the replicas of Redis have not acknowledged the decision; it may count")
            await self._publish(decided, decision)
        return decided, is_first

    async def record(self, request: ApprovalRequest, decision: Decision) -> tuple[ApprovalRequest, bool]:
        """Store a decision by compare-and-set, without publishing it.

        Returns the request with the decision that counts, and whether it is this one: an earlier decision stays, and
        after the deadline the status is `expired`.

        Two decisions may be equal to the millisecond, so each gets an id of its own.
        """
        decision_id = secrets.token_hex(8)
        for _ in range(_SWAP_ATTEMPTS):
            if request.status is not RequestStatus.PENDING or not request.is_intact:
                return request, False
            if decision.decided_at >= request.expires_at:
                break
            wanted = self._with_decision(request.stored, decision, decision_id)
            current = await self._compare_and_set(request, wanted)
            if current is None:
                break
            if current.raw == wanted:
                return current, True
            request = current
        return replace(request, status=RequestStatus.EXPIRED), False

    async def close(self, request_id: str, status: RequestStatus) -> ApprovalRequest | None:
        request = await self.get(request_id)
        for _ in range(_SWAP_ATTEMPTS):
            if request is None or request.status is not RequestStatus.PENDING:
                break
            closed = {**_without_decision(request.stored), "status": status.value}
            wanted = _json(self._seal.seal_decision(closed))
            request = await self._compare_and_set(request, wanted)
            if request is not None and request.raw == wanted:
                return None
        return request

    async def get_signal(self, session_id: str) -> str | None:
        (raw,) = await self._connection.get_many([keys.hitl_signal(session_id)])
        if raw is None:
            return None
        self._diagnostics.notice(raw, "A stored signal")
        with suppress(ForeignJsonInvalid):  # what is no JSON object within the bounds is as if it were absent
            parse_object(raw)
            return raw.decode()
        return None

    async def _publish(self, request: ApprovalRequest, decision: Decision) -> None:
        """Store the signal of a decision and publish it on the session's channel."""
        approved = decision.verdict == "approved"
        signal: JsonObject = {
            "type": "approval" if approved else "rejection",
            "requestId": request.request_id,
            "status": decision.verdict,
            "timestamp": int(decision.decided_at),
        }
        if decision.reason is not None:
            signal["reason"] = decision.reason
        raw = _json(signal)
        await self._connection.pipeline(
            [
                ("SET", keys.hitl_signal(request.session_id), raw, "EX", SIGNAL_TTL_SECONDS),
                ("PUBLISH", keys.hitl_channel(request.session_id), raw),
            ]
        )

    async def _compare_and_set(self, request: ApprovalRequest, wanted: str) -> ApprovalRequest | None:
        """Replace a request that is still as it was read. Returns what is stored then."""
        key = keys.hitl_request(request.request_id)
        raw = await self._connection.run_script(self._swap, value_key=key, expected=request.raw, wanted=wanted)
        return self.parse(request.request_id, raw)

    def _with_decision(self, request: JsonObject, decision: Decision, decision_id: str) -> str:
        """Return the stored request with the fields that the decider sets (CONTRACT §5).

        A decision by HTTP carries a MAC; without one, nothing counts but its verdict, its reason and what it tells of
        its decider.
        """
        by, at = ("approvedBy", "approvedAt") if decision.verdict == "approved" else ("rejectedBy", "rejectedAt")
        stored = _without_decision(request)
        stored |= {"status": decision.verdict, at: int(decision.decided_at * 1000), "decisionId": decision_id}
        for name, value in ((by, decision.decided_by), ("reason", decision.reason), ("params", decision.arguments)):
            if value is not None:
                stored[name] = value
        if decision.skip:
            stored["skip"] = True
        return _json(self._seal.seal_decision(stored) if decision.via == "http" else stored)


def new_request(checkpoint: Checkpoint, approval: Approval, deadline_at: float, task_id: str | None) -> JsonObject:
    """Build the JSON of a new request (CONTRACT §5), without its MAC. `deadline_at` is Unix seconds."""
    request = checkpoint.request
    call = checkpoint.call(approval.call_id)
    position, total = checkpoint.approval_place
    stored: JsonObject = {
        "requestId": approval.request_id,
        "sessionId": checkpoint.session_id,
        "userId": request.user_id,
        "tenantId": request.tenant_id,
        "actionType": approval.action_type,
        "message": approval.message,
        "context": call.shown_arguments if call else {},
        "argumentsDigest": approval.arguments_digest,
        "position": position,
        "total": total,
        "warnings": call.warnings_as_json() if call else [],
        "outcomeUnknown": approval.outcome_unknown,
        "status": RequestStatus.PENDING.value,
        "createdAt": int(checkpoint.updated_at * 1000),
        "expiresAt": int(deadline_at),
        "expiresAtMillis": int(deadline_at * 1000),
    }
    return stored if task_id is None else {**stored, "taskId": task_id}


def _without_decision(stored: JsonObject) -> JsonObject:
    """Return a request as it was before anybody decided it."""
    dropped = (*DECISION_FIELDS, "auraMac", "decisionMac")
    kept = {name: value for name, value in stored.items() if name not in dropped}
    return {**kept, "status": RequestStatus.PENDING.value}


def _json(value: JsonObject) -> str:
    """Return JSON that can be stored: half a character, which UTF-8 does not have, is replaced."""
    return compact_json(value).encode("utf-8", "replace").decode()


def _text(stored: JsonObject, name: str) -> str:
    """Return an identifier, which another system may have written as a number; empty where there is none."""
    value = stored.get(name)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _expires_at(stored: JsonObject) -> float:
    """Return Unix seconds; infinity where another system wrote the request without a readable deadline."""
    precise = read_number(stored, "expiresAtMillis")
    seconds = read_number(stored, "expiresAt") if precise is None else precise / 1000
    return float("inf") if seconds is None else seconds
