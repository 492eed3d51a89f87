"""The event log and the checkpoint of every run.

What these ports promise is tested for every store by `tests/journal_suite/`, whose README says how to add another one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from app.ports.tasks import TaskTicket
from statemachine.checkpoint import Checkpoint
from statemachine.views.summary import Summary


class LogEntry(NamedTuple):
    """One frame of the log of a run: its id (ms since the epoch, CONTRACT §3) and its encoded body.

    The ids of all runs of a user are unique. They rise within a run, from an earlier commit to a later one and from an
    earlier run to a later one, whatever process writes, and also if a clock is set back.
    """

    id: int
    body: bytes


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known of a run without loading its checkpoint.

    `owner` is the id of the node that writes it, `epoch` counts its owners. `is_final`: the run has ended. `task_id` is
    its task of the Main Service, if that is known.
    """

    session_id: str
    user_id: str
    tenant_id: str
    prompt_digest: str
    owner: str
    epoch: int
    is_final: bool
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A key that makes a repeated request attach to the run of the first one.

    `digest` is that of the request, so that the key cannot be used for another one. It counts for `seconds`, or as long
    as the run is kept.
    """

    key: str
    digest: str
    seconds: int | None = None


@dataclass(slots=True)
class RunLock:
    """The right of a node to write one run. `epoch` fences other writers; `sequence`, the number of the last commit,
    makes a repeated commit recognisable: two commits of one epoch with the same number are the same commit.

    `created_at` (Unix s) is the creation of the run. `cancelled_by` is the id of the user who requested that the run be
    cancelled; the first commit after the request sets it.
    """

    session_id: str
    epoch: int
    created_at: float
    sequence: int = 0
    cancelled_by: str | None = None


class ListedRun(NamedTuple):
    """A run in a list. It has no summary if it has expired or cannot be read."""

    session_id: str
    summary: Summary | None


@dataclass(frozen=True, slots=True)
class RunList:
    """A part of a list of runs, the newest first.

    `is_cut`: it is shorter than was asked for, because the rest would take long; a later request gets it.
    """

    runs: list[ListedRun]
    has_more: bool
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class ListEnd:
    """The number of runs in a list, and the oldest of them: its time (ms) and session id. None: the list is empty.

    The time is the one by which the list is sorted: the first event id in a user's list, the creation in a tenant's.
    """

    count: int
    oldest: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation: its newest runs, the oldest of them first, and the number of its other runs.

    These are too old to be loaded, have expired, or cannot be read.
    """

    newest: list[Checkpoint]
    not_loaded: int


class Tail(Protocol):
    """One reader of the log of one run. It is a cursor without a task or a queue, so a slow reader costs nothing.

    It gets each entry once and in order, however slow it is, whichever process writes the run, and if that changes.
    """

    @property
    def is_draining(self) -> bool:
        """Whether this process is about to stop: then the reader ends after the entries that are there."""
        ...

    def buffered(self) -> list[LogEntry] | None:
        """Return the next entries in order from memory and move the cursor behind them.

        An empty list: there are none yet, and the callback of the tail is called when there may be. None: `fetch` must
        be called.
        """
        ...

    async def fetch(self) -> list[LogEntry]:
        """Return the next entries in order from storage and move the cursor behind them.

        An empty list: there are none yet, or storage is unavailable; the callback of the tail is called when there may
        be. For an ended run without further entries it returns the end marker again, as often as it is called. Raises
        `RunLost` where the log does not exist or has expired, or has lost what this tail has read of it.
        """
        ...

    def close(self) -> None:
        """End the tail: its callback is not called again. A second call changes nothing."""
        ...


