"""The lists of the nodes' runs: a run that no node lists would never be taken over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import structlog

from app.errors import StorageUnavailable
from app.ports.journal import RunLock
from app.ports.nodes import RunOwner
from app.redis import keys
from app.redis.wire.connection import Connection
from app.redis.wire.errors import is_refusal
from app.redis.wire.script import Command

_BATCH_RUNS = 500

log = structlog.get_logger(__name__)


def list_runs(node_id: str, runs: Iterable[tuple[Any, str]]) -> list[Command]:
    """Return the writes that list runs with a node, and register the node as dead if it is not registered.

    A run is the time of its creation (ms) and its session id.
    """
    return [
        ("ZADD", keys.runs_on(node_id), *chain.from_iterable(runs)),
        ("ZADD", keys.NODES, "NX", 0, node_id),
    ]


def list_locked(node_id: str, locks: Sequence[RunLock]) -> list[Command]:
    """Return the writes that list the runs of these locks with a node."""
    return list_runs(node_id, [(int(lock.created_at * 1000), lock.session_id) for lock in locks])


class RunLists:
    """Lists the runs of this process again after a failover: the new master may lack entries."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._failovers = connection.failovers
        self._doubtful: dict[str, list[RunLock]] = {}
        self._restoring: asyncio.Task[None] | None = None

    def doubt(self, node_id: str, locks: Iterable[RunLock]) -> None:
        """Have these runs listed again with a node at the next `restore`: their list may be incomplete."""
        self._doubtful[node_id] = [*self._doubtful.get(node_id, ()), *locks]

    def doubt_since(self, failovers: int, node_id: str, lock: RunLock) -> None:
        """Have a run listed again that was being created or claimed, if the number of failovers is `failovers` no
        longer: one may have removed the entry, and the others may have been listed again before this run was known."""
        if self._connection.failovers != failovers:
            self.doubt(node_id, [lock])

    def restore(self, node_id: str, owner: RunOwner) -> None:
        """Begin to list all runs again whose list may be incomplete. While Redis is unavailable, the next call tries it
        again.

        A run that is listed and has another owner, or has ended, does not matter: its claim is refused.
        """
        if self._failovers != self._connection.failovers:
            self._failovers = self._connection.failovers
            self.doubt(node_id, owner.locks())
        if self._doubtful and (self._restoring is None or self._restoring.done()):
            self._restoring = asyncio.create_task(self._restore())

    async def stop(self) -> None:
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.gather(self._restoring, return_exceptions=True)

    async def _restore(self) -> None:
        for node_id, locks in list(self._doubtful.items()):
            if await self._list(node_id, locks) and self._doubtful.get(node_id) is locks:
                del self._doubtful[node_id]

    async def _list(self, node_id: str, locks: Sequence[RunLock]) -> bool:
        """Return whether nothing is left to be tried again."""
        try:
            for start in range(0, len(locks), _BATCH_RUNS):
                await self._connection.pipeline(list_locked(node_id, locks[start : start + _BATCH_RUNS]))
        except StorageUnavailable as error:
            log.warning("node.runs_not_listed", ofNode=node_id, cause=error.log_cause)
            return is_refusal(error)  # others have written another type there, which does not change by itself
        return True
