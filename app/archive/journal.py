"""Reads runs from the journal, and from the archive those that the journal keeps no longer.

Only readers use it: what starts, drives, wakes and ends runs uses the journal alone and never waits for a database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection

import structlog

from app.errors import RunLost, StorageUnavailable
from app.ports.archive import Archive
from app.ports.journal import (
    Idempotency,
    Journal,
    ListedRun,
    ListEnd,
    LogEntry,
    RunList,
    RunRecord,
    Tail,
    Thread,
)
from statemachine.checkpoint import Checkpoint
from statemachine.sessions import is_session_id

_THREAD_RUNS = 20
_THREAD_BYTES = 1024 * 1024
_RETRY_SECONDS = 2.0

log = structlog.get_logger(__name__)


class ArchivedJournal:
    """`ports.journal.RunReader` over both."""

    def __init__(self, journal: Journal, archive: Archive) -> None:
        self._journal = journal
        self._archive = archive

    async def load(self, session_id: str) -> Checkpoint | None:
        found = await self._journal.load(session_id)
        return found if found or not is_session_id(session_id) else await self._archive.load(session_id)

    async def open_request_id(self, session_id: str) -> str | None:
        return await self._journal.open_request_id(session_id)

    async def get_record(self, session_id: str) -> RunRecord | None:
        found = await self._journal.get_record(session_id)
        return found if found or not is_session_id(session_id) else await self._archive.get_record(session_id)

    async def find_by_idempotency_key(self, tenant_id: str, user_id: str, idempotency: Idempotency) -> str | None:
        return await self._journal.find_by_idempotency_key(tenant_id, user_id, idempotency)

    async def find_newest(
        self, tenant_id: str, user_id: str, prompt_digests: Collection[str] | None = None
    ) -> RunRecord | None:
        found = await self._journal.find_newest(tenant_id, user_id, prompt_digests)
        return found or await self._archive.find_newest(tenant_id, user_id, prompt_digests)

    async def end_id(self, session_id: str) -> int | None:
        found = await self._journal.end_id(session_id)
        if found is not None or await self._journal.get_record(session_id) is not None:
            return found
        return await self._archive.end_id(session_id)

    async def ends_before(self, session_id: str, event_id: int) -> bool:
        return await self._journal.ends_before(session_id, event_id)

    async def find_by_event_id(self, tenant_id: str, user_id: str, event_id: int) -> RunRecord | None:
        found = await self._journal.find_by_event_id(tenant_id, user_id, event_id)
        return found or await self._archive.find_by_event_id(tenant_id, user_id, event_id)

    async def load_thread(self, tenant_id: str, user_id: str, thread_id: str) -> Thread:
        """A new run does not wait for a database that is down: then it gets what the journal has of its thread."""
        kept = await self._journal.load_thread(tenant_id, user_id, thread_id)
        free_runs = _THREAD_RUNS - len(kept.newest)
        free_bytes = _THREAD_BYTES - sum(len(run.to_json()) for run in kept.newest)
        if free_runs <= 0 or free_bytes <= 0:
            return kept
        try:
            older = await self._archive.load_thread(
                tenant_id,
                user_id,
                thread_id,
                without=[run.session_id for run in kept.newest],
                max_runs=free_runs,
                max_bytes=free_bytes,
            )
        except StorageUnavailable as error:
            log.warning("archive.thread_not_read", cause=error.log_cause)
            return kept
        both = sorted([*older.newest, *kept.newest], key=lambda run: (run.created_at, run.session_id))
        # The runs that the journal lists and has no longer are among those of the archive.
        return Thread(both, not_loaded=max(kept.not_loaded - len(older.newest), older.not_loaded))

    async def list_end(self, tenant_id: str, user_id: str | None) -> ListEnd:
        return await self._journal.list_end(tenant_id, user_id)

    async def list_runs(
        self, tenant_id: str, user_id: str | None, offset: int, limit: int, *, may_be_archived: bool = True
    ) -> RunList:
        """List the runs of the journal's list, then the older ones of the archive.

        If the archive is down, a page of the first part says that there is more; a page of the second one raises.
        """
        kept = await self._journal.list_runs(tenant_id, user_id, offset, limit)
        if not may_be_archived:
            return kept
        try:
            runs = await self._with_summaries(tenant_id, kept.runs)
            if kept.has_more or kept.is_cut:
                return RunList(runs, has_more=kept.has_more, is_cut=kept.is_cut)
            end = await self._journal.list_end(tenant_id, user_id)
            missing, start = limit - len(runs), max(0, offset - end.count)
            older = await self._archive.list_runs(tenant_id, user_id, end.oldest, start, missing + 1)
        except StorageUnavailable:
            if not kept.runs:
                raise
            return RunList(kept.runs, has_more=True, is_cut=True)
        return RunList([*runs, *older[:missing]], has_more=len(older) > missing)

    async def _with_summaries(self, tenant_id: str, runs: list[ListedRun]) -> list[ListedRun]:
        """Return the runs with the summaries of those that have expired since they were listed."""
        expired = [run.session_id for run in runs if run.summary is None]
        if not expired:
            return runs
        found = await self._archive.summaries(tenant_id, expired)
        return [ListedRun(run.session_id, run.summary or found.get(run.session_id)) for run in runs]

    # --- the log ------------------------------------------------------------------------------------------------------

    def tail(self, session_id: str, last_event_id: int, on_news: Callable[[], None]) -> Tail:
        kept = self._journal.tail(session_id, last_event_id, on_news)
        return ArchivedTail(kept, self._archive, session_id, last_event_id, on_news)

    async def read_bodies(self, session_id: str) -> AsyncIterator[bytes]:
        is_kept = False
        async for body in self._journal.read_bodies(session_id):
            is_kept = True
            yield body
        page = None if is_kept else await self._archive.read_page(session_id, 0)
        while page is not None and page.entries:
            for entry in page.entries:
                yield entry.body
            page = await self._archive.read_page(session_id, page.place)


class ArchivedTail:
    """The cursor of a reader, who gets the rest from the archive where the journal has lost the run (`Tail`)."""

    __slots__ = ("_archive", "_end", "_kept", "_last_id", "_on_news", "_place", "_retry", "_session_id")

    def __init__(
        self, kept: Tail, archive: Archive, session_id: str, last_event_id: int, on_news: Callable[[], None]
    ) -> None:
        self._kept = kept
        self._archive = archive
        self._session_id = session_id
        self._last_id = last_event_id
        self._on_news = on_news
        self._place: int | None = None  # in the archived log; None while the journal has the run
        self._end: list[LogEntry] = []
        self._retry: asyncio.TimerHandle | None = None

    @property
    def is_draining(self) -> bool:
        return self._kept.is_draining

    def buffered(self) -> list[LogEntry] | None:
        if self._place is not None:
            return None
        entries = self._kept.buffered()
        self._note(entries or [])
        return entries

    async def fetch(self) -> list[LogEntry]:
        if self._place is None:
            try:
                entries = await self._kept.fetch()
            except RunLost as error:
                return await self._fetch_archived(error)
            self._note(entries)
            return entries
        return await self._fetch_archived(None)

    async def _fetch_archived(self, lost: RunLost | None) -> list[LogEntry]:
        """Return the next entries of the archived log; after the last one the end marker again.

        `lost` is raised where the archive has no such run.
        """
        try:
            while True:
                page = await self._archive.read_page(self._session_id, self._place or 0)
                if page is None:
                    raise lost or RunLost(self._session_id, "its data is gone from the archive")
                self._place = page.place
                self._end = page.entries[-1:] or self._end
                newer = [entry for entry in page.entries if entry.id > self._last_id]
                if newer or not page.entries:
                    self._note(newer)
                    return newer or self._end
        except StorageUnavailable as error:
            log.info("archive.stream_paused", sessionId=self._session_id, cause=error.log_cause)
            self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._on_news)
            return []

    def _note(self, entries: list[LogEntry]) -> None:
        if entries:
            self._last_id = entries[-1].id

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._kept.close()
