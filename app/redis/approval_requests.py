"""Approval requests in Redis (CONTRACT §5): `ports.decisions.ApprovalRequests`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from app.ports.clock import Clock
from app.ports.decisions import ApprovalRequest, RequestStatus
from app.redis import keys, scripts
from app.redis.sender_diagnostics import SenderDiagnostics
from app.redis.wire.connection import Connection
from statemachine.checkpoint import Approval, Checkpoint, JsonObject
from statemachine.decisions import Decision, SignalIgnored, parse_signal
from statemachine.frames import compact_json

REQUEST_TTL_SECONDS = 30 * 60
SESSION_TTL_SECONDS = 60 * 60
SIGNAL_TTL_SECONDS = 5 * 60
_STATUSES = {status.value: status for status in RequestStatus}


class RedisApprovalRequests:
    """The keys `hitl:request:*`, `hitl:session:*` and `hitl:signal:*`. Methods raise `StorageUnavailable`."""

    def __init__(self, connection: Connection, diagnostics: SenderDiagnostics, clock: Clock) -> None:
        self._connection = connection
        self._diagnostics = diagnostics
        self._clock = clock
        self._swap = connection.register(scripts.SWAP)

    async def get(self, request_id: str) -> ApprovalRequest | None:
        (request,) = await self.get_many([request_id])
        return request

    async def get_many(self, request_ids: Sequence[str]) -> list[ApprovalRequest | None]:
        found = await self._connection.get_many([keys.hitl_request(id) for id in request_ids])
        return [self.parse(id, raw) for id, raw in zip(request_ids, found, strict=True)]

    def parse(self, request_id: str, raw: bytes | None) -> ApprovalRequest | None:
        """Parse a stored request. Unreadable JSON counts as no request; the run's deadline still holds."""
        if raw is None:
            return None
        self._diagnostics.notice(raw, "An approval request")
        stored = json_object(raw)
        return _parsed(request_id, raw, stored) if stored else None

    async def decide(self, request: ApprovalRequest, decision: Decision) -> tuple[ApprovalRequest, bool]:
        decided, is_first = await self.record(request, decision)
        if is_first:
            await self._publish(decided, decision)
        return decided, is_first

    async def record(self, request: ApprovalRequest, decision: Decision) -> tuple[ApprovalRequest, bool]:
        """Store a decision by compare-and-set, without publishing it.

        Returns the request with the decision that counts, and whether it is this one: an earlier decision stays, and
        after the deadline the status is `expired`.

        Two decisions may be equal to the millisecond, so each gets an id of its own.
        """
        decision_id = secrets.token_hex(8)
        while request.status is RequestStatus.PENDING:
            if decision.decided_at >= request.expires_at:
                return replace(request, status=RequestStatus.EXPIRED), False
            wanted = _with_decision(request.raw, decision, decision_id)
            current = await self._compare_and_set(request, wanted)
            if current is None:
                return replace(request, status=RequestStatus.EXPIRED), False
            if current.raw == wanted:
                return current, True
            request = current
        return request, False

    async def close(self, request_id: str, status: RequestStatus, deadline_at: float | None = None) -> Decision | None:
        request = await self.get(request_id)
        while request is not None and request.status is RequestStatus.PENDING:
            wanted = compact_json({**json_object(request.raw), "status": status.value})
            request = await self._compare_and_set(request, wanted)
            if request is None or request.raw == wanted:
                return None
        decision = self._recorded_decision(request) if request is not None else None
        in_time = decision is not None and (deadline_at is None or decision.decided_at < deadline_at)
        return decision if in_time else None

    async def get_signal(self, session_id: str) -> str | None:
        (raw,) = await self._connection.get_many([keys.hitl_signal(session_id)])
        if raw is None:
            return None
        self._diagnostics.notice(raw, "A stored signal")
        return raw.decode("utf-8", "replace")

    async def get_session_owner(self, session_id: str) -> tuple[str, str] | None:
        (raw,) = await self._connection.get_many([keys.hitl_session(session_id)])
        if raw is None:
            return None
        stored = json_object(raw)
        return str(stored.get("tenantId")), str(stored.get("userId"))

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
        raw = compact_json(signal)
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

    def _recorded_decision(self, request: ApprovalRequest) -> Decision | None:
        now = self._clock.now()
        try:
            return parse_signal(request.raw, request_id=request.request_id, received_at=now, is_live=False)
        except SignalIgnored:
            return None


def new_request(checkpoint: Checkpoint, approval: Approval, deadline_at: float, task_id: str | None) -> JsonObject:
    """Build the JSON of a new request (CONTRACT §5). `deadline_at` is Unix seconds."""
    request = checkpoint.request
    call = checkpoint.call(approval.call_id)
    stored: JsonObject = {
        "requestId": approval.request_id,
        "sessionId": checkpoint.session_id,
        "userId": request.user_id,
        "tenantId": request.tenant_id,
        "actionType": approval.action_type,
        "message": approval.message,
        "context": call.shown_arguments if call else {},
        "status": RequestStatus.PENDING.value,
        "createdAt": int(checkpoint.updated_at * 1000),
        "expiresAt": int(deadline_at),
        "expiresAtMillis": int(deadline_at * 1000),
    }
    return stored if task_id is None else {**stored, "taskId": task_id}


def json_object(raw: bytes | str) -> dict[str, Any]:
    """Parse a JSON object, also one that was encoded twice; empty where it is none."""
    try:
        stored = json.loads(raw)
        if isinstance(stored, str):
            stored = json.loads(stored)
    except (ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _with_decision(raw: str, decision: Decision, decision_id: str) -> str:
    """Return the stored request with the fields that the decider sets (CONTRACT §5)."""
    by, at = ("approvedBy", "approvedAt") if decision.verdict == "approved" else ("rejectedBy", "rejectedAt")
    stored = json_object(raw)
    stored |= {"status": decision.verdict, at: int(decision.decided_at * 1000), "decisionId": decision_id}
    for name, value in ((by, decision.decided_by), ("reason", decision.reason), ("params", decision.arguments)):
        if value is not None:
            stored[name] = value
    if decision.skip:
        stored["skip"] = True
    return compact_json(stored)


def _parsed(request_id: str, raw: bytes | str, stored: JsonObject) -> ApprovalRequest:
    status = str(stored.get("status")).lower()
    context = stored.get("context")
    return ApprovalRequest(
        request_id=request_id,
        session_id=str(stored.get("sessionId", "")),
        user_id=str(stored.get("userId", "")),
        tenant_id=str(stored.get("tenantId", "")),
        action_type=str(stored.get("actionType", "")),
        arguments=context if isinstance(context, dict) else {},
        status=_STATUSES.get(status, RequestStatus.PENDING),
        expires_at=_expires_at(stored),
        reason=stored["reason"] if isinstance(stored.get("reason"), str) else None,
        raw=raw if isinstance(raw, str) else raw.decode("utf-8", "replace"),
    )


def _expires_at(stored: JsonObject) -> float:
    """Return Unix seconds; infinity where another system wrote the request without a deadline."""
    precise, seconds = stored.get("expiresAtMillis"), stored.get("expiresAt")
    if isinstance(precise, int):
        return precise / 1000
    return float(seconds) if isinstance(seconds, (int, float)) else float("inf")
