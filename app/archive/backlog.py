"""Lists the runs that the archive lacks although Redis has them: they began before there was an archive.

A run is listed when it begins and when it ends, by a process that has an archive. Others began or ended before
`AURA_ARCHIVE_URL` was set, or in a process that has not been restarted with it yet. So each process searches for them
once, when it starts, beside the runs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import structlog

from app.errors import StorageUnavailable
from app.ports.archive import Archive, ArchiveOutbox, Retention
from app.ports.clock import Clock
from app.ports.journal import RunRecord

_PAUSE_SECONDS = 0.05
"""Between two parts: the search takes little of what the runs under way need."""
_MAX_RETRY_SECONDS = 30.0

log = structlog.get_logger(__name__)


class Backlog:
    """`check_seconds`: when a run that has not ended is checked by the archiver."""

    def __init__(
        self,
        outbox: ArchiveOutbox,
        archive: Archive,
        retention: Retention,
        clock: Clock,
        *,
        check_seconds: float,
    ) -> None:
        self._outbox = outbox
        self._archive = archive
        self._retention = retention
        self._clock = clock
        self._check_seconds = check_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._list_once())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _list_once(self) -> None:
        """List the missing runs, however long Redis or the database is unavailable: then it begins again."""
        pause = 1.0
        while True:
            try:
                count = await self.list_missing()
            except StorageUnavailable as error:
                log.warning("archive.backlog_paused", cause=error.log_cause)
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
                pause = min(_MAX_RETRY_SECONDS, 2 * pause)
            else:
                if count:
                    log.info("archive.backlog_listed", runs=count)
                return

    async def list_missing(self) -> int:
        """List all runs that Redis has and the archive lacks. Returns how many were not listed before.

        Raises `StorageUnavailable`.
        """
        count = 0
        async for records in self._outbox.stored_runs():
            count += await self._list(records)
            await asyncio.sleep(_PAUSE_SECONDS)
        return count

    async def _list(self, records: Sequence[RunRecord]) -> int:
        """List those of these runs that are to be archived and are not: the ended ones are due at once."""
        wanted = [record for record in records if self._retention.days_of(record.tenant_id) > 0]
        ended = [record.session_id for record in wanted if record.is_final]
        stored = await self._archive.stored(ended) if ended else set()
        now = self._clock.now()
        count = await self._outbox.add([session_id for session_id in ended if session_id not in stored], now)
        open_runs = [record.session_id for record in wanted if not record.is_final]
        return count + await self._outbox.add(open_runs, now + self._check_seconds)
