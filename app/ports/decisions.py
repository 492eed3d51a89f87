"""Approval requests and the decisions about them (CONTRACT §5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from statemachine.checkpoint import Approval, Checkpoint
from statemachine.decisions import Decision
from statemachine.foreign_json import read_number
from statemachine.stored import JsonObject, digest


class RequestStatus(StrEnum):
    """The status of an approval request, as `hitl:request:{requestId}` spells it."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """One approval request, parsed from `hitl:request:{requestId}` (CONTRACT §5).

    `expires_at` is Unix seconds, infinity where the stored value has none. `is_intact`: what the request shows is what
    this service wrote; another program has changed any other one, and nobody can decide it. `decision` is the decision
    that counts. `stored` are the stored fields, without a decision that does not count; `raw` is the stored text.
    """

    request_id: str
    session_id: str
    user_id: str
    tenant_id: str
    action_type: str
    arguments: JsonObject
    arguments_digest: str
    status: RequestStatus
    expires_at: float
    reason: str | None
    is_intact: bool
    decision: Decision | None
    stored: JsonObject
    raw: str

    @property
    def is_decided(self) -> bool:
        """Whether a person has approved or rejected the request; False if it has expired or was cancelled."""
        return self.status in (RequestStatus.APPROVED, RequestStatus.REJECTED)

    def shows(self, approval: Approval) -> bool:
        """Whether this is the request of this approval, as this service wrote it, with the arguments that would run.

        A request of an older release names no digest: then the arguments themselves must be those.
        """
        shown = self.arguments_digest or digest(self.arguments)
        return self.is_intact and self.request_id == approval.request_id and shown == approval.arguments_digest

    @property
    def place(self) -> tuple[int, int]:
        """Which of the approvals of its turn this is, from 1, and their number; `(1, 1)` where that is not stored."""
        position, total = (int(read_number(self.stored, name) or 1) for name in ("position", "total"))
        return position, max(position, total)


@dataclass(frozen=True, slots=True)
class Taken:
    """What storage holds of a watched run: its checkpoint, None if it is gone, and the decision, if one counts.

    `is_changed`: the open request does not show what would run, since another program has changed it.
    """

    checkpoint: Checkpoint | None
    decision: Decision | None = None
    is_changed: bool = False


class ApprovalRequests(Protocol):
    """The stored approval requests (CONTRACT §5). Every method raises `StorageUnavailable`.

    A request is decided or closed once: the first one counts, whatever process it comes from. All others get that one.
    """

    async def get(self, request_id: str) -> ApprovalRequest | None:
        """Return the request, or None where it does not exist or cannot be read."""
        ...

    async def get_many(self, request_ids: Sequence[str]) -> list[ApprovalRequest | None]:
        """Return several requests in order, as `get` returns one."""
        ...

    async def decide(
        self, request: ApprovalRequest, decision: Decision, on_recorded: Callable[[], None] = lambda: None
    ) -> tuple[ApprovalRequest, bool]:
        """Record the decision unless there is one already, call `on_recorded`, and publish it.

        Returns the request with the decision that counts, and whether it is this one. After the deadline nothing is
        recorded and the status is `expired`. A decision that was recorded counts even if it cannot be published, for
        example because `on_recorded` raises or this process ends: `DecisionBus` finds it.
        """
        ...

    async def close(self, request_id: str, status: RequestStatus) -> ApprovalRequest | None:
        """Close a request that is still pending. Returns it as it is stored if somebody has closed or decided it first,
        None if it did not exist or was closed by this call."""
        ...

    async def get_signal(self, session_id: str) -> str | None:
        """Return the last signal of a session as stored, or None: what is no JSON object in bounds counts as none."""
        ...


class DecisionBus(Protocol):
    """Opens approval requests for runs and watches for the decisions about them (CONTRACT §5).

    No decision is lost: not one that was made before the watch began or before the commit that shows the request, nor
    one whose message nobody received. Such a one is found within seconds.

    For a run that waits only its ids are kept in memory. Every method raises `StorageUnavailable` where storage does
    not answer in time.
    """

    def subscribe(self, on_news: Callable[[str], None]) -> None:
        """Register the callback that gets the session id of a watched run whenever something may decide its request.
        Call it once, before the bus starts."""
        ...

    @property
    def sender_hints(self) -> list[str]:
        """Advice for operators about programs that send unreadable decisions; empty where there are none."""
        ...

    async def open_request(
        self, checkpoint: Checkpoint, approval: Approval, deadline_at: float, *, task_id: str | None = None
    ) -> None:
        """Save the request and subscribe to its channel, acknowledged, before any client can see the `hitl` event.

        `deadline_at` is Unix seconds.
        """
        ...

    async def watch(self, session_id: str, request_id: str) -> None:
        """Subscribe to the session's channel, acknowledged, and check its keys every few seconds, until `unwatch`."""
        ...

    async def take(self, session_id: str, accept: Callable[[Checkpoint, Decision], None]) -> Taken:
        """Return the saved checkpoint of a watched run and the decision about its open request, if one counts.

        The checkpoint, the request and the signal are read in one round trip; messages that were received since the
        last call are judged too. A decision counts if it was made before the deadline in the checkpoint and `accept`
        does not raise `SignalIgnored`. The watch ends with a decision, and goes on without one. The decision about one
        request never counts for another one of the run.
        Raises `RecordChanged` where another program has changed the checkpoint, `CheckpointTooNew`,
        `CheckpointUnreadable`.
        """
        ...

    def unwatch(self, session_id: str) -> None:
        """Stop watching this session: the callback is not called for it again. A second call changes nothing."""
        ...
