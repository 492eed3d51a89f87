"""What a run takes of Redis, by kind of key, while it waits and after it has ended."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass

import redis

from tests.bench.client import Approver
from tests.bench.environment import Environment
from tests.bench.load import check, connect_clients
from tests.bench.waiting import PROMPT, WaitingClients, approve_all

_CHAT = "bench chat 50 0"
_SETTLE_SECONDS = 1.0
_KINDS = (
    (r"checkpoint:.*", "checkpoint"),
    (r"aura:audit:.*", "record of decisions"),
    (r"hitl:(\w+):.*", r"\1 of the approval"),
    (r"aura:\{[^}]*\}:(events|run|summary|ids|runs|active|stored|thread)\b.*", r"\1"),
    (r"aura:(tenant|node):.*", r"list of the \1"),
    (r"aura:nodes", "list of the nodes"),
)
"""Patterns of keys, and what the report calls them."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The bytes of Redis (`MEMORY USAGE`) per run, in all and by kind of key."""

    what: str
    count: int
    bytes_by_kind: dict[str, float]

    @property
    def kb(self) -> float:
        return sum(self.bytes_by_kind.values()) / 1024

    def describe(self) -> list[str]:
        kinds = sorted(self.bytes_by_kind.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{kind} {size:,.0f}" for kind, size in kinds if size >= 1)
        return [f"{self.what}: {self.kb:.2f} KB of Redis each ({self.count:,} runs)", f"  bytes by key: {shown}"]


async def measure_waiting(environment: Environment, count: int) -> tuple[Footprint, Footprint]:
    """Measure `count` runs while they wait for an approval, and when they have been approved and have ended."""
    waiting_clients = WaitingClients()
    clients = await connect_clients(environment, count)
    tasks = await waiting_clients.start_runs(clients)
    waiting = await _measure(environment, "a waiting run", count)
    approver = await Approver.connect(environment.redis_port)
    for reading in await approve_all(waiting_clients, tasks, approver):
        check(reading, PROMPT)
    approver.close()
    for client in clients:
        client.close()
    return waiting, await _measure(environment, "the same run when it has ended", count)


async def measure_answered(environment: Environment, count: int) -> Footprint:
    """Measure `count` ended runs that have answered without a tool."""
    clients = await connect_clients(environment, count)
    for reading in await asyncio.gather(*(client.run(_CHAT) for client in clients)):
        check(reading, _CHAT)
    for client in clients:
        client.close()
    return await _measure(environment, "an ended run that has answered", count)


async def _measure(environment: Environment, what: str, count: int) -> Footprint:
    await asyncio.sleep(_SETTLE_SECONDS)  # the record of decisions is written a moment later
    sizes: Counter[str] = Counter()
    with redis.Redis.from_url(environment.redis_url) as client:
        for key in client.scan_iter(count=1000):
            sizes[_kind(key.decode())] += client.memory_usage(key, samples=0) or 0
    return Footprint(what, count, {kind: size / count for kind, size in sizes.items()})


def _kind(key: str) -> str:
    for pattern, kind in _KINDS:
        if (found := re.fullmatch(pattern, key)) is not None:
            return found.expand(kind)
    return "others"
