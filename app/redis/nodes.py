"""Which node writes which run: one lease a node, a takeover of what a dead node left (`ports.Nodes`).

A lease is renewed with one write however many runs the node has. A node that cannot renew lets go of its runs before
its lease ends; were it to wake up later all the same, the journal refuses its writes (fencing).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog

from app.errors import StorageUnavailable
from app.ports.journal import RunLock
from app.ports.nodes import RunOwner
from app.redis import keys, scripts
from app.redis.wire.connection import Command, Connection
from app.redis.wire.pubsub import PubSub

_BATCH = 500
_RELEASED = 50
_PAUSE_SECONDS = 0.5

log = structlog.get_logger(__name__)


class RedisNodes:
    """This process among the other nodes."""

    def __init__(
        self,
        connection: Connection,
        pubsub: PubSub,
        *,
        node_id: str,
        lease_seconds: float,
        takeover_limit: int,
    ) -> None:
        self.node_id = node_id
        self._connection = connection
        self._pubsub = pubsub
        self._lease_seconds = lease_seconds
        self._takeover_limit = takeover_limit
        self._lease = connection.register(scripts.LEASE)
        self._dead = connection.register(scripts.DEAD)
        self._claim = connection.register(scripts.CLAIM)
        self._cancel = connection.register(scripts.CANCEL)
        self._release = connection.register(scripts.RELEASE)
        self._valid_until = 0.0
        self._is_lost = True
        self._task: asyncio.Task[None] | None = None
        self._taking_over: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._owner: RunOwner

    def subscribe(self, owner: RunOwner) -> None:
        self._owner = owner

    @property
    def has_lease(self) -> bool:
        """Whether the lease holds: only then may this node start a run."""
        return not self._is_lost and asyncio.get_running_loop().time() < self._valid_until

    async def start(self) -> None:
        with contextlib.suppress(StorageUnavailable):
            await self._renew()
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """Give the lease up at once, so that others need not wait for its end."""
        if self._task is not None:
            living = [task for task in (self._task, self._taking_over, self._looking) if task is not None]
            for task in living:
                task.cancel()
            await asyncio.gather(*living, return_exceptions=True)
        with contextlib.suppress(StorageUnavailable):
            await self._connection.run_script(self._lease, [keys.NODES], [self.node_id, 0, 0])

    def enlist(self, session_id: str, created_at: float) -> list[Command]:
        """The writes that list a run with this node; they go before the run's own: no run is without a node."""
        return self._listing(self.node_id, session_id, int(created_at * 1000))

    def _listing(self, node_id: str, session_id: str, score: Any) -> list[Command]:
        """Whoever lists a run makes sure that its node is known, dead at the least: it may have been forgotten."""
        return [
            ("ZADD", keys.runs_on(node_id), score, session_id),
            ("ZADD", keys.NODES, "NX", 0, node_id),
        ]

    def delist(self, session_id: str) -> Command:
        """Its counterpart; a leftover does no harm, whoever would take the run over drops it."""
        return ("ZREM", keys.runs_on(self.node_id), session_id)

    async def hand_over(self, locks: Sequence[RunLock]) -> None:
        """Listed with those that wait before it is let go of; a leftover there is dropped by whoever would take it."""
        left = keys.left_by(self.node_id)
        for start in range(0, len(locks), _RELEASED):
            commands: list[Command] = []
            for lock in locks[start : start + _RELEASED]:
                commands += self._listing(left, lock.session_id, int(lock.created_at * 1000))
                commands.append(self._release.command([keys.run(lock.session_id)], [self.node_id, lock.epoch, left]))
                commands.append(self.delist(lock.session_id))
            await self._connection.pipeline(commands)

    async def request_cancel(self, session_id: str, cancelled_by: str) -> bool:
        run = keys.run(session_id)
        answer = await self._connection.run_script(self._cancel, [run], [cancelled_by])
        if answer[0] != b"OK":
            return False
        owner = answer[1].decode()
        message = json.dumps({"sessionId": session_id, "cancelledBy": cancelled_by})
        await self._connection.execute("PUBLISH", keys.node(owner), message)
        return True

    def _heard(self, message: bytes | None) -> None:
        """A request to this node. With a new subscription the records are looked at: one may have been lost."""
        if message is None:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_for_cancels())
        else:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                asked = json.loads(message)
                self._owner.cancel_local(asked["sessionId"], asked["cancelledBy"])

    async def _look_for_cancels(self) -> None:
        while True:
            try:
                listed = await self._connection.execute("ZRANGE", keys.runs_on(self.node_id), 0, -1)
                for start in range(0, len(listed), _BATCH):
                    await self._look_at([raw.decode() for raw in listed[start : start + _BATCH]])
                return
            except StorageUnavailable:
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _look_at(self, session_ids: list[str]) -> None:
        asked = await self._connection.pipeline([("HGET", keys.run(id), "cancelled_by") for id in session_ids])
        for session_id, cancelled_by in zip(session_ids, asked, strict=True):
            if cancelled_by is not None:
                self._owner.cancel_local(session_id, cancelled_by.decode())

    async def _live(self) -> None:
        period = min(0.5, self._lease_seconds / 4)
        while True:
            await asyncio.sleep(period * random.uniform(0.8, 1.0))  # noqa: S311 - jitter, not a secret
            try:
                # A server that hangs must not hide that the lease ends.
                async with asyncio.timeout(min(2.0, self._lease_seconds / 2)):
                    await self._renew()
            except (StorageUnavailable, TimeoutError) as error:
                log.warning("node.unreachable", cause=str(error) or "no answer in time")
            self._notice_loss()
            if self.has_lease and (self._taking_over is None or self._taking_over.done()):
                self._taking_over = asyncio.create_task(self._take_over())

    async def _renew(self) -> None:
        """The lease counts from before the write, so that this node believes in it no longer than the others."""
        asked_at = asyncio.get_running_loop().time()
        args = [self.node_id, int(self._lease_seconds * 1000), int(not self._is_lost)]
        if await self._connection.run_script(self._lease, [keys.NODES], args):
            self._valid_until = asked_at + self._lease_seconds
            if self._is_lost:
                self._is_lost = False
                log.info("node.joined", nodeId=self.node_id)
                await self._pubsub.subscribe(keys.node(self.node_id), self._heard)
        else:
            self._lose("it ran out")

    def _notice_loss(self) -> None:
        margin = min(1.0, self._lease_seconds / 4)
        if not self._is_lost and asyncio.get_running_loop().time() > self._valid_until - margin:
            self._lose("it could not be renewed")

    def _lose(self, cause: str) -> None:
        """From here on another node may write the runs. This one begins anew under another name."""
        self._is_lost = True
        log.warning("node.lease_lost", node=self.node_id, cause=cause)
        self._pubsub.unsubscribe(keys.node(self.node_id))
        self.node_id = new_node_id()
        self._owner.release_all()

    async def _take_over(self) -> None:
        try:
            dead = await self._connection.run_script(self._dead, [keys.NODES], [])
            random.shuffle(dead)  # so that the living share the work
            for raw in dead:
                if raw.decode() != self.node_id:  # it will notice; a run claimed from oneself would be listed nowhere
                    await self._inherit(raw.decode())
        except StorageUnavailable as error:
            log.warning("takeover.paused", cause=error.cause)

    async def _inherit(self, dead: str) -> None:
        """A dead node's runs, oldest first, some at a time; the last one to leave puts the light out."""
        own, left = self.node_id, keys.runs_on(dead)
        passed_over = 0  # not for this node: it is full, or the runs are a newer release's
        while self.node_id == own:
            last = passed_over + self._takeover_limit - 1
            sessions = await self._connection.execute("ZRANGE", left, passed_over, last, "WITHSCORES")
            if not sessions:
                if not passed_over:
                    await self._bury(dead)
                return
            # All at once: each takes several round trips, and the last one must not wait for all the others.
            adopted = await asyncio.gather(
                *(self._adopt(own, dead, raw.decode(), score) for raw, score in _scored(sessions)),
                return_exceptions=True,
            )
            for is_gone in adopted:
                if isinstance(is_gone, BaseException):
                    raise is_gone
                passed_over += not is_gone

    async def _adopt(self, own: str, dead: str, session_id: str, score: Any) -> bool:
        """Whether the run is listed with the dead node no more."""
        claims: list[RunLock | None] = []
        await self._owner.take_over(session_id, partial(self._take, own, dead, session_id, score, claims))
        if any(claims):  # not before it is carried here: what fails half way is found there again
            await self._connection.execute("ZREM", keys.runs_on(dead), session_id)
        return bool(claims)

    async def _bury(self, dead: str) -> None:
        """Forget a dead node, unless a write of its last moments has just listed a run with it."""
        (_, count) = await self._connection.pipeline([("ZREM", keys.NODES, dead), ("ZCARD", keys.runs_on(dead))])
        if count:
            await self._connection.execute("ZADD", keys.NODES, "NX", 0, dead)

    async def _take(
        self, own: str, dead: str, session_id: str, score: Any, claims: list[RunLock | None]
    ) -> RunLock | None:
        """Compare-and-set of the owner. Listed here before it is claimed: it must not be without a node."""
        await self._connection.pipeline(self._listing(own, session_id, score))
        answer = await self._connection.run_script(self._claim, [keys.run(session_id)], [dead, own])
        if answer[0] != b"OK":
            await self._connection.pipeline(
                [("ZREM", keys.runs_on(dead), session_id), ("ZREM", keys.runs_on(own), session_id)]
            )
            claims.append(None)
            return None
        log.info("run.taken_over", sessionId=session_id, fromNode=keys.real_node(dead))
        cancelled_by = answer[3].decode() if len(answer) > 3 and answer[3] else None
        lock = RunLock(session_id, int(answer[1]), float(score) / 1000, int(answer[2]), cancelled_by)
        claims.append(lock)
        return lock


def _scored(sessions: list[Any]) -> list[tuple[bytes, Any]]:
    """Members with scores as the driver gives them: flat, or in pairs."""
    if sessions and isinstance(sessions[0], (list, tuple)):
        return [tuple(pair) for pair in sessions]
    return list(zip(sessions[::2], sessions[1::2], strict=True))


def new_node_id() -> str:
    return f"node-{secrets.token_hex(4)}"
