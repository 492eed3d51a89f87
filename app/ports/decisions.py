"""Approval requests and the decisions about them (CONTRACT §5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from statemachine.checkpoint import Approval, Checkpoint, JsonObject
from statemachine.decisions import Decision


class RequestStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """`hitl:request:{requestId}` (§5). `raw` is the stored JSON, as other systems see it."""

    request_id: str
    session_id: str
    user_id: str
    tenant_id: str
    action_type: str
    arguments: JsonObject
    status: RequestStatus
    expires_at: float
    reason: str | None
    raw: str

    @property
    def is_decided(self) -> bool:
        """Whether a person's decision is recorded in it."""
        return self.status in (RequestStatus.APPROVED, RequestStatus.REJECTED)


class DecisionBus(Protocol):
    """Approval requests out, people's decisions in (§5). Of a run that waits only the ids are kept."""

    on_news: Callable[[str], None]

    @property
    def sender_hints(self) -> list[str]:
        """What an operator should put right about those who send decisions; empty where all is well."""
        ...

    async def open_request(
        self, checkpoint: Checkpoint, approval: Approval, deadline_at: float, *, task_id: str | None = None
    ) -> None:
        """Save the request and hold the subscription, acknowledged, before anyone hears of it."""
        ...

    async def watch(self, session_id: str, request_id: str) -> None:
        """Hold the subscription, acknowledged, and look at the keys then and now and again, until `forget`.

        `on_news` is called with the session for whatever may decide the request.
        """
        ...

    def has_news(self, session_id: str) -> bool:
        """Whether there is something that `look` was not yet asked about."""
        ...

    async def saved(self, session_id: str) -> Checkpoint | None:
        """The checkpoint of a watched run; read together with the keys that the next `look` judges."""
        ...

    async def look(self, session_id: str, until: float, accept: Callable[[Decision], None]) -> Decision | None:
        """The decision in what was heard or is stored, if it came before `until` (Unix s). With it the watch ends.

        `accept` raises `SignalIgnored` for a decision that cannot be followed; it is counted and waited on.
        """
        ...

    async def close_request(
        self, request_id: str, status: RequestStatus, deadline_at: float | None = None
    ) -> Decision | None:
        """Close a request that is still pending; the decision that was faster (and in time), if there was one."""
        ...

    def unwatch(self, session_id: str) -> None:
        """Watch this session no more."""
        ...

    async def get_request(self, request_id: str) -> ApprovalRequest | None: ...

    async def decide(self, request: ApprovalRequest, decision: Decision) -> tuple[ApprovalRequest, bool]:
        """Record the first decision and publish it. The request with the decision that counts, and whether it is this.

        After the deadline nothing is recorded and the status is `expired`.
        """
        ...

    async def get_signal(self, session_id: str) -> str | None:
        """The last signal of a session, as stored."""
        ...

    async def get_session_owner(self, session_id: str) -> tuple[str, str] | None:
        """`(tenant_id, user_id)` of a session that asked for an approval."""
        ...
