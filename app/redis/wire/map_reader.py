"""Reads the map of a Redis Cluster from any of its nodes: every few seconds, and at once when it may have changed."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import structlog

from app.errors import StorageUnavailable
from app.ports.redis_address import Server
from app.redis.wire.script import Command
from app.redis.wire.topology import Topology, newest
from app.retry import growing_pause

Query = Callable[[Server, Sequence[Command]], Awaitable[list[Any]]]
"""Returns a node's replies to commands. Raises `StorageUnavailable`."""

_QUERIES: tuple[Command, ...] = (("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
_MASTERS_QUERIED = 3
"""One of them may be cut off from the others, without knowing it yet."""
_INTERVAL_SECONDS = 2.0
_MIN_INTERVAL_SECONDS = 0.1
_MAX_ANSWER_SECONDS = 1.0

log = structlog.get_logger(__name__)


class MapReader:
    """Calls `follow` with each map. The seeds are queried only where no node that is known answers."""

    def __init__(
        self, seeds: Iterable[Server], query: Query, follow: Callable[[Topology], None], *, timeout_seconds: float
    ) -> None:
        self.topology: Topology | None = None
        self._seeds = tuple(seeds)
        self._query = query
        self._follow = follow
        self._answer_seconds = min(timeout_seconds, _MAX_ANSWER_SECONDS)
        self._is_requested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the map, and go on reading it. Raises `StorageUnavailable` where no node gives it."""
        if not await self._read():
            raise StorageUnavailable("no node of the Redis cluster describes it")
        self._task = asyncio.create_task(self._keep_reading(), context=contextvars.Context())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def request(self) -> None:
        """Read the map soon: something points to a change."""
        self._is_requested.set()

    async def _keep_reading(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(_INTERVAL_SECONDS):
                    await self._is_requested.wait()
            except TimeoutError:
                pass
            self._is_requested.clear()
            try:
                if await self._read():
                    failures = 0
                else:
                    failures += 1
                    log.warning("redis.cluster_unknown", cause="no node describes the cluster")
            except Exception:  # what a node reports may have any form
                log.exception("redis.cluster_map_failed")
            await asyncio.sleep(growing_pause(failures) if failures else _MIN_INTERVAL_SECONDS)

    async def _read(self) -> bool:
        """Read the map and follow it. Returns whether a node gave one."""
        known = self.topology
        masters = sorted(known.all_masters) if known is not None else []
        first = random.sample(masters, min(_MASTERS_QUERIED, len(masters)))
        maps = await self._query_each(first)
        if not any(each.is_up for each in maps):
            others = {*(known.servers if known is not None else ()), *self._seeds}.difference(first)
            maps += await self._query_each(sorted(others))
        found = newest(maps)
        if found is None:
            return False
        if known is None or found.masters != known.masters or found.servers != known.servers:
            log.info("redis.cluster_map", masters=len(found.all_masters), epoch=found.epoch, isUp=found.is_up)
        self.topology = found
        self._follow(found)
        return True

    async def _query_each(self, servers: Sequence[Server]) -> list[Topology]:
        answers = await asyncio.gather(*map(self._query_one, servers))
        return [answer for answer in answers if answer is not None]

    async def _query_one(self, server: Server) -> Topology | None:
        try:
            async with asyncio.timeout(self._answer_seconds):
                info, slots = await self._query(server, _QUERIES)
            return Topology.read(server, info, slots)
        except (StorageUnavailable, TimeoutError, ValueError, TypeError, IndexError, KeyError, AttributeError):
            return None
