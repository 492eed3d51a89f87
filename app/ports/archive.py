"""The archive: ended runs in a database, for longer than Redis keeps them; and the list of the runs that it lacks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.ports.journal import ListedRun, LogEntry, RunRecord, Thread
from statemachine.checkpoint import Checkpoint
from statemachine.views.summary import Summary

_MS_PER_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class ArchivedRun:
    """An ended run as it is copied: its record, its last checkpoint, and its whole log with the end marker."""

    record: RunRecord
    checkpoint: Checkpoint
    entries: Sequence[LogEntry]


@dataclass(frozen=True, slots=True)
class ArchivePage:
    """The next entries of an archived log, and the place after them. Without entries the place is the end."""

    entries: list[LogEntry]
    place: int


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days the runs of a tenant stay in the archive. With 0 days its runs are not archived."""

    days: float
    of_tenants: Mapping[str, float] = field(default_factory=dict)

    def days_of(self, tenant_id: str) -> float:
        return self.of_tenants.get(tenant_id, self.days)

    def oldest_ms(self, now: float) -> tuple[int, dict[str, int]]:
        """Return the end (ms) before which runs are removed: for most tenants, and for those with a time of their own.

        `now` is in Unix seconds.
        """
        now_ms = int(now * 1000)
        own = {tenant: now_ms - int(days * _MS_PER_DAY) for tenant, days in self.of_tenants.items()}
        return now_ms - int(self.days * _MS_PER_DAY), own


class Archive(Protocol):
    """Ended runs in a database. Every method raises `StorageUnavailable` where it does not answer in time, or does not
    allow what is needed."""

    async def add(self, runs: Sequence[ArchivedRun]) -> int:
        """Store runs, those that are not stored already and that began after the last erasure of their person's data.

        Returns how many were stored. Raises `RunNotArchivable` where the database refuses the content of one of them:
        then none is stored.
        """
        ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...

    async def get_record(self, session_id: str) -> RunRecord | None: ...

    async def stored(self, session_ids: Sequence[str]) -> set[str]:
        """Return those of these runs that are archived."""
        ...

    async def load(self, session_id: str) -> Checkpoint | None:
        """Return the last checkpoint of a run. Raises `CheckpointTooNew`, `CheckpointUnreadable`."""
        ...

    async def read_page(self, session_id: str, place: int) -> ArchivePage | None:
        """Return entries of the log from a place on: 0 is the beginning. None where the run is not archived."""
        ...

    async def end_id(self, session_id: str) -> int | None:
        """Return the id of the end marker of a run."""
        ...

    async def find_newest(
        self, tenant_id: str, user_id: str, prompt_digests: Collection[str] | None
    ) -> RunRecord | None:
        """Return the newest run of a user, or the newest whose prompt has one of these digests."""
        ...

    async def find_by_event_id(self, tenant_id: str, user_id: str, event_id: int) -> RunRecord | None:
        """Return the run of a user whose log contains exactly this event id."""
        ...

    async def load_thread(
        self, tenant_id: str, user_id: str, thread_id: str, *, without: Collection[str], max_runs: int, max_bytes: int
    ) -> Thread:
        """Return the newest runs of a conversation but those `without`, as `RunIndex.load_thread` does."""
        ...

    async def list_runs(
        self, tenant_id: str, user_id: str | None, before: tuple[int, str] | None, offset: int, limit: int
    ) -> list[ListedRun]:
        """Return some runs of a user, or of a tenant where `user_id` is None, that are older than `before`, the newest
        first. `before` is what `RunIndex.list_end` returns; None: all of them."""
        ...

    async def summaries(self, tenant_id: str, session_ids: Sequence[str]) -> dict[str, Summary]:
        """Return the summaries of those of these runs that are archived and belong to the tenant."""
        ...

    async def expire(self, retention: Retention, now: float) -> int:
        """Remove runs whose time is over, some of them; call it again until it returns 0."""
        ...

    async def count(self, tenant_id: str, user_id: str) -> int:
        """Return the number of a user's runs."""
        ...

    async def erase(self, tenant_id: str, user_id: str, now: float) -> int:
        """Remove the runs of a user, also those that another process is just about to add. Returns their number."""
        ...


class ArchiveOutbox(Protocol):
    """The runs that are not archived yet: a run is listed when it is created, or else when it ends. It is due when it
    has ended, or when it is to be checked again. Every method raises `StorageUnavailable`."""

    async def claim_due(self, now: float, until: float, limit: int) -> list[str]:
        """Return runs that are due, and make them due again at `until`, in case this process ends."""
        ...

    async def postpone(self, session_ids: Sequence[str], until: float) -> None:
        """Make runs due at another time, those that are still listed."""
        ...

    async def remove(self, session_ids: Sequence[str]) -> None: ...

    def stored_runs(self) -> AsyncIterator[list[RunRecord]]:
        """Iterate over all runs that storage has, listed or not, some at a time. One may come twice; one that is
        created or expires meanwhile may be missing."""
        ...

    async def add(self, session_ids: Sequence[str], due_at: float) -> int:
        """List runs that are not listed. Returns how many were not."""
        ...

    async def count_due(self, now: float) -> int: ...


@dataclass(slots=True)
class ArchiveStatus:
    """How far this process knows the archive to be behind: `due` runs wait to be copied.

    `lost` counts the runs that this process found gone from Redis before they were copied.
    """

    is_up: bool = True
    due: int = 0
    lost: int = 0
