"""The copy of the chains in PostgreSQL (`ports.audit.AuditArchive`). Entries are only added, and removed when too old.

Give the service a role that may only INSERT and SELECT where the database's owner removes old entries by himself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, errors

from app.audit.chain import entry_hash, read_header
from app.errors import ConfigurationError, StorageUnavailable
from app.ports.audit import ChainName, StoredEntry
from app.postgres.conninfo import conninfo_of

ResultT = TypeVar("ResultT")

SCHEMA = "aura_audit_1"
"""Ends with the number of the format."""
_RESPONSE_SECONDS = 10.0
_CREATE = """
SELECT pg_advisory_xact_lock(hashtext('aura_audit_1'));
CREATE SCHEMA IF NOT EXISTS aura_audit_1;
CREATE TABLE IF NOT EXISTS aura_audit_1.entry (tenant text NOT NULL, chain text NOT NULL, sequence numeric NOT NULL,
  at_ms numeric NOT NULL, kind text, event text NOT NULL, header bytea NOT NULL, body bytea NOT NULL,
  mac bytea NOT NULL, hash bytea NOT NULL, exported_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, chain, sequence));
CREATE INDEX IF NOT EXISTS entry_at ON aura_audit_1.entry (at_ms);
"""
_INSERT = (
    "INSERT INTO aura_audit_1.entry (tenant, chain, sequence, at_ms, kind, event, header, body, mac, hash)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
)
_SELECT = "SELECT at_ms, sequence, header, body, mac FROM aura_audit_1.entry WHERE tenant = %s AND chain = %s"


class PostgresArchive:
    """One connection, opened when it is needed. The constructor raises `ConfigurationError` for an invalid URL."""

    def __init__(self, url: str) -> None:
        self._conninfo = conninfo_of(url, "AURA_AUDIT_URL", "aura-audit")
        self._connection: AsyncConnection | None = None
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def last_places(self) -> dict[ChainName, tuple[int, int]]:
        rows = await self._rows("SELECT tenant, chain, max(at_ms), max(sequence) FROM aura_audit_1.entry GROUP BY 1, 2")
        return {ChainName(tenant, chain): (int(at), int(last)) for tenant, chain, at, last in rows}

    async def list_tenants(self) -> list[str]:
        return [row[0] for row in await self._rows("SELECT DISTINCT tenant FROM aura_audit_1.entry ORDER BY 1")]

    async def list_chains(self, tenant_id: str) -> list[tuple[str, int]]:
        rows = await self._rows(
            "SELECT chain, max(at_ms) FROM aura_audit_1.entry WHERE tenant = %s GROUP BY 1 ORDER BY 2 DESC",
            tenant_id,
        )
        return [(chain, int(at)) for chain, at in rows]

    async def read(self, chain: ChainName, after: tuple[int, int], limit: int) -> list[StoredEntry]:
        query = f"{_SELECT} AND (at_ms, sequence) > (%s, %s) ORDER BY at_ms, sequence LIMIT %s"
        return _entries(await self._rows(query, *chain, *after, limit))

    async def read_back(self, chain: ChainName, until: tuple[int, int | None], limit: int) -> list[StoredEntry]:
        ms, sequence = until
        condition = "at_ms <= %s" if sequence is None else "(at_ms, sequence) < (%s, %s)"
        query = f"{_SELECT} AND {condition} ORDER BY at_ms DESC, sequence DESC LIMIT %s"
        place = (ms,) if sequence is None else (ms, sequence)
        return _entries(await self._rows(query, *chain, *place, limit))

    async def add(self, chain: ChainName, entries: Sequence[StoredEntry]) -> None:
        rows = [_row(chain, entry) for entry in entries]

        async def insert(connection: AsyncConnection) -> None:
            async with connection.cursor() as cursor:
                await cursor.executemany(_INSERT, rows)

        await self._run(insert)

    async def expire(self, before_ms: int) -> None:
        found = await self._rows("SELECT 1 FROM aura_audit_1.entry WHERE at_ms < %s LIMIT 1", before_ms)
        if found:  # else a role without DELETE would be refused for nothing
            await self._execute("DELETE FROM aura_audit_1.entry WHERE at_ms < %s", before_ms)

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        async def fetch(connection: AsyncConnection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(query.encode(), values or None)).fetchall()

        return await self._run(fetch)

    async def _execute(self, statement: str, *values: Any) -> None:
        async def execute(connection: AsyncConnection) -> None:
            await connection.execute(statement.encode(), values)

        await self._run(execute)

    async def _run(self, work: Callable[[AsyncConnection], Awaitable[ResultT]]) -> ResultT:
        """Run `work` in a transaction; once more if the connection was lost since it was last used."""
        try:
            async with asyncio.timeout(_RESPONSE_SECONDS), self._lock:
                try:
                    return await self._in_transaction(work)
                except psycopg.OperationalError:
                    return await self._in_transaction(work)
        except TimeoutError as error:
            raise StorageUnavailable(f"the audit database did not answer within {_RESPONSE_SECONDS:g} s") from error
        except errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"AURA_AUDIT_URL: {_describe(error)}: let an administrator create the schema {SCHEMA} and GRANT this"
                " user USAGE on it, and SELECT and INSERT on its table (and DELETE, unless others remove old entries)"
            ) from error
        except (psycopg.Error, OSError) as error:
            raise StorageUnavailable("the audit database cannot be used", detail=_describe(error)[:300]) from error

    async def _in_transaction(self, work: Callable[[AsyncConnection], Awaitable[ResultT]]) -> ResultT:
        connection = self._connection or await self._connect()
        self._connection = connection
        try:
            async with connection.transaction():
                return await work(connection)
        except BaseException:
            self._connection = None
            await connection.close()
            raise

    async def _connect(self) -> AsyncConnection:
        connection = await AsyncConnection.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        found = await (await connection.execute("SELECT to_regclass('aura_audit_1.entry')")).fetchone()
        if found == (None,):
            async with connection.transaction():
                await connection.execute(_CREATE)
        return connection


def _row(chain: ChainName, entry: StoredEntry) -> tuple[Any, ...]:
    """Return an entry with its event as readable text; the bytes that the MAC covers are beside it."""
    event = entry.body.decode("utf-8", "replace").replace("\0", "")
    try:
        kind = str(json.loads(event)["kind"]).replace("\0", "")[:100]
        kind = kind.encode("utf-8", "replace").decode()
    except (ValueError, KeyError, TypeError, RecursionError):
        kind = None  # not written by the service; verification names the entry
    header = read_header(entry)
    sequence, at_ms = (header.sequence, header.at_ms) if header is not None else (entry.place[1], entry.place[0])
    digest = entry_hash(chain, entry)
    return *chain, sequence, at_ms, kind, event, entry.header, entry.body, entry.mac, digest


def _entries(rows: Sequence[tuple[Any, ...]]) -> list[StoredEntry]:
    return [
        StoredEntry((int(at_ms), int(sequence)), bytes(header), bytes(body), bytes(mac))
        for at_ms, sequence, header, body, mac in rows
    ]


def _describe(error: BaseException) -> str:
    """Return an error as one line, without its details."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join(f"{type(error).__name__}: {message or error}".split())
