"""The connections to the database of the archive, and what its failures mean."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from app.archive import tables
from app.errors import StorageUnavailable
from app.postgres.conninfo import CONNECT_SECONDS, conninfo_of

ResultT = TypeVar("ResultT")

_MAX_CONNECTIONS = 4
_RESPONSE_SECONDS = 10.0
_PAUSE_SECONDS = 2.0
"""For how long nobody waits for a database that did not answer: each request would otherwise wait for it anew."""


class Database:
    """A pool of connections, opened when it is needed. The constructor raises `ConfigurationError` for an invalid URL.

    Every method raises `StorageUnavailable`.
    """

    def __init__(self, url: str) -> None:
        self._conninfo = conninfo_of(url, "AURA_ARCHIVE_URL", "aura-archive")
        self._pool: AsyncConnectionPool[AsyncConnection] | None = None
        self._has_tables = False
        self._paused_until = 0.0

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        async def fetch(connection: AsyncConnection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(query.encode(), values or None)).fetchall()

        return await self.run(fetch)

    async def execute(self, statement: str, *values: Any) -> int:
        async def execute(connection: AsyncConnection) -> int:
            return (await connection.execute(statement.encode(), values)).rowcount

        return await self.run(execute)

    async def run(self, work: Callable[[AsyncConnection], Awaitable[ResultT]]) -> ResultT:
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
                detail=f"AURA_ARCHIVE_URL: {describe(error)}: let an administrator create the schema {tables.SCHEMA}"
                " and GRANT this user USAGE on it, and SELECT, INSERT, UPDATE and DELETE on its tables",
            ) from error
        except (TimeoutError, PoolTimeout, PoolClosed, OSError) as error:
            self._paused_until = loop.time() + _PAUSE_SECONDS
            raise StorageUnavailable("the archive did not answer in time", detail=describe(error)[:300]) from error
        except (errors.DataError, errors.ProgramLimitExceeded):
            raise
        except psycopg.Error as error:
            self._has_tables = False
            self._paused_until = loop.time() + _PAUSE_SECONDS
            raise StorageUnavailable("the archive cannot be used", detail=describe(error)[:300]) from error

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
                timeout=CONNECT_SECONDS,
                max_idle=60,
                reconnect_timeout=CONNECT_SECONDS,
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


def describe(error: BaseException) -> str:
    """Return an error as one line, without its details."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) and error.diag else None
    return " ".join(f"{type(error).__name__}: {message or error}".split())
