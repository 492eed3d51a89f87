"""The event log and the checkpoint of every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from app.ports.tasks import TaskTicket
from statemachine.checkpoint import Checkpoint


class LogEntry(NamedTuple):
    """One frame of a run's log: its id (ms since the epoch, §3) and its encoded body."""

    id: int
    body: bytes


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known of a run without loading its checkpoint."""

    session_id: str
    user_id: str
    tenant_id: str
    prompt_digest: str
    owner: str
    epoch: int
    is_final: bool
    task_id: str | None = None


@dataclass(slots=True)
class RunLock:
    """A node's right to write one run. `epoch` fences it, `sequence` makes a repeated write recognisable.

    `created_at` (Unix s) is the run's place among those of its node. `cancelled_by` is set by the commit that finds
    that somebody asked for the run's end.
    """

    session_id: str
    epoch: int
    created_at: float
    sequence: int = 0
    cancelled_by: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointPage:
    """Some of a list of runs; None stands for one whose data is gone or cannot be read."""

    checkpoints: list[Checkpoint | None]
    has_more: bool


class Tail(Protocol):
    """One reader of one run's log: a cursor. It has no task and no queue, so a slow one costs nothing."""

    @property
    def is_draining(self) -> bool:
        """The process drains: what there is may still be read, the rest elsewhere."""
        ...

    def buffered(self) -> list[LogEntry] | None:
        """The next entries in order, as far as this process has them; none: there is no news, and the reader will be
        woken. None: that must be looked up."""
        ...

    async def fetch(self) -> list[LogEntry]:
        """The next entries as storage has them; none: there is no news, or storage is away; the reader will be woken.

        Of an ended run that has been read to its end: the end marker again. Raises `RunLost` where the log is gone.
        """
        ...

    def close(self) -> None:
        """Be woken no more."""
        ...


class Journal(Protocol):
    """The event log and the checkpoint of every run, committed together."""

    async def create(
        self,
        checkpoint: Checkpoint,
        bodies: Sequence[bytes],
        *,
        prompt_digest: str,
        idempotency_key: str | None,
        thread_id: str | None,
        ticket: TaskTicket | None = None,
    ) -> RunLock | str:
        """Open a run with its first events. A `str` is the session that the idempotency key opened before.

        `thread_id` is set where the run belongs to a conversation whose earlier turns count. With a `ticket` the run is
        listed in the `TaskOutbox`.
        Raises `RunExists`, `TooManyRuns`, `FieldInvalid` (the key was used for another prompt), `StorageUnavailable`.
        """
        ...

    async def find_by_idempotency_key(
        self, tenant_id: str, user_id: str, idempotency_key: str, prompt_digest: str
    ) -> str | None:
        """The session that this key opened. Raises `FieldInvalid`: it was used for another prompt."""
        ...

    async def commit(self, lock: RunLock, bodies: Sequence[bytes], checkpoint: Checkpoint | None, now: float) -> None:
        """Append the events and save the checkpoint in one atomic, fenced write, then wake the readers.

        Retried for as long as storage is away; stored at most once. Raises `RunLost`, or `RunDamaged` where storage
        has lost earlier writes of the run: it can still be ended.
        """
        ...

    async def prevent_creation(self, session_id: str) -> bool:
        """Let a run that does not exist never come to be. False: it exists. Retried for as long as storage is away."""
        ...

    async def load(self, session_id: str) -> Checkpoint | None:
        """The saved checkpoint; None where there is none (any more)."""
        ...

    async def get_record(self, session_id: str) -> RunRecord | None: ...

    async def find_newest(self, tenant_id: str, user_id: str, prompt_digest: str | None = None) -> RunRecord | None:
        """The caller's newest run, with this prompt and context where a digest is given."""
        ...

    async def find_by_event_id(self, tenant_id: str, user_id: str, event_id: int) -> RunRecord | None:
        """The caller's run whose log holds exactly this id."""
        ...

    def tail(self, session_id: str, after: int, woken: Callable[[], None]) -> Tail:
        """A reader of every entry with an id above `after`; `woken` is called whenever there may be news for it."""
        ...

    async def load_thread(self, tenant_id: str, user_id: str, thread_id: str) -> list[Checkpoint]:
        """The newest runs of a conversation, oldest first; being looked at keeps them for another retention time."""
        ...

    async def list_runs(self, tenant_id: str, user_id: str | None, offset: int, limit: int) -> CheckpointPage:
        """Some of a user's runs, or of the whole tenant's (`user_id` None), newest first."""
        ...

    async def load_streamed_text(self, session_id: str) -> str:
        """The answer text of the model turn under way, as the log holds it."""
        ...

    def adopt(self, session_id: str) -> None:
        """This node writes the run from now on."""
        ...

    def release(self, session_id: str) -> None:
        """This node writes the run no more."""
        ...

    async def ping(self) -> None:
        """Raises `StorageUnavailable` where storage does not answer in time."""
        ...
