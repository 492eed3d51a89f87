"""Finds the runs that a failover has left without a node that writes them.

In a cluster the record of a run, the list of its node and the register of the nodes can be on different masters, and a
failover may take the last writes of one of them. Then a run that goes on is listed nowhere, or the end of a run is lost
and its node does not know. So the records of all runs are read some time after each failover, and after the start of a
process: all processes that noticed the failover may have ended.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog

from app.errors import StorageUnavailable
from app.ports.journal import RunLock, RunRecord
from app.ports.nodes import RunOwner
from app.redis import keys, scripts
from app.redis.run_index import read_records
from app.redis.run_lists import list_locked
from app.redis.wire.connection import Connection
from app.redis.wire.errors import is_refusal

_MARGIN_SECONDS = 1.0
"""How long the search waits after every lease of the time of the failover has ended."""

log = structlog.get_logger(__name__)


class Orphans:
    """The search of one process. `hand_over` gives runs to an owner that is never alive (`ports.nodes.Nodes`)."""

    def __init__(
        self,
        connection: Connection,
        node_id: Callable[[], str],
        hand_over: Callable[[Sequence[RunLock]], Awaitable[None]],
        *,
        lease_seconds: float,
    ) -> None:
        self._connection = connection
        self._node_id = node_id
        self._hand_over = hand_over
        self._lease_seconds = lease_seconds
        # A run that this process does not write after this time either is not one that it is just creating.
        self._recheck_seconds = 2 * connection.timeout_seconds + _MARGIN_SECONDS
        self._dead = connection.register(scripts.DEAD)
        self._failovers = -1  # none is known yet: the first search is that of the start
        self._due_at: float | None = None  # in the time of the event loop
        self._search: asyncio.Task[None] | None = None

    def check(self, owner: RunOwner) -> None:
        """Start a search when it is due, unless one is under way. A single server has no failovers, so no orphans."""
        if not self._connection.stats().has_failovers:
            return
        if self._failovers != self._connection.failovers:
            self._failovers = self._connection.failovers
            self._plan()
        is_running = self._search is not None and not self._search.done()
        if self._due_at is not None and asyncio.get_running_loop().time() >= self._due_at and not is_running:
            self._due_at = None
            self._search = asyncio.create_task(self._run(owner))

    async def stop(self) -> None:
        if self._search is not None:
            self._search.cancel()
            await asyncio.gather(self._search, return_exceptions=True)

    def _plan(self) -> None:
        """Search when the leases of now have ended. The processes do not all begin in the same moment."""
        jitter = random.uniform(0, self._lease_seconds / 4)  # noqa: S311 - not a secret
        self._due_at = asyncio.get_running_loop().time() + self._lease_seconds + _MARGIN_SECONDS + jitter

    async def _run(self, owner: RunOwner) -> None:
        """Search once; where that fails, another time."""
        try:
            forgotten = await self._list_again(owner)
            if forgotten:
                await asyncio.sleep(self._recheck_seconds)
                await self._release_forgotten(forgotten, owner)
        except StorageUnavailable as error:
            log.warning("orphans.not_found", cause=error.log_cause)
            self._plan()
        except Exception:  # what others have written may have any form
            log.exception("orphans.not_found")
            self._plan()

    async def _list_again(self, owner: RunOwner) -> list[str]:
        """List the runs of dead nodes with these nodes. Returns the runs of this process that it does not write."""
        living, forgotten = await self._living_nodes(), list[str]()
        async for names in self._connection.scan(keys.ANY_RUN):
            records = await self._read_unfinished(keys.sessions(name.rpartition(b":")[2] for name in names))
            await self._list([record for record in records if record.owner not in living])
            forgotten += [record.session_id for record in records if self._is_forgotten(record, owner)]
        return forgotten

    async def _living_nodes(self) -> frozenset[str]:
        nodes, dead = await self._connection.pipeline(
            [("ZRANGE", keys.NODES, 0, -1), self._dead.command(nodes_key=keys.NODES)]
        )
        return frozenset(node.decode("utf-8", "replace") for node in {*nodes} - {*dead})

    async def _read_unfinished(self, session_ids: Sequence[str]) -> list[RunRecord]:
        records = await read_records(self._connection, session_ids)
        return [record for record in records if record is not None and not record.is_final]

    async def _list(self, records: Sequence[RunRecord]) -> None:
        """List each run with its owner. Raises `StorageUnavailable`, but not where others have written another type."""
        commands = [command for record in records for command in list_locked(record.owner, [_lock(record)])]
        replies = await self._connection.pipeline_results(commands)
        for reply in replies:
            if isinstance(reply, Exception) and not (isinstance(reply, StorageUnavailable) and is_refusal(reply)):
                raise reply
        for record, added in zip(records, replies[::2], strict=True):
            if added == 1:
                _report(record)

    def _is_forgotten(self, record: RunRecord, owner: RunOwner) -> bool:
        return record.owner == self._node_id() and not owner.owns(record.session_id)

    async def _release_forgotten(self, session_ids: Sequence[str], owner: RunOwner) -> None:
        """Hand over the runs that this process still does not write."""
        records = [it for it in await self._read_unfinished(session_ids) if self._is_forgotten(it, owner)]
        for record in records:
            _report(record)
        await self._hand_over([_lock(record) for record in records])


def _report(record: RunRecord) -> None:
    log.warning("run.listed_again", sessionId=record.session_id, ofNode=keys.real_node(record.owner))


def _lock(record: RunRecord) -> RunLock:
    """Return a lock made from a record. The time of the creation is that in the session id."""
    return RunLock(record.session_id, record.epoch, float(record.session_id.split("_")[-2]))
