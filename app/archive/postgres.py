"""The archive in PostgreSQL: `ports.archive.Archive`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from app.archive import tables
from app.errors import ConfigurationError, RunNotArchivable, StorageUnavailable
from app.ports.archive import ArchivedRun, ArchivePage, Retention
from app.ports.journal import ListedRun, RunRecord, Thread
from statemachine.checkpoint import Checkpoint
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable
from statemachine.views.summary import Summary

ResultT = TypeVar("ResultT")

_MAX_CONNECTIONS = 4
_CONNECT_SECONDS = 3.0
_RESPONSE_SECONDS = 10.0
_PAUSE_SECONDS = 2.0
"""For how long nobody waits for a database that did not answer: each request would otherwise wait for it anew."""
_NEWEST_RUNS = 100
_PAGE_BYTES = 256 * 1024
_EXPIRED_AT_ONCE = 1000
_NEWER_THAN_ANY = (2**63 - 1, "")
_DEFAULT_PARAMETERS: dict[str, str | int] = {
    "application_name": "aura-archive",
    "client_encoding": "utf8",
    "connect_timeout": int(_CONNECT_SECONDS),
    "tcp_user_timeout": 10_000,
}


class PostgresRunArchive:
    """Connects when it is used. The constructor raises `ConfigurationError` for an invalid URL."""

    def __init__(self, url: str) -> None:
        try:
            given = conninfo_to_dict(url)
            defaults = {name: value for name, value in _DEFAULT_PARAMETERS.items() if name not in given}
            self._conninfo = make_conninfo(url, **defaults)
        except psycopg.Error:  # its message may contain the password
            raise ConfigurationError(
                "AURA_ARCHIVE_URL: it is not a valid PostgreSQL URL: percent-encode special characters in user and"
                " password, and check the parameter names after the question mark"
            ) from None
        self._pool: AsyncConnectionPool[AsyncConnection] | None = None
        self._has_tables = False
        self._paused_until = 0.0

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

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
            return await self._run(insert)
        except (psycopg.Error, ValueError) as error:
            sessions = ", ".join(run.record.session_id for run in runs)
            raise RunNotArchivable(f"run {sessions}: {_describe(error)[:300]}") from error

    async def expire(self, retention: Retention, now: float) -> int:
        oldest_ms, own = retention.oldest_ms(now)
        conditions: list[tuple[str, tuple[Any, ...]]] = [("last_id < %s AND tenant <> ALL(%s)", (oldest_ms, list(own)))]
        conditions += [("last_id < %s AND tenant = %s", (before_ms, tenant)) for tenant, before_ms in own.items()]
        removed = 0
        for condition, values in conditions:
            removed += await self._execute(tables.EXPIRE.format(condition=condition), *values, _EXPIRED_AT_ONCE)
        return removed

    async def erase(self, tenant_id: str, user_id: str, now: float) -> int:
        person = tables.person_digest(tenant_id, user_id)

        async def remove(connection: AsyncConnection) -> int:
            await connection.execute(tables.LOCK_PERSON, (person,))
            await connection.execute(tables.NOTE_ERASURE, (person, int(now * 1000)))
            statement = "DELETE FROM aura_archive_1.run WHERE tenant = %s AND user_id = %s"
            return (await connection.execute(statement, (tenant_id, user_id))).rowcount

        return await self._run(remove)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        await self._rows("SELECT 1")

    async def count(self, tenant_id: str, user_id: str) -> int:
        query = "SELECT count(*) FROM aura_archive_1.run WHERE tenant = %s AND user_id = %s"
        return int((await self._rows(query, tenant_id, user_id))[0][0])

    async def get_record(self, session_id: str) -> RunRecord | None:
        return _first_record(await self._rows(f"{tables.RECORD} WHERE session = %s", session_id))

    async def load(self, session_id: str) -> Checkpoint | None:
        rows = await self._rows("SELECT checkpoint FROM aura_archive_1.run WHERE session = %s", session_id)
        return Checkpoint.from_json(bytes(rows[0][0])) if rows else None

    async def read_page(self, session_id: str, place: int) -> ArchivePage | None:
        query = "SELECT substring(events FROM %s FOR %s), length(events) FROM aura_archive_1.run WHERE session = %s"
        size = _PAGE_BYTES
        while True:
            rows = await self._rows(query, place + 1, size, session_id)
            if not rows:
                return None
            text, length = bytes(rows[0][0]), int(rows[0][1])
            entries, taken = tables.whole_entries(text)
            if entries or place + len(text) >= length:
                return ArchivePage(entries, place + taken)
            size *= 2  # one frame is longer than this

    async def end_id(self, session_id: str) -> int | None:
        rows = await self._rows("SELECT last_id FROM aura_archive_1.run WHERE session = %s", session_id)
        return int(rows[0][0]) if rows else None

    async def find_newest(
        self, tenant_id: str, user_id: str, prompt_digests: Collection[str] | None
    ) -> RunRecord | None:
        newest = f"{tables.RECORD} WHERE tenant = %s AND user_id = %s ORDER BY first_id DESC, session DESC LIMIT %s"
        if prompt_digests is None:
            return _first_record(await self._rows(newest, tenant_id, user_id, 1))
        query = f"SELECT * FROM ({newest}) AS found WHERE prompt_digest = ANY(%s) LIMIT 1"
        return _first_record(await self._rows(query, tenant_id, user_id, _NEWEST_RUNS, list(prompt_digests)))

    async def find_by_event_id(self, tenant_id: str, user_id: str, event_id: int) -> RunRecord | None:
        condition = "tenant = %s AND user_id = %s AND first_id <= %s AND last_id >= %s AND position(%s in events) > 0"
        query = f"{tables.RECORD} WHERE {condition} ORDER BY first_id DESC LIMIT 1"
        line = b"id: %d\n" % event_id  # an encoded frame has no other line that ends with a number
        return _first_record(await self._rows(query, tenant_id, user_id, event_id, event_id, line))

    async def load_thread(
        self, tenant_id: str, user_id: str, thread_id: str, *, without: Collection[str], max_runs: int, max_bytes: int
    ) -> Thread:
        key = (tenant_id, user_id, thread_id, list(without))
        ((count,),) = await self._rows(tables.COUNT_THREAD, *key)
        if not count or max_runs <= 0:
            return Thread([], not_loaded=int(count))
        rows = await self._rows(tables.THREAD, *key, max_runs, max_bytes)
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
        return tables.listed(await self._rows(query, *owners, *(before or _NEWER_THAN_ANY), offset, limit))

    async def summaries(self, tenant_id: str, session_ids: Sequence[str]) -> dict[str, Summary]:
        rows = await self._rows(f"{tables.LIST} WHERE tenant = %s AND session = ANY(%s)", tenant_id, list(session_ids))
        return {run.session_id: run.summary for run in tables.listed(rows) if run.summary is not None}

    # --- the connections ----------------------------------------------------------------------------------------------

    async def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        async def fetch(connection: AsyncConnection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(query.encode(), values or None)).fetchall()

        return await self._run(fetch)

    async def _execute(self, statement: str, *values: Any) -> int:
        async def execute(connection: AsyncConnection) -> int:
            return (await connection.execute(statement.encode(), values)).rowcount

        return await self._run(execute)

    async def _run(self, work: Callable[[AsyncConnection], Awaitable[ResultT]]) -> ResultT:
        """Run `work` in a transaction. Errors that belong to its values are raised as they are."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._paused_until:
            raise StorageUnavailable("the archive did not answer a moment ago")
        try:
            async with asyncio.timeout(_RESPONSE_SECONDS):
                return await self._in_transaction(work)
        except errors.InsufficientPrivilege as error:
            raise StorageUnavailable(
                "the archive cannot be used",
                detail=f"AURA_ARCHIVE_URL: {_describe(error)}: let an administrator create the schema {tables.SCHEMA}"
                " and GRANT this user USAGE on it, and SELECT, INSERT, UPDATE and DELETE on its tables",
            ) from error
        except (TimeoutError, PoolTimeout, PoolClosed, OSError) as error:
            self._paused_until = loop.time() + _PAUSE_SECONDS
            raise StorageUnavailable("the archive did not answer in time", detail=_describe(error)[:300]) from error
        except (errors.DataError, errors.ProgramLimitExceeded):
            raise
        except psycopg.Error as error:
            self._has_tables = False
            self._paused_until = loop.time() + _PAUSE_SECONDS
            raise StorageUnavailable("the archive cannot be used", detail=_describe(error)[:300]) from error

    async def _in_transaction(self, work: Callable[[AsyncConnection], Awaitable[ResultT]]) -> ResultT:
        pool = await self._opened_pool()
        async with pool.connection() as connection:
            if not self._has_tables:
                await _create_tables(connection)
                self._has_tables = True
            async with connection.transaction():
                return await work(connection)

    async def _opened_pool(self) -> AsyncConnectionPool[AsyncConnection]:
        if self._pool is None:
            self._pool = AsyncConnectionPool(
                self._conninfo,
                kwargs={"autocommit": True, "prepare_threshold": None},
                min_size=0,
                max_size=_MAX_CONNECTIONS,
                timeout=_CONNECT_SECONDS,
                max_idle=60,
                reconnect_timeout=_CONNECT_SECONDS,
                check=AsyncConnectionPool.check_connection,
                open=False,
                name="archive",
            )
            await self._pool.open()
        return self._pool


async def _create_tables(connection: AsyncConnection) -> None:
    found = await (await connection.execute(tables.EXISTS)).fetchone()
    if found == (None,):
        async with connection.transaction():
            await connection.execute(tables.LOCK)
            await connection.execute(tables.CREATE)


def _first_record(rows: Sequence[Sequence[Any]]) -> RunRecord | None:
    return tables.record(rows[0]) if rows else None


def _checkpoint(text: bytes) -> Checkpoint | None:
    """Return a checkpoint, or None where a newer release has written it."""
    try:
        return Checkpoint.from_json(text)
    except (CheckpointTooNew, CheckpointUnreadable):
        return None


def _describe(error: BaseException) -> str:
    """Return an error as one line, without its details."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) and error.diag else None
    return " ".join(f"{type(error).__name__}: {message or error}".split())
