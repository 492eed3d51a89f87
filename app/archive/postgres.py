"""The archive in PostgreSQL: `ports.archive.Archive`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from app.archive import tables
from app.archive.database import Database, describe
from app.errors import RunNotArchivable
from app.ports.archive import ArchivedRun, ArchivePage, Retention
from app.ports.journal import ListedRun, RunRecord, Thread
from statemachine.checkpoint import Checkpoint
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable
from statemachine.views.summary import Summary

_NEWEST_RUNS = 100
_PAGE_BYTES = 256 * 1024
_EXPIRED_AT_ONCE = 1000
_NEWER_THAN_ANY = (2**63 - 1, "")


class PostgresRunArchive:
    """Connects when it is used. The constructor raises `ConfigurationError` for an invalid URL."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    async def close(self) -> None:
        await self._database.close()

    # --- writing ------------------------------------------------------------------------------------------------------

    async def add(self, runs: Sequence[ArchivedRun]) -> int:
        rows = [tables.row(run) for run in runs]
        persons = sorted({row["person"] for row in rows})
        values = [row | {name: Jsonb(row[name]) for name in ("timeline", "decisions")} for row in rows]

        async def insert(connection: AsyncConnection) -> int:
            await connection.execute(tables.SHARE_PERSONS, (persons,))
            async with connection.cursor() as cursor:
                await cursor.executemany(tables.INSERT, values)
                return cursor.rowcount

        try:
            return await self._database.run(insert)
        except (psycopg.Error, ValueError) as error:
            sessions = ", ".join(run.record.session_id for run in runs)
            raise RunNotArchivable(f"run {sessions}: {describe(error)[:300]}") from error

    async def expire(self, retention: Retention, now: float) -> int:
        oldest_ms, own = retention.oldest_ms(now)
        conditions: list[tuple[str, tuple[Any, ...]]] = [("last_id < %s AND tenant <> ALL(%s)", (oldest_ms, list(own)))]
        conditions += [("last_id < %s AND tenant = %s", (before_ms, tenant)) for tenant, before_ms in own.items()]
        removed = 0
        for condition, values in conditions:
            removed += await self._database.execute(
                tables.EXPIRE.format(condition=condition), *values, _EXPIRED_AT_ONCE
            )
        return removed

    async def erase(self, tenant_id: str, user_id: str, now: float) -> int:
        person = tables.person_digest(tenant_id, user_id)

        async def remove(connection: AsyncConnection) -> int:
            await connection.execute(tables.LOCK_PERSON, (person,))
            await connection.execute(tables.NOTE_ERASURE, (person, int(now * 1000)))
            statement = "DELETE FROM aura_archive_1.run WHERE tenant = %s AND user_id = %s"
            return (await connection.execute(statement, (tenant_id, user_id))).rowcount

        return await self._database.run(remove)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        await self._database.rows("SELECT 1")

    async def count(self, tenant_id: str, user_id: str) -> int:
        query = "SELECT count(*) FROM aura_archive_1.run WHERE tenant = %s AND user_id = %s"
        return int((await self._database.rows(query, tenant_id, user_id))[0][0])

    async def get_record(self, session_id: str) -> RunRecord | None:
        return _first_record(await self._database.rows(f"{tables.RECORD} WHERE session = %s", session_id))

    async def stored(self, session_ids: Sequence[str]) -> set[str]:
        query = "SELECT session FROM aura_archive_1.run WHERE session = ANY(%s)"
        return {str(row[0]) for row in await self._database.rows(query, list(session_ids))}

    async def load(self, session_id: str) -> Checkpoint | None:
        rows = await self._database.rows("SELECT checkpoint FROM aura_archive_1.run WHERE session = %s", session_id)
        return Checkpoint.from_json(bytes(rows[0][0])) if rows else None

    async def read_page(self, session_id: str, place: int) -> ArchivePage | None:
        query = "SELECT substring(events FROM %s FOR %s), length(events) FROM aura_archive_1.run WHERE session = %s"
        size = _PAGE_BYTES
        while True:
            rows = await self._database.rows(query, place + 1, size, session_id)
            if not rows:
                return None
            text, length = bytes(rows[0][0]), int(rows[0][1])
            entries, taken = tables.whole_entries(text)
            if entries or place + len(text) >= length:
                return ArchivePage(entries, place + taken)
            size *= 2  # one frame is longer than this

    async def end_id(self, session_id: str) -> int | None:
        rows = await self._database.rows("SELECT last_id FROM aura_archive_1.run WHERE session = %s", session_id)
        return int(rows[0][0]) if rows else None

    async def find_newest(
        self, tenant_id: str, user_id: str, prompt_digests: Collection[str] | None
    ) -> RunRecord | None:
        newest = f"{tables.RECORD} WHERE tenant = %s AND user_id = %s ORDER BY first_id DESC, session DESC LIMIT %s"
        if prompt_digests is None:
            return _first_record(await self._database.rows(newest, tenant_id, user_id, 1))
        query = f"SELECT * FROM ({newest}) AS found WHERE prompt_digest = ANY(%s) LIMIT 1"
        return _first_record(await self._database.rows(query, tenant_id, user_id, _NEWEST_RUNS, list(prompt_digests)))

    async def find_by_event_id(self, tenant_id: str, user_id: str, event_id: int) -> RunRecord | None:
        condition = "tenant = %s AND user_id = %s AND first_id <= %s AND last_id >= %s AND position(%s in events) > 0"
        query = f"{tables.RECORD} WHERE {condition} ORDER BY first_id DESC LIMIT 1"
        line = b"id: %d\n" % event_id  # an encoded frame has no other line that ends with a number
        return _first_record(await self._database.rows(query, tenant_id, user_id, event_id, event_id, line))

    async def load_thread(
        self, tenant_id: str, user_id: str, thread_id: str, *, without: Collection[str], max_runs: int, max_bytes: int
    ) -> Thread:
        key = (tenant_id, user_id, thread_id, list(without))
        ((count,),) = await self._database.rows(tables.COUNT_THREAD, *key)
        if not count or max_runs <= 0:
            return Thread([], not_loaded=int(count))
        rows = await self._database.rows(tables.THREAD, *key, max_runs, max_bytes)
        found = [run for run in (_checkpoint(bytes(row[0])) for row in rows) if run is not None]
        return Thread(found, not_loaded=int(count) - len(found))

    async def list_runs(
        self, tenant_id: str, user_id: str | None, before: tuple[int, str] | None, offset: int, limit: int
    ) -> list[ListedRun]:
        column = "created_ms" if user_id is None else "first_id"
        owner = "tenant = %s" if user_id is None else "tenant = %s AND user_id = %s"
        owners = (tenant_id,) if user_id is None else (tenant_id, user_id)
        query = (
            f"{tables.LIST} WHERE {owner} AND ({column}, session) < (%s, %s)"
            f" ORDER BY {column} DESC, session DESC OFFSET %s LIMIT %s"
        )
        return tables.listed(await self._database.rows(query, *owners, *(before or _NEWER_THAN_ANY), offset, limit))

    async def summaries(self, tenant_id: str, session_ids: Sequence[str]) -> dict[str, Summary]:
        rows = await self._database.rows(
            f"{tables.LIST} WHERE tenant = %s AND session = ANY(%s)", tenant_id, list(session_ids)
        )
        return {run.session_id: run.summary for run in tables.listed(rows) if run.summary is not None}


def _first_record(rows: Sequence[Sequence[Any]]) -> RunRecord | None:
    return tables.record(rows[0]) if rows else None


def _checkpoint(text: bytes) -> Checkpoint | None:
    """Return a checkpoint, or None where a newer release has written it."""
    try:
        return Checkpoint.from_json(text)
    except (CheckpointTooNew, CheckpointUnreadable):
        return None
