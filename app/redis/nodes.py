"""Which node writes which run, in Redis: one lease per node (`ports.nodes.Nodes`).

A lease is renewed with one write, however many runs the node has. A node that cannot renew its lease releases its runs
before the lease ends; if it was suspended and writes later all the same, the journal refuses the write (fencing).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import Sequence
from typing import Any

import structlog

from app.errors import StorageUnavailable
from app.ports.journal import RunLock
from app.ports.nodes import RunOwner
from app.redis import keys, scripts
from app.redis.orphans import Orphans
from app.redis.run_lists import RunLists, list_locked, list_runs
from app.redis.takeover import Takeover
from app.redis.wire.acknowledgements import Acknowledgements
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from app.redis.wire.script import Command
from app.retry import retry_until_available
from statemachine.foreign_json import ForeignJsonInvalid, parse_object, read_text
from statemachine.sessions import is_session_id

_BATCH_RUNS = 500
_BATCH_RELEASES = 50

log = structlog.get_logger(__name__)


class RedisNodes:
    """This process as one of the nodes. `node_id` is a new one after each loss of the lease."""

    def __init__(
        self,
        connection: Connection,
        pubsub: PubSub,
        *,
        node_id: str,
        lease_seconds: float,
        takeover_limit: int,
        acknowledgements: Acknowledgements,
    ) -> None:
        self.node_id = node_id
        self._connection = connection
        self._pubsub = pubsub
        self._lease_seconds = lease_seconds
        self.lists = RunLists(connection)
        self._takeover = Takeover(connection, lambda: self.node_id, self.lists, acknowledgements, limit=takeover_limit)
        self._lease = connection.register(scripts.LEASE)
        self._cancel = connection.register(scripts.CANCEL)
        self._release = connection.register(scripts.RELEASE)
        self._lease_ends_at = 0.0  # in the time of the event loop
        self._is_lost = True
        self._renewal: asyncio.Task[None] | None = None
        self._takeover_task: asyncio.Task[None] | None = None
        self._orphans = Orphans(connection, lambda: self.node_id, self.hand_over, lease_seconds=lease_seconds)
        self._cancel_check: asyncio.Task[None] | None = None
        self._cancellations: set[asyncio.Task[None]] = set()
        self._owner: RunOwner

    def subscribe(self, owner: RunOwner) -> None:
        self._owner = owner

    @property
    def has_lease(self) -> bool:
        return not self._is_lost and asyncio.get_running_loop().time() < self._lease_ends_at

    async def start(self) -> None:
        with contextlib.suppress(StorageUnavailable):
            await self._renew()
        self._renewal = asyncio.create_task(self._keep_lease())

    async def stop(self) -> None:
        """End the lease at once, so that other nodes need not wait for its end."""
        if self._renewal is not None:
            started = (self._renewal, self._takeover_task, self._cancel_check, *self._cancellations)
            tasks = [task for task in started if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, self.lists.stop(), self._orphans.stop(), return_exceptions=True)
        with contextlib.suppress(StorageUnavailable):
            await self._run_lease(lease_ms=0, renew_only=False)

    def list_run(self, session_id: str, created_at: float) -> list[Command]:
        """Return the writes that list a run with this node. Send them before the run is created, since a run that no
        node lists is never taken over. `created_at` is Unix seconds."""
        return list_runs(self.node_id, [(int(created_at * 1000), session_id)])

    def unlist_run(self, session_id: str) -> Command:
        """Return the write that removes a run from the list of this node. Without it the run is removed when another
        node tries to take it over."""
        return ("ZREM", keys.runs_on(self.node_id), session_id)

    async def hand_over(self, locks: Sequence[RunLock]) -> None:
        """Change the owner to one that is never alive. Each run is listed with that owner first, so that it is always
        listed; where the change fails, the entry is removed by the next takeover."""
        new_owner, failovers = keys.released_by(self.node_id), self._connection.failovers
        for start in range(0, len(locks), _BATCH_RELEASES):
            batch = locks[start : start + _BATCH_RELEASES]
            lists = list_locked(new_owner, batch)
            await self._connection.pipeline(lists)
            # One after the other: the masters of a cluster do not wait for each other.
            releases = await self._connection.pipeline(
                [
                    self._release.command(
                        run_key=keys.run(lock.session_id), old_owner=self.node_id, epoch=lock.epoch, new_owner=new_owner
                    )
                    for lock in batch
                ]
            )
            released = [lock.session_id for lock, is_released in zip(batch, releases, strict=True) if is_released]
            await self._connection.pipeline([self.unlist_run(session_id) for session_id in released])
            if self._connection.failovers != failovers:  # it may have removed the entries before the runs were released
                await self._connection.pipeline(lists)

    # --- cancel requests ----------------------------------------------------------------------------------------------

    async def request_cancel(self, session_id: str, cancelled_by: str) -> bool:
        reply = await self._connection.run_script(self._cancel, run_key=keys.run(session_id), cancelled_by=cancelled_by)
        if reply[0] != b"OK":
            return False
        owner = reply[1].decode("utf-8", "replace")
        message = json.dumps({"sessionId": session_id, "cancelledBy": cancelled_by})
        await self._connection.execute("PUBLISH", keys.node(owner), message)
        return True

    def _on_message(self, message: bytes | None) -> None:
        """Check the run that a message names. A new subscription checks all runs, since a message may be lost."""
        if message is None:
            if self._cancel_check is None or self._cancel_check.done():
                self._cancel_check = asyncio.create_task(self._check_cancel_requests())
            return
        with contextlib.suppress(ForeignJsonInvalid):
            session_id = read_text(parse_object(message), "sessionId")
            if session_id is not None and is_session_id(session_id):
                check = asyncio.create_task(self._cancel_if_requested(session_id))
                self._cancellations.add(check)
                check.add_done_callback(self._cancellations.discard)

    async def _cancel_if_requested(self, session_id: str) -> None:
        """Cancel a run if its record says so: a message is only a wake-up, and its sender may name anybody."""
        await retry_until_available(lambda: self._cancel_requested([session_id]))

    async def _check_cancel_requests(self) -> None:
        await retry_until_available(self._cancel_all_requested)

    async def _cancel_all_requested(self) -> None:
        listed = await self._connection.execute("ZRANGE", keys.runs_on(self.node_id), 0, -1)
        session_ids = keys.sessions(listed)
        for start in range(0, len(session_ids), _BATCH_RUNS):
            await self._cancel_requested(session_ids[start : start + _BATCH_RUNS])

    async def _cancel_requested(self, session_ids: list[str]) -> None:
        """Cancel those of these runs whose cancellation is recorded."""
        records = await self._connection.pipeline([("HGET", keys.run(id), "cancelled_by") for id in session_ids])
        for session_id, cancelled_by in zip(session_ids, records, strict=True):
            if cancelled_by is not None:
                self._owner.cancel_local(session_id, cancelled_by.decode("utf-8", "replace"))

    # --- the lease ----------------------------------------------------------------------------------------------------

    async def _keep_lease(self) -> None:
        """Renew the lease, and take over runs while it is valid."""
        period = min(0.5, self._lease_seconds / 4)
        while True:
            await asyncio.sleep(period * random.uniform(0.8, 1.0))  # noqa: S311 - jitter, not a secret
            try:
                # The timeout makes the end of the lease noticed in time while Redis does not answer.
                async with asyncio.timeout(min(2.0, self._lease_seconds / 2)):
                    await self._renew()
            except (StorageUnavailable, TimeoutError) as error:
                cause = error.log_cause if isinstance(error, StorageUnavailable) else "no answer in time"
                log.warning("node.unreachable", cause=cause)
            self._check_lease()
            if not self.has_lease:
                continue
            self.lists.restore(self.node_id, self._owner)
            self._orphans.check(self._owner)
            if self._takeover_task is None or self._takeover_task.done():
                self._takeover_task = asyncio.create_task(self._takeover.run(self._owner))

    async def _renew(self) -> None:
        """Renew the lease, or acquire one after a loss. It counts from before the write, so that this node does not
        consider it valid for longer than the other nodes do."""
        requested_at = asyncio.get_running_loop().time()
        if await self._run_lease(lease_ms=int(self._lease_seconds * 1000), renew_only=not self._is_lost):
            self._lease_ends_at = requested_at + self._lease_seconds
            if self._is_lost:
                self._is_lost = False
                log.info("node.joined", nodeId=self.node_id)
                await self._pubsub.subscribe(keys.node(self.node_id), self._on_message)
        else:
            self._lose("it ran out")

    async def _run_lease(self, *, lease_ms: int, renew_only: bool) -> Any:
        return await self._connection.run_script(
            self._lease, nodes_key=keys.NODES, node_id=self.node_id, lease_ms=lease_ms, renew_only=int(renew_only)
        )

    def _check_lease(self) -> None:
        """Give up a lease that is about to end without having been renewed."""
        margin = min(1.0, self._lease_seconds / 4)
        if not self._is_lost and asyncio.get_running_loop().time() > self._lease_ends_at - margin:
            self._lose("it could not be renewed")

    def _lose(self, cause: str) -> None:
        """Release all runs: from here on another node may write them. This node continues under a new id."""
        self._is_lost = True
        log.warning("node.lease_lost", nodeId=self.node_id, cause=cause)
        self._pubsub.unsubscribe(keys.node(self.node_id))
        self.lists.doubt(self.node_id, self._owner.locks())  # where a failover took the lease, it may have taken more
        self.node_id = new_node_id()
        self._owner.release_all()


def new_node_id() -> str:
    return f"node-{secrets.token_hex(4)}"
