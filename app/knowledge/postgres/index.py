"""The index on a PostgreSQL server with pgvector, shared by all replicas (`ports.knowledge.KnowledgeIndex`).

Every change is one transaction that locks the tenant's row and is idempotent, so that any replica may make it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import psycopg
from psycopg import AsyncConnection, errors

from app.errors import ConfigurationError, StorageUnavailable
from app.knowledge.postgres.search import PostgresSearch
from app.knowledge.postgres.tables import PreparedEvent, Tables
from app.knowledge.postgres.tsvector import build_document
from app.ports.knowledge import START, AudienceRule, Hit, KnowledgeEntry, LogPosition, MissingVector, Query, Vector
from app.postgres.conninfo import conninfo_of

ResultT = TypeVar("ResultT")

RESPONSE_SECONDS = 4.0
CANCEL_SECONDS = 1.0
_MAX_CONNECTIONS = 4
_MAINTENANCE_SECONDS = 600.0
_END_OF_TIME = 1 << 62


class PostgresIndex:
    """An index in one database for any number of processes, each with at most four connections, opened when needed.

    `model` is the label of the embedding model, None without one; only with a model is pgvector needed. A vector index
    is made only if everybody of a tenant finds the same events: it cannot be searched for those of one person. The
    constructor raises `ConfigurationError` if the URL is not valid, the methods if the database cannot be used.
    """

    def __init__(self, url: str, model: str | None, audience: AudienceRule = "named") -> None:
        self._conninfo = conninfo_of(url, "AURA_KNOWLEDGE_URL", "aura")
        self._model = model
        self._has_vector_index = audience == "tenant"
        self._generation = 0
        self._idle: list[AsyncConnection] = []
        self._free = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def open(self, generation: int) -> None:
        self._generation = generation
        await self._run(self._begin_edition)
        while await self._run(lambda connection: Tables(connection).drop_one_old_tenant()):
            pass
        while await self._run(lambda connection: Tables(connection).drop_older_format()):
            pass

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def position(self, tenant_id: str) -> LogPosition:
        tenant = await self._run(lambda connection: Tables(connection).tenant(tenant_id))
        return tenant.position if tenant is not None else START

    async def apply(self, tenant_id: str, after: LogPosition, entries: Sequence[KnowledgeEntry]) -> None:
        await self._run(lambda connection: _apply(Tables(connection), tenant_id, after, entries))
        tenant = await self._run(lambda connection: Tables(connection).tenant(tenant_id))
        if tenant is not None and tenant.needs_vector_index and self._has_vector_index:
            await self._run(lambda connection: Tables(connection).index_vectors(tenant_id), _MAINTENANCE_SECONDS)

    async def delete_before(self, tenant_id: str, first: LogPosition | None) -> None:
        ms = first[0] if first else _END_OF_TIME

        async def delete(connection: AsyncConnection) -> None:
            tables = Tables(connection)
            tenant = await tables.tenant(tenant_id)
            if tenant is None or not await tables.has_events_before(tenant, ms):
                return  # each search calls this, and hardly any has something to delete
            tenant = await tables.tenant(tenant_id, locked=True)
            if tenant is not None:
                await tables.delete_events_before(tenant, ms)

        await self._run(delete)

    async def search(
        self, tenant_id: str, query: Query, vector: bytes | None, names: frozenset[str] | None
    ) -> list[Hit]:
        return await self._run(
            lambda connection: PostgresSearch(connection, self._model).search(tenant_id, query, vector, names)
        )

    async def list_missing_vectors(self, limit: int) -> list[MissingVector]:
        return await self._run(lambda connection: PostgresSearch(connection, self._model).list_missing_vectors(limit))

    async def _begin_edition(self, connection: AsyncConnection) -> None:
        try:
            await Tables(connection).begin_edition(self._generation, self._model)
        except (errors.FeatureNotSupported, errors.UndefinedFile) as error:
            raise ConfigurationError(
                "AURA_KNOWLEDGE_URL: the server has no pgvector, which OPENAI_EMBEDDING_MODEL needs: install it"
                " (Debian: postgresql-NN-pgvector; managed servers: allow the extension), or unset the model to search"
                " by words only"
            ) from error
        except errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"AURA_KNOWLEDGE_URL: {_describe(error)}: let an administrator GRANT CREATE ON DATABASE to this user,"
                " and run CREATE EXTENSION vector if OPENAI_EMBEDDING_MODEL is set"
            ) from error

    # --- connections --------------------------------------------------------------------------------------------------

    async def _run(
        self, work: Callable[[AsyncConnection], Awaitable[ResultT]], seconds: float | None = None
    ) -> ResultT:
        """Runs `work` in a transaction, within `seconds`; once more if the tables or the connection were lost."""
        seconds = seconds or RESPONSE_SECONDS
        try:
            # The inner timeout cancels the query on the server. The outer one ends the wait if that hangs, too.
            async with asyncio.timeout(seconds + CANCEL_SECONDS), asyncio.timeout(seconds), self._free:
                try:
                    return await self._in_transaction(work)
                except errors.UndefinedTable:  # the index was emptied just now, or the database was replaced
                    await self._in_transaction(self._begin_edition)
                except psycopg.OperationalError:  # a connection that the server has closed since it was last used
                    await self.close()
                return await self._in_transaction(work)
        except TimeoutError as error:
            raise StorageUnavailable(f"the knowledge index did not answer within {seconds:g} s") from error
        except (psycopg.Error, OSError) as error:
            raise StorageUnavailable("the knowledge index cannot be used", detail=_describe(error)[:300]) from error

    async def _in_transaction(self, work: Callable[[AsyncConnection], Awaitable[ResultT]]) -> ResultT:
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            async with connection.transaction():
                result = await work(connection)
        except BaseException:
            await connection.close()  # its state is unknown; errors are rare and a new connection takes milliseconds
            raise
        self._idle.append(connection)
        return result

    async def _connect(self) -> AsyncConnection:
        # No prepared statements: a connection pooler may run each transaction in another session.
        return await AsyncConnection.connect(self._conninfo, autocommit=True, prepare_threshold=None)


async def _apply(tables: Tables, tenant_id: str, after: LogPosition, entries: Sequence[KnowledgeEntry]) -> None:
    tenant = await tables.tenant(tenant_id, locked=True) or await tables.add_tenant(tenant_id)
    if tenant is None or tenant.position < after:
        return
    new = [logged for logged in entries if logged.position > tenant.position]  # another process may have indexed some
    if not new:
        return
    events, vectors = await asyncio.to_thread(_prepare, new)
    if events:
        await tables.put_events(tenant, events)
    if vectors:
        await tables.put_vectors(tenant, vectors)
    await tables.set_position(tenant, new[-1].position)


def _prepare(entries: Sequence[KnowledgeEntry]) -> tuple[list[PreparedEvent], list[Vector]]:
    """Returns the events, each with its terms, and the vectors."""
    events = [
        PreparedEvent(logged.position, logged.entry, build_document(logged.entry))
        for logged in entries
        if not isinstance(logged.entry, Vector)
    ]
    return events, [logged.entry for logged in entries if isinstance(logged.entry, Vector)]


def _describe(error: BaseException) -> str:
    """Returns an error as one line, without its details, which may quote what people wrote."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join(f"{type(error).__name__}: {message or error}".split())
