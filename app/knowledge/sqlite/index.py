"""The embedded index behind its port: all of SQLite's work is done in one thread of its own, off the event loop."""

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
    """One file that processes of a machine may share; without a `path` a temporary one of this process's own.

    `model` is the one whose vectors are asked with; other processes may have another. Raises `ConfigurationError`
    where the file cannot be opened.
    """

    def __init__(self, path: str | None, model: str | None) -> None:
        self._path = path
        self._model = model
        self._thread: ThreadPoolExecutor | None = None
        self._database: Database | None = None

    async def open(self, generation: int) -> None:
        await self._do(lambda database: database.keep_only(generation))

    async def close(self) -> None:
        if self._database is not None:
            await self._do(lambda database: database.close())
        if self._thread is not None:
            self._thread.shutdown()
        self._thread = self._database = None

    async def position(self, tenant_id: str) -> LogPosition:
        return await self._do(lambda database: database.position(tenant_id))

    async def apply(self, tenant_id: str, after: LogPosition, entries: Sequence[KnowledgeEntry]) -> None:
        await self._do(lambda database: database.apply(tenant_id, after, entries))

    async def delete_before(self, tenant_id: str, first: LogPosition | None) -> None:
        await self._do(lambda database: database.delete_before(tenant_id, first))

    async def search(self, tenant_id: str, query: Query, vector: bytes | None) -> list[Hit]:
        return await self._do(lambda database: database.search(tenant_id, query, vector))

    async def list_missing_vectors(self, most: int) -> list[MissingVector]:
        return await self._do(lambda database: database.list_missing_vectors(most))

    async def _do(self, work: Callable[[Database], ResultT]) -> ResultT:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="knowledge")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)
        except (apsw.CantOpenError, apsw.NotADBError, apsw.ReadOnlyError, apsw.CorruptError) as error:
            raise ConfigurationError(
                f"AURA_KNOWLEDGE_PATH: {self._path}: {error}; name a file that this user can write. It holds nothing"
                " that Redis does not: a broken one may be deleted"
            ) from error
        except apsw.Error as error:
            raise StorageUnavailable(f"knowledge index: {type(error).__name__}: {error}"[:200]) from error

    def _work(self, work: Callable[[Database], ResultT]) -> ResultT:
        if self._database is None:  # a connection is its thread's
            self._database = Database(self._path or "", self._model)
        return work(self._database)
