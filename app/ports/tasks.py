"""A run as a task of the Main Service (CONTRACT §6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.ports.identity import Principal
from statemachine.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class TaskTicket:
    """What is stored of the caller of a run until the end of its task has been reported.

    The encrypted token is deleted at `expires_at`, when the token itself expires. `first_due_at` is when the outbox
    returns the run for the first time. Both times are Unix seconds.
    """

    encrypted_token: str
    expires_at: float
    first_due_at: float


class TaskReporter(Protocol):
    """Reports runs as tasks to the Main Service. No method waits: the reports are sent in the background."""

    def create_ticket(self, session_id: str, principal: Principal) -> TaskTicket:
        """Return what to store with a run that this caller starts."""
        ...

    def report_progress(self, checkpoint: Checkpoint) -> None:
        """Report the state of a run that this process writes. Call it after the creation, after a takeover and after
        every commit."""
        ...

    def forget(self, session_id: str) -> None:
        """Stop reporting a run that this process writes no longer and that has not ended."""
        ...

    def task_id(self, session_id: str) -> str | None:
        """Return the task of a run that this process writes, or None where it is not known yet."""
        ...


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What is stored of a run and its task.

    `is_final`: the run has ended. `is_started`: the start of the task has been reported. `is_listed`: something may
    still have to be reported. `encrypted_token` is None where it has expired.
    """

    checkpoint: Checkpoint
    is_final: bool
    task_id: str | None
    is_started: bool
    is_listed: bool
    encrypted_token: str | None


class TaskOutbox(Protocol):
    """The runs whose end may not have been reported yet, with what is needed to report it.

    Every method raises `StorageUnavailable` where storage does not answer in time.
    """

    async def load(self, session_id: str) -> TaskRecord | None:
        """Return the record of a run, or None where the run has expired. Raises `CheckpointTooNew`,
        `CheckpointUnreadable`."""
        ...

    async def save_task_id(self, session_id: str, task_id: str) -> str:
        """Save the task of a run unless it has one already. Returns the task that is saved then."""
        ...

    async def mark_started(self, session_id: str) -> None:
        """Record that the start of the task has been reported."""
        ...

    async def link_request(self, task_id: str, request_id: str) -> None:
        """Make the approval request of a task known by the task, and the task known by a pending request
        (CONTRACT §5)."""
        ...

    async def reserve(self, session_ids: Sequence[str], until: float) -> None:
        """Keep `claim_due` from returning these runs before `until` (Unix s)."""
        ...

    async def claim_due(self, now: float, until: float, limit: int) -> list[str]:
        """Return up to `limit` sessions that are due at `now`, the longest due first, and reserve them until `until`.

        Both times are Unix seconds.
        """
        ...

    async def remove(self, session_id: str) -> None:
        """Remove a run from the outbox and delete its encrypted token: nothing more can be reported."""
        ...
