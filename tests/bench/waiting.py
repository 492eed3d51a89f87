"""Runs that wait for a person: what each of them holds, what all of them cost, how fast they end when approved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.client import Client, Decider, Reading
from tests.bench.load import check, connected, percentile
from tests.bench.stub import TOOL
from tests.bench.world import World

ENVIRONMENT = {"AURA_APPROVAL_REQUIRED": TOOL, "HITL_TIMEOUT_SECONDS": "1700"}
PROMPT = "bench approval 1 20"
_WARM = 300
_AT_ONCE = 200
_IDLE_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Waited:
    """`count` runs that waited, then were approved within a second."""

    count: int
    memory_kb: float
    redis_memory_kb: float
    redis_connections: int
    idle_cpu_percent: float
    idle_redis_commands_per_second: float
    done_after_seconds: float
    cpu_ms_after_approval: float

    def told(self) -> list[str]:
        idle, redis = self.idle_cpu_percent, self.idle_redis_commands_per_second
        return [
            f"{self.count:,} wait, streams open: {self.memory_kb:.1f} KB each, {self.redis_memory_kb:.1f} KB in Redis",
            f"  idle: {idle:.2f} % of a core, {redis:.0f} Redis commands/s, {self.redis_connections} connections",
            f"  approved within a second: all done after {self.done_after_seconds:.2f} s",
            f"  from the approval on {self.cpu_ms_after_approval:.2f} ms CPU each",
        ]


class _Crowd:
    """Clients whose runs wait."""

    def __init__(self) -> None:
        self.asked: list[Reading] = []
        self._arrived = asyncio.Event()
        self._wanted = 0

    def hear(self, reading: Reading) -> None:
        self.asked.append(reading)
        if len(self.asked) >= self._wanted:
            self._arrived.set()

    async def asked_for(self, clients: Sequence[Client]) -> list[asyncio.Task[Reading]]:
        """Start a run of each client; back when all of them wait."""
        self._wanted = len(self.asked) + len(clients)
        self._arrived.clear()
        tasks = [asyncio.create_task(client.run(PROMPT, on_hitl=self.hear)) for client in clients]
        arrived = asyncio.create_task(self._arrived.wait())
        done, _ = await asyncio.wait([*tasks, arrived], return_when=asyncio.FIRST_COMPLETED)
        if arrived not in done:
            arrived.cancel()
            raise next(iter(done)).exception() or RuntimeError("a run ended before anybody was asked")
        return tasks


async def waiting(world: World, count: int, *, idle_seconds: float = _IDLE_SECONDS) -> Waited:
    """All streams stay open."""
    warm, crowd, decider = _Crowd(), _Crowd(), await Decider.connect(world.redis_port)
    warming = await connected(world, min(_WARM, count))
    for reading in await _approve_all(warm, await warm.asked_for(warming), decider):
        check(reading, PROMPT)
    for client in warming:
        client.close()
    await asyncio.sleep(0.5)
    memory, redis_memory = world.memory_bytes(), world.redis_memory_bytes()
    clients = await connected(world, count, start=_WARM)
    tasks: list[asyncio.Task[Reading]] = []
    for first in range(0, count, 500):
        tasks += await crowd.asked_for(clients[first : first + 500])
    memory, redis_memory = world.memory_bytes() - memory, world.redis_memory_bytes() - redis_memory
    await asyncio.sleep(0.5)
    redis, cpu, began = world.redis_count(), world.cpu_seconds(), time.perf_counter()
    await asyncio.sleep(idle_seconds)
    idled = time.perf_counter() - began
    idle_cpu, idle_redis = world.cpu_seconds() - cpu, world.redis_count().since(redis)
    cpu, began = world.cpu_seconds(), time.perf_counter()
    readings = await _approve_all(crowd, tasks, decider)
    done = time.perf_counter() - began
    cpu = world.cpu_seconds() - cpu
    for reading in readings:
        check(reading, PROMPT)
    for client in clients:
        client.close()
    decider.close()
    return Waited(
        count=count,
        memory_kb=memory / count / 1024,
        redis_memory_kb=redis_memory / count / 1024,
        redis_connections=redis.connections - 1,
        idle_cpu_percent=100 * idle_cpu / idled,
        idle_redis_commands_per_second=idle_redis.commands / idled,
        done_after_seconds=done,
        cpu_ms_after_approval=1000 * cpu / count,
    )


async def _approve_all(crowd: _Crowd, tasks: Sequence[asyncio.Task[Reading]], decider: Decider) -> list[Reading]:
    """All within a second: 50 at a time, 10 ms apart at most."""
    pause = min(0.01, 0.9 / max(1, len(crowd.asked) / 50))
    for first in range(0, len(crowd.asked), 50):
        for reading in crowd.asked[first : first + 50]:
            decider.approve(reading)
        await asyncio.sleep(pause)
    return list(await asyncio.gather(*tasks))


async def gone(world: World, count: int, *, warm: int = _WARM) -> float:
    """KB of memory per waiting run whose client has left; they are all approved, and found completed, in the end."""
    crowd = _Crowd()
    await _leave(world, crowd, 0, warm)
    memory = world.memory_bytes()
    await _leave(world, crowd, warm, count)
    await asyncio.sleep(1)
    memory = world.memory_bytes() - memory
    decider = await Decider.connect(world.redis_port)
    await _approve_all(crowd, [], decider)
    for first in range(0, len(crowd.asked), _AT_ONCE):
        await asyncio.gather(*(_read_to_its_end(world, reading) for reading in crowd.asked[first : first + _AT_ONCE]))
    decider.close()
    return memory / count / 1024


async def _read_to_its_end(world: World, asked: Reading) -> None:
    client = await Client.connect(world.port, asked.session_id.split("_")[1])
    check(await client.resume(asked.session_id, 1), PROMPT)
    client.close()


async def _leave(world: World, crowd: _Crowd, start: int, count: int) -> None:
    for first in range(start, start + count, _AT_ONCE):
        clients = await connected(world, min(_AT_ONCE, start + count - first), start=first)
        tasks = await crowd.asked_for(clients)
        for client in clients:
            client.close()
        for task in tasks:
            task.cancel()


async def latencies(world: World, count: int, *, pause_seconds: float) -> tuple[float, float]:
    """Milliseconds from the publication of a decision to the next event at the client, p50 and p99; one client, who
    decides so long after he was asked. Processors that were idle for some milliseconds begin slowly."""
    decider = await Decider.connect(world.redis_port)
    (client,) = await connected(world, 1)
    found: list[float] = []
    for number in range(count + 20):
        published: list[float] = []

        def later(reading: Reading, published: list[float] = published) -> None:
            def decide() -> None:
                published.append(time.perf_counter())
                decider.approve(reading)

            asyncio.get_running_loop().call_later(pause_seconds, decide)

        reading = await client.run(PROMPT, on_hitl=later, with_times=True)
        check(reading, PROMPT)
        assert reading.event_times is not None
        if number >= 20:
            found.append(1000 * (min(at for at in reading.event_times if at > published[0]) - published[0]))
    client.close()
    decider.close()
    found.sort()
    return percentile(found, 0.5), percentile(found, 0.99)
