"""A run as a task of the Main Service (CONTRACT §6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.ports.identity import Principal
from statemachine.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class TaskTicket:
    """What is kept of a run's caller until its task knows of its end: sealed, and no longer than his token is good.

    `first_due_at`: when the outbox offers the run for the first time. All times are Unix seconds.
    """

    encrypted_token: str
    expires_at: float
    first_due_at: float


class TaskReporter(Protocol):
    """Where others follow a run as a task (§6). No method waits: the board is told, and tells in its own time."""

    def create_ticket(self, session_id: str, principal: Principal) -> TaskTicket:
        """What to keep with a run that this caller starts."""
        ...

    def report_progress(self, checkpoint: Checkpoint) -> None:
        """A run that this node carries stands here now: after its begin, after a takeover, after every commit."""
        ...

    def forget(self, session_id: str) -> None:
        """This node carries the run no more, and it has not ended."""
        ...

    def task_id(self, session_id: str) -> str | None:
        """The task of a run that is carried here, where it is known by now."""
        ...


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What storage knows of a run and its task. Not `is_listed`: there is nothing more to tell."""

    checkpoint: Checkpoint
    is_final: bool
    task_id: str | None
    is_started: bool
    is_listed: bool
    encrypted_token: str | None


class TaskOutbox(Protocol):
    """The runs whose task may not know of their end yet, and what is kept to tell it. Raises `StorageUnavailable`."""

    async def load(self, session_id: str) -> TaskRecord | None:
        """None: the run is gone. Raises `CheckpointTooNew`, `CheckpointUnreadable`."""
        ...

    async def save_task_id(self, session_id: str, task_id: str) -> str:
        """The run's task from now on; where it has one already, that one."""
        ...

    async def mark_started(self, session_id: str) -> None: ...

    async def link_request(self, task_id: str, request_id: str) -> None:
        """Let the approval request be found by the task, and the task by a request that is still pending (§5)."""
        ...

    async def reserve(self, session_ids: Sequence[str], until: float) -> None:
        """`due` does not offer these before that time (Unix s)."""
        ...

    async def claim_due(self, now: float, until: float, limit: int) -> list[str]:
        """Sessions that nobody holds, oldest first; they are held from here on."""
        ...

    async def remove(self, session_id: str) -> None:
        """There is nothing more to tell, or nobody to tell it for: forget the ticket."""
        ...
