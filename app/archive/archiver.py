"""Copies ended runs to the archive before Redis forgets them, beside the runs: no run waits for it.

Every process takes part: each claims runs from one list, so a run whose process has ended is copied by another one. A
run is removed from the list after it is stored, and storing it twice has the effect of once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

import structlog

from app.errors import AuraError, RecordChanged, RunNotArchivable, StorageUnavailable
from app.ports.archive import Archive, ArchivedRun, ArchiveOutbox, ArchiveStatus, Retention
from app.ports.clock import Clock
from app.ports.journal import Journal, LogEntry, RunRecord
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable
from statemachine.frames import DONE_BODY

_POLL_SECONDS = 1.0
_BATCH_RUNS = 20
_HOLD_SECONDS = 60.0
"""For how long a claimed run is left to this process."""
_MAX_PAUSE_SECONDS = 30.0
_EXPIRY_SECONDS = 600.0
_LOG_SECONDS = 60.0
_STOP_SECONDS = 3.0
_AHEAD_SECONDS = 2.0
"""A process that stops copies runs that have just ended, although they are due a little later."""

log = structlog.get_logger(__name__)


class Archiver:
    """`check_seconds`: when a run that has not ended is looked up again. `kept_seconds`: how long Redis keeps one."""

    def __init__(
        self,
        journal: Journal,
        outbox: ArchiveOutbox,
        archive: Archive,
        retention: Retention,
        clock: Clock,
        *,
        check_seconds: float,
        kept_seconds: float,
    ) -> None:
        self._journal = journal
        self._outbox = outbox
        self._archive = archive
        self._retention = retention
        self._clock = clock
        self._check_seconds = check_seconds
        self._kept_seconds = kept_seconds
        self.status = ArchiveStatus()
        self._task: asyncio.Task[None] | None = None
        self._oldest_end: float | None = None  # of the runs that could not be stored
        self._logged_at = self._expired_at = float("-inf")

    def start(self) -> None:
        self._task = asyncio.create_task(self._copy_forever())

    async def stop(self) -> None:
        """Copy what has ended, for a few seconds at most; other processes copy the rest."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self.status.is_up:
            with suppress(TimeoutError, StorageUnavailable):
                async with asyncio.timeout(_STOP_SECONDS):
                    while await self.copy_due(ahead_seconds=_AHEAD_SECONDS):
                        pass

    async def _copy_forever(self) -> None:
        failures = 0
        while True:
            try:
                if failures:
                    await self._archive.ping()  # before runs are read from Redis for nothing
                while await self.copy_due():
                    pass
                await self._expire()
                failures = 0
                self._note_up()
            except StorageUnavailable as error:
                failures += 1
                await self._note_down(error)
            except Exception:
                failures += 1
                log.exception("archive.failed")
            pause = min(_MAX_PAUSE_SECONDS, _POLL_SECONDS * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    async def copy_due(self, *, ahead_seconds: float = 0.0) -> bool:
        """Copy some of the runs that are due, or will be soon. Returns whether there may be more.

        Raises `StorageUnavailable`.
        """
        now = self._clock.now() + ahead_seconds
        claimed = await self._outbox.claim_due(now, now + _HOLD_SECONDS, _BATCH_RUNS)
        done: set[str] = set()
        try:
            found = [run for session_id in claimed if (run := await self._find(session_id, done)) is not None]
            await self._store(found, done)
        except (StorageUnavailable, asyncio.CancelledError):
            with suppress(StorageUnavailable):  # due again now; else after the time for which they are held
                await self._outbox.postpone([it for it in claimed if it not in done], now)
            raise
        finally:
            with suppress(StorageUnavailable):  # they are stored: the next claim removes them
                await self._outbox.remove(list(done))
        return len(claimed) == _BATCH_RUNS

    async def _find(self, session_id: str, done: set[str]) -> ArchivedRun | None:
        """Return a run that has ended. A run that need not be listed any more is added to `done`."""
        record = await self._journal.get_record(session_id)
        if record is None:
            if await self._archive.get_record(session_id) is None:
                self.status.lost += 1
                log.warning("archive.run_lost", sessionId=session_id, cause="Redis had no data of it any more")
            done.add(session_id)
        elif not record.is_final:
            await self._outbox.postpone([session_id], self._clock.now() + self._check_seconds)
        elif self._retention.days_of(record.tenant_id) <= 0:
            done.add(session_id)
        else:
            try:
                return await self._read(record)
            except (CheckpointTooNew, CheckpointUnreadable, AuraError) as error:
                await self._refuse(session_id, error)
        return None

    async def _read(self, record: RunRecord) -> ArchivedRun | None:
        checkpoint = await self._journal.load(record.session_id)
        entries = await self._read_log(record.session_id)
        if checkpoint is None:
            return None  # it expires just now; the next claim notes that
        request = checkpoint.request
        if (record.tenant_id, record.user_id) != (request.tenant_id, request.user_id):
            raise RecordChanged(f"the record of {record.session_id} names another owner than its checkpoint")
        return ArchivedRun(record, checkpoint, entries)

    async def _store(self, runs: Sequence[ArchivedRun], done: set[str]) -> None:
        """Store the runs together; one by one where the database refuses one of them."""
        if not runs:
            return
        try:
            count = await self._archive.add(runs)
        except RunNotArchivable as error:
            if len(runs) == 1:
                await self._refuse(runs[0].record.session_id, error)
                return
            for run in runs:
                await self._store([run], done)
            return
        except StorageUnavailable:
            ends = [run.entries[-1].id / 1000 for run in runs]
            self._oldest_end = min(ends if self._oldest_end is None else [self._oldest_end, *ends])
            raise
        done.update(run.record.session_id for run in runs)
        log.debug("archive.runs_stored", runs=len(runs), new=count)

    async def _refuse(self, session_id: str, error: Exception) -> None:
        """Log that a run cannot be copied, and try it again later: a newer release may be able to.

        Raises the error itself where storage is not available.
        """
        if isinstance(error, StorageUnavailable):
            raise error
        cause = error.log_cause if isinstance(error, AuraError) else str(error)
        log.warning("archive.run_refused", sessionId=session_id, cause=cause)
        await self._outbox.postpone([session_id], self._clock.now() + self._check_seconds)

    async def _read_log(self, session_id: str) -> list[LogEntry]:
        """Return the log of an ended run. Raises `RunLost`, `StorageUnavailable`."""
        found: list[LogEntry] = []
        tail = self._journal.tail(session_id, 0, lambda: None)
        try:
            while not found or found[-1].body != DONE_BODY:
                entries = tail.buffered() or await tail.fetch()
                if not entries:
                    raise StorageUnavailable("the log of an ended run cannot be read at the moment")
                found += entries
        finally:
            tail.close()
        return found

    async def _expire(self) -> None:
        """Remove runs whose time is over, every ten minutes."""
        now = self._clock.now()
        if now - self._expired_at < _EXPIRY_SECONDS:
            return
        self._expired_at = now
        removed = 0
        while count := await self._archive.expire(self._retention, now):
            removed += count
        if removed:
            log.info("archive.runs_expired", runs=removed)

    # --- what operators see -------------------------------------------------------------------------------------------

    def _note_up(self) -> None:
        if not self.status.is_up:
            log.info("archive.resumed")
        self.status.is_up, self.status.due, self._oldest_end = True, 0, None

    async def _note_down(self, error: StorageUnavailable) -> None:
        """Log the failure, at most once a minute: from the middle of the retention time on that runs will be lost."""
        now = self._clock.now()
        self.status.is_up = False
        with suppress(StorageUnavailable):
            self.status.due = await self._outbox.count_due(now)
        if now - self._logged_at < _LOG_SECONDS:
            return
        self._logged_at = now
        log.warning("archive.paused", cause=error.log_cause, due=self.status.due)
        if self._oldest_end is not None and now - self._oldest_end > self._kept_seconds / 2:
            seconds_left = max(0, round(self._oldest_end + self._kept_seconds - now))
            remedy = "bring the database of AURA_ARCHIVE_URL back, or raise AURA_RETENTION_SECONDS for new runs"
            log.error("archive.runs_at_risk", due=self.status.due, secondsLeft=seconds_left, remedy=remedy)
