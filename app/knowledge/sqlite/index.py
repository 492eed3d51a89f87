"""The embedded index (`ports.knowledge.KnowledgeIndex`): SQLite runs in a thread of its own, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import apsw

from app.errors import ConfigurationError, StorageUnavailable
from app.knowledge.sqlite.database import Database
from app.ports.knowledge import Hit, KnowledgeEntry, LogPosition, MissingVector, Query

ResultT = TypeVar("ResultT")


class SqliteIndex:
    """An index in one file that the processes of a machine may share; in a temporary file if `path` is None.

    `model` is the label of the embedding model that queries are embedded with, None without one; other processes may
    use another model. Every method raises `ConfigurationError` if the file cannot be used.
    """

    def __init__(self, path: str | None, model: str | None) -> None:
        self._path = path
        self._model = model
        self._thread: ThreadPoolExecutor | None = None
        self._database: Database | None = None

    async def open(self, generation: int) -> None:
        await self._run(lambda database: database.open_generation(generation))

    async def close(self) -> None:
        if self._database is not None:
            await self._run(lambda database: database.close())
        if self._thread is not None:
            self._thread.shutdown()
        self._thread = self._database = None

    async def position(self, tenant_id: str) -> LogPosition:
        return await self._run(lambda database: database.position(tenant_id))

    async def apply(self, tenant_id: str, after: LogPosition, entries: Sequence[KnowledgeEntry]) -> None:
        await self._run(lambda database: database.apply(tenant_id, after, entries))

    async def delete_before(self, tenant_id: str, first: LogPosition | None) -> None:
        await self._run(lambda database: database.delete_before(tenant_id, first))

    async def search(self, tenant_id: str, query: Query, vector: bytes | None) -> list[Hit]:
        return await self._run(lambda database: database.search(tenant_id, query, vector))

    async def list_missing_vectors(self, limit: int) -> list[MissingVector]:
        return await self._run(lambda database: database.list_missing_vectors(limit))

    async def _run(self, work: Callable[[Database], ResultT]) -> ResultT:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="knowledge")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run_in_thread, work)
        except (apsw.CantOpenError, apsw.NotADBError, apsw.ReadOnlyError, apsw.CorruptError) as error:
            raise ConfigurationError(
                f"AURA_KNOWLEDGE_PATH: {self._path}: {error}; name a file that this user can write. All of its"
                " content is rebuilt from Redis: a broken file may be deleted"
            ) from error
        except apsw.Error as error:
            raise StorageUnavailable(
                "the knowledge index cannot be used", detail=f"{type(error).__name__}: {error}"[:200]
            ) from error

    def _run_in_thread(self, work: Callable[[Database], ResultT]) -> ResultT:
        if self._database is None:  # opened here because a connection belongs to its thread
            self._database = Database(self._path or "", self._model)
        return work(self._database)
