"""Wires the archive of ended runs."""

from __future__ import annotations

from dataclasses import dataclass

from app.archive.archiver import Archiver
from app.archive.backlog import Backlog
from app.archive.journal import ArchivedJournal
from app.ports.archive import Archive, Retention
from app.ports.clock import Clock
from app.ports.journal import Journal
from app.redis.archive import RedisArchiveOutbox
from app.redis.wire.connection import Connection
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class RunArchive:
    """The archive of one process: what copies runs into it, and the journal that reads from it too."""

    archive: Archive
    archiver: Archiver
    backlog: Backlog
    reader: ArchivedJournal

    def start(self) -> None:
        self.archiver.start()
        self.backlog.start()

    async def stop(self) -> None:
        await self.backlog.stop()
        await self.archiver.stop()
        await self.archive.close()


def make_outbox(settings: Settings, connection: Connection) -> RedisArchiveOutbox | None:
    """Return the list of the runs that are not archived yet; None where there is no archive."""
    if settings.aura_archive_url is None:
        return None
    return RedisArchiveOutbox(connection, retention_seconds=settings.aura_retention_seconds)


def open_run_archive(settings: Settings) -> Archive | None:
    """Return the database of the settings, if there is one; it connects when it is used."""
    url = settings.aura_archive_url
    if url is None:
        return None
    from app.archive.postgres import PostgresRunArchive  # noqa: PLC0415 - a driver of 10 MB that others do without

    return PostgresRunArchive(url.get_secret_value())


def make_run_archive(
    settings: Settings, journal: Journal, outbox: RedisArchiveOutbox | None, clock: Clock
) -> RunArchive | None:
    """Build the archive; None where there is none."""
    archive = open_run_archive(settings)
    if archive is None or outbox is None:
        return None
    retention = Retention(settings.aura_archive_days, settings.aura_archive_tenant_days)
    archiver = Archiver(
        journal,
        outbox,
        archive,
        retention,
        clock,
        check_seconds=outbox.check_seconds,
        kept_seconds=settings.aura_retention_seconds,
    )
    backlog = Backlog(outbox, archive, retention, clock, check_seconds=outbox.check_seconds)
    return RunArchive(archive, archiver, backlog, ArchivedJournal(journal, archive))
