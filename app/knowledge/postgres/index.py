"""The index on a search server: PostgreSQL with pgvector, shared by all replicas (`workspace.KnowledgeIndex`).

Every change is one transaction that holds the tenant's row: it matters neither who makes it, nor how often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.errors import ConfigurationError, StorageUnavailable
from app.knowledge.postgres.search import Finding
from app.knowledge.postgres.tables import Indexed, Tables
from app.knowledge.postgres.tsvector import document
from app.ports.knowledge import START, Hit, KnowledgeEntry, LogPosition, MissingVector, Query, Vector

ResultT = TypeVar("ResultT")

_CONNECTIONS = 4
_ANSWER_SECONDS = 4.0
_CANCEL_SECONDS = 1.0
_MAINTENANCE_SECONDS = 600.0
_END_OF_TIME = 1 << 62
_UNLESS_THE_URL_SAYS: dict[str, str | int] = {
    "application_name": "aura",
    "client_encoding": "utf8",
    "connect_timeout": 3,
    "tcp_user_timeout": 10_000,
}


class PostgresIndex:
    """One database for any number of processes. Each has four connections at most, made when there is need.

    `model` is the one whose vectors are asked with; pgvector is needed only where there is one. Raises
    `ConfigurationError` where the URL is none, or the database cannot be used.
    """

    def __init__(self, url: str, model: str | None) -> None:
        try:
            given = conninfo_to_dict(url)
            more = {name: value for name, value in _UNLESS_THE_URL_SAYS.items() if name not in given}
            self._conninfo = make_conninfo(url, **more)
        except psycopg.Error:  # its words may quote the password
            raise ConfigurationError(
                "AURA_KNOWLEDGE_URL: libpq does not understand it: percent-encode what is special in user and password,"
                " and see to the names behind the question mark"
            ) from None
        self._model = model
        self._generation = 0
        self._idle: list[AsyncConnection] = []
        self._free = asyncio.Semaphore(_CONNECTIONS)

    async def open(self, generation: int) -> None:
        self._generation = generation
        await self._do(self._begin)
        while await self._do(lambda connection: Tables(connection).drop_old()):
            pass

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def position(self, tenant_id: str) -> LogPosition:
        tenant = await self._do(lambda connection: Tables(connection).tenant(tenant_id))
        return tenant.position if tenant is not None else START

    async def apply(self, tenant_id: str, after: LogPosition, entries: Sequence[KnowledgeEntry]) -> None:
        await self._do(lambda connection: _take_in(Tables(connection), tenant_id, after, entries))
        tenant = await self._do(lambda connection: Tables(connection).tenant(tenant_id))
        if tenant is not None and tenant.wants_index:
            await self._do(lambda connection: Tables(connection).index_vectors(tenant_id), _MAINTENANCE_SECONDS)

    async def delete_before(self, tenant_id: str, first: LogPosition | None) -> None:
        ms = first[0] if first else _END_OF_TIME

        async def forget(connection: AsyncConnection) -> None:
            tables = Tables(connection)
            tenant = await tables.tenant(tenant_id)
            if tenant is None or not await tables.has_before(tenant, ms):
                return  # each search comes by here, and nearly none of them has anything to write
            tenant = await tables.tenant(tenant_id, locked=True)
            if tenant is not None:
                await tables.drop_before(tenant, ms)

        await self._do(forget)

    async def search(self, tenant_id: str, query: Query, vector: bytes | None) -> list[Hit]:
        return await self._do(lambda connection: Finding(connection, self._model).search(tenant_id, query, vector))

    async def list_missing_vectors(self, most: int) -> list[MissingVector]:
        return await self._do(lambda connection: Finding(connection, self._model).list_missing_vectors(most))

    async def _begin(self, connection: AsyncConnection) -> None:
        try:
            await Tables(connection).begin_edition(self._generation, self._model)
        except (errors.FeatureNotSupported, errors.UndefinedFile) as error:
            raise ConfigurationError(
                "AURA_KNOWLEDGE_URL: the server has no pgvector, which OPENAI_EMBEDDING_MODEL needs: install it"
                " (Debian: postgresql-NN-pgvector; managed servers: allow the extension), or search by words alone"
            ) from error
        except errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"AURA_KNOWLEDGE_URL: {_words(error)}: let an administrator GRANT CREATE ON DATABASE to this user, and"
                " CREATE EXTENSION vector where vectors are wanted"
            ) from error

    # --- connections --------------------------------------------------------------------------------------------------

    async def _do(self, work: Callable[[AsyncConnection], Awaitable[ResultT]], seconds: float | None = None) -> ResultT:
        """In a transaction. What is done may be done again: so it is, where what it needed had just gone."""
        seconds = seconds or _ANSWER_SECONDS
        try:
            # the first asks the server to stop; one that hangs does not answer that either, so there is a second
            async with asyncio.timeout(seconds + _CANCEL_SECONDS), asyncio.timeout(seconds), self._free:
                try:
                    return await self._once(work)
                except errors.UndefinedTable:  # emptied at this moment, or another database stands in for a lost one
                    await self._once(self._begin)
                except psycopg.OperationalError:  # a connection that the server has closed since it was last used
                    await self.close()
                return await self._once(work)
        except TimeoutError as error:
            raise StorageUnavailable(f"knowledge index: no answer within {seconds:g} s") from error
        except (psycopg.Error, OSError) as error:
            raise StorageUnavailable(f"knowledge index: {_words(error)}"[:300]) from error

    async def _once(self, work: Callable[[AsyncConnection], Awaitable[ResultT]]) -> ResultT:
        connection = self._idle.pop() if self._idle else await self._connected()
        try:
            async with connection.transaction():
                result = await work(connection)
        except BaseException:
            await connection.close()  # whatever state it is in: errors are rare, and a new one costs milliseconds
            raise
        self._idle.append(connection)
        return result

    async def _connected(self) -> AsyncConnection:
        # nothing is prepared: a pooler in between may give each transaction to another session
        return await AsyncConnection.connect(self._conninfo, autocommit=True, prepare_threshold=None)


async def _take_in(tables: Tables, tenant_id: str, after: LogPosition, entries: Sequence[KnowledgeEntry]) -> None:
    tenant = await tables.tenant(tenant_id, locked=True) or await tables.new_tenant(tenant_id)
    if tenant is None or tenant.position < after:
        return
    new = [logged for logged in entries if logged.position > tenant.position]  # another process may have been faster
    if not new:
        return
    events, vectors = await asyncio.to_thread(_sorted, new)
    if events:
        await tables.put_events(tenant, events)
    if vectors:
        await tables.put_vectors(tenant, vectors)
    await tables.move(tenant, new[-1].position)


def _sorted(entries: Sequence[KnowledgeEntry]) -> tuple[list[Indexed], list[Vector]]:
    """Events, each with its terms, and vectors: an event's come after it."""
    events = [
        Indexed(logged.position, logged.entry, document(logged.entry))
        for logged in entries
        if not isinstance(logged.entry, Vector)
    ]
    return events, [logged.entry for logged in entries if isinstance(logged.entry, Vector)]


def _words(error: BaseException) -> str:
    """What went wrong in one line; not the details, which may quote what people wrote."""
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join(f"{type(error).__name__}: {said or error}".split())