class RunIndex(Protocol):
    """Looks up runs. Every method raises `StorageUnavailable` where storage does not answer in time."""

    async def load(self, session_id: str) -> Checkpoint | None:
        """Return the saved checkpoint, or None where the run does not exist or has expired.

        Raises `CheckpointTooNew`, `CheckpointUnreadable`; the checkpoint stays as it is.
        """
        ...

    async def open_request_id(self, session_id: str) -> str | None:
        """Return the id of the approval request for which a run waits by its summary, without loading its checkpoint.
        The summary has no MAC: what the id stands for must be checked."""
        ...

    async def get_record(self, session_id: str) -> RunRecord | None:
        """Return the record of a run, or None where it does not exist or has expired."""
        ...

    async def find_by_idempotency_key(self, tenant_id: str, user_id: str, idempotency: Idempotency) -> str | None:
        """Return the session that this key created, or None. Raises `FieldInvalid` where its request was another."""
        ...

    async def find_newest(
        self, tenant_id: str, user_id: str, prompt_digests: Collection[str] | None = None
    ) -> RunRecord | None:
        """Return the newest run of a user, or the newest whose prompt has one of these digests."""
        ...

    async def end_id(self, session_id: str) -> int | None:
        """Return the id of the end marker of a run, or None where the run has not ended or has expired."""
        ...

    async def ends_before(self, session_id: str, event_id: int) -> bool:
        """Return whether a run has not ended, and the last event of its log has a smaller id: a failover has lost the
        event of a reader that has this one."""
        ...

    async def find_by_event_id(self, tenant_id: str, user_id: str, event_id: int) -> RunRecord | None:
        """Return the run of a user whose log contains exactly this event id, or None."""
        ...

    async def load_thread(self, tenant_id: str, user_id: str, thread_id: str) -> Thread:
        """Return the newest runs of a conversation. Their retention time begins again.

        A run that a newer release has written is left out and counted.
        """
        ...

    async def list_runs(
        self, tenant_id: str, user_id: str | None, offset: int, limit: int, *, may_be_archived: bool = True
    ) -> RunList:
        """Return some runs of a user, or of the whole tenant where `user_id` is None, the newest first.

        It reads summaries and no checkpoints. `may_be_archived`: runs that only an archive has are listed too.
        """
        ...

    async def list_end(self, tenant_id: str, user_id: str | None) -> ListEnd:
        """Return the end of the list that `list_runs` reads parts of."""
        ...


class RunReader(RunIndex, Protocol):
    """Looks up runs and reads their logs."""

    def tail(self, session_id: str, last_event_id: int, on_news: Callable[[], None]) -> Tail:
        """Return a reader of all entries after `last_event_id` (0 for all). `on_news` is called whenever there may be
        further entries.

        The id may be that of any entry, also one inside of a commit, or none of this run. A reader may come before the
        caller of `create` has its reply.
        """
        ...

    def read_bodies(self, session_id: str) -> AsyncIterator[bytes]:
        """Iterate over the bodies of all entries in order; none where the run does not exist or has expired.

        Raises `StorageUnavailable`.
        """
        ...


class Journal(RunReader, Protocol):
    """The event log and the checkpoint of every run, committed together.

    Each write happens completely or not at all: a reader on any process that finds a checkpoint finds its events, too.
    Each write keeps the whole run for the retention time, which is configured; then all of it has expired.
    """

    async def create(
        self,
        checkpoint: Checkpoint,
        bodies: Sequence[bytes],
        *,
        prompt_digest: str,
        idempotency: Idempotency | None,
        thread_id: str | None,
        ticket: TaskTicket | None = None,
    ) -> RunLock | str:
        """Create a run with its first events. Returns its lock, or the session that the idempotency key created before.

        Of several creations with one session id, or of one user with one idempotency key, one creates the run, also
        where they come at the same time and from several processes. Nothing is left of the others.
        `prompt_digest` is that of the prompt alone, by which `find_newest` finds the run.
        `thread_id` is set where the run belongs to a conversation whose earlier runs count. With a `ticket` the run is
        listed in the `TaskOutbox`.
        Raises `RunExists`, `QuotaExceeded`, `FieldInvalid` where the key was used for another prompt, and
        `StorageUnavailable`: then the run may have been created all the same.
        """
        ...

    async def commit(self, lock: RunLock, bodies: Sequence[bytes], checkpoint: Checkpoint | None, now: float) -> None:
        """Append the events and save the checkpoint in one atomic, fenced write, then notify the readers.

        `now` is Unix seconds. Without a checkpoint the saved one stays. The end marker as the last of the events ends
        the run. The write is retried while storage is unavailable, and stored once: a commit whose number is stored
        already succeeds and changes nothing. It updates the `sequence` and `cancelled_by` of the lock. Raises `RunLost`
        where another node writes the run, where this one has missed commits, or where the run has expired; and
        `RunDamaged` where storage has lost earlier commits of the run; then the run can still be ended.
        """
        ...

    async def prevent_creation(self, session_id: str) -> bool:
        """Prevent the creation of a run that does not exist, whose request may be delayed. Returns False where the run
        exists. Retried while storage is unavailable."""
        ...

    def adopt(self, session_id: str) -> None:
        """Notify readers directly from now on: this process writes the run. They miss nothing of its former owner."""
        ...

    def release(self, session_id: str) -> None:
        """Notify readers by the messages of other processes from now on: this process writes the run no longer."""
        ...

    async def ping(self) -> None:
        """Raise `StorageUnavailable` where storage does not answer in time."""
        ...
