"""Runs that wait for an approval: memory per run, cost while they are idle, and time to complete after the approval."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.client import Approver, Client, Reading
from tests.bench.environment import Environment
from tests.bench.load import check, connect_clients, percentile
from tests.bench.model_stub import TOOL

APPROVAL_SETTINGS = {"AURA_APPROVAL_REQUIRED": TOOL, "HITL_TIMEOUT_SECONDS": "1700"}
PROMPT = "bench approval 1 20"
_WARMUP_RUNS = 300
_AT_ONCE = 200
_IDLE_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class WaitingCost:
    """The cost of `count` runs that waited and were then approved within a second."""

    count: int
    memory_kb: float
    redis_memory_kb: float
    redis_connections: int
    idle_cpu_percent: float
    idle_redis_commands_per_second: float
    done_after_seconds: float
    cpu_ms_after_approval: float

    def describe(self) -> list[str]:
        idle, redis = self.idle_cpu_percent, self.idle_redis_commands_per_second
        return [
            f"{self.count:,} wait, streams open: {self.memory_kb:.1f} KB each, {self.redis_memory_kb:.1f} KB in Redis",
            f"  idle: {idle:.2f} % of a core, {redis:.0f} Redis commands/s, {self.redis_connections} connections",
            f"  approved within a second: all done after {self.done_after_seconds:.2f} s",
            f"  from the approval on {self.cpu_ms_after_approval:.2f} ms CPU each",
        ]


class WaitingClients:
    """Clients whose runs wait for an approval, and the readings of those runs."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self._arrived = asyncio.Event()
        self._expected = 0

    def on_hitl(self, reading: Reading) -> None:
        self.readings.append(reading)
        if len(self.readings) >= self._expected:
            self._arrived.set()

    async def start_runs(self, clients: Sequence[Client]) -> list[asyncio.Task[Reading]]:
        """Start a run of each client, and return when all of them wait."""
        self._expected = len(self.readings) + len(clients)
        self._arrived.clear()
        tasks = [asyncio.create_task(client.run(PROMPT, on_hitl=self.on_hitl)) for client in clients]
        arrived = asyncio.create_task(self._arrived.wait())
        done, _ = await asyncio.wait([*tasks, arrived], return_when=asyncio.FIRST_COMPLETED)
        if arrived not in done:
            arrived.cancel()
            raise next(iter(done)).exception() or RuntimeError("a run ended before it waited")
        return tasks


async def measure_waiting(environment: Environment, count: int, *, idle_seconds: float = _IDLE_SECONDS) -> WaitingCost:
    """Measure `count` waiting runs whose streams stay open."""
    waiting_clients, approver = WaitingClients(), await Approver.connect(environment.redis_port)
    await _warm_up(environment, min(_WARMUP_RUNS, count), approver)
    memory, redis_memory = environment.memory_bytes(), environment.redis_memory_bytes()
    clients = await connect_clients(environment, count, start=_WARMUP_RUNS)
    tasks: list[asyncio.Task[Reading]] = []
    for first in range(0, count, 500):
        tasks += await waiting_clients.start_runs(clients[first : first + 500])
    memory, redis_memory = environment.memory_bytes() - memory, environment.redis_memory_bytes() - redis_memory
    await asyncio.sleep(0.5)
    redis, cpu, started = environment.redis_count(), environment.cpu_seconds(), time.perf_counter()
    await asyncio.sleep(idle_seconds)
    idled = time.perf_counter() - started
    idle_cpu, idle_redis = environment.cpu_seconds() - cpu, environment.redis_count().since(redis)
    cpu, started = environment.cpu_seconds(), time.perf_counter()
    readings = await approve_all(waiting_clients, tasks, approver)
    done = time.perf_counter() - started
    cpu = environment.cpu_seconds() - cpu
    for reading in readings:
        check(reading, PROMPT)
    for client in clients:
        client.close()
    approver.close()
    return WaitingCost(
        count=count,
        memory_kb=memory / count / 1024,
        redis_memory_kb=redis_memory / count / 1024,
        redis_connections=redis.connections - 1,
        idle_cpu_percent=100 * idle_cpu / idled,
        idle_redis_commands_per_second=idle_redis.commands / idled,
        done_after_seconds=done,
        cpu_ms_after_approval=1000 * cpu / count,
    )


async def _warm_up(environment: Environment, count: int, approver: Approver) -> None:
    """Let `count` runs wait and complete, so that caches and pools of the service have their final size."""
    waiting_clients, clients = WaitingClients(), await connect_clients(environment, count)
    for reading in await approve_all(waiting_clients, await waiting_clients.start_runs(clients), approver):
        check(reading, PROMPT)
    for client in clients:
        client.close()
    await asyncio.sleep(0.5)


async def approve_all(
    waiting_clients: WaitingClients, tasks: Sequence[asyncio.Task[Reading]], approver: Approver
) -> list[Reading]:
    """Approve all within a second: 50 at a time, at intervals of at most 10 ms."""
    pause = min(0.01, 0.9 / max(1, len(waiting_clients.readings) / 50))
    for first in range(0, len(waiting_clients.readings), 50):
        for reading in waiting_clients.readings[first : first + 50]:
            approver.approve(reading)
        await asyncio.sleep(pause)
    return list(await asyncio.gather(*tasks))


async def measure_disconnected(environment: Environment, count: int, *, warmup: int = _WARMUP_RUNS) -> float:
    """The memory (KB) per waiting run whose client has disconnected. At the end all are approved and must complete."""
    waiting_clients = WaitingClients()
    await start_and_disconnect(environment, waiting_clients, 0, warmup)
    memory = environment.memory_bytes()
    await start_and_disconnect(environment, waiting_clients, warmup, count)
    await asyncio.sleep(1)
    memory = environment.memory_bytes() - memory
    approver = await Approver.connect(environment.redis_port)
    await approve_all(waiting_clients, [], approver)
    for first in range(0, len(waiting_clients.readings), _AT_ONCE):
        await asyncio.gather(
            *(read_to_its_end(environment, reading) for reading in waiting_clients.readings[first : first + _AT_ONCE])
        )
    approver.close()
    return memory / count / 1024


async def read_to_its_end(environment: Environment, reading: Reading) -> None:
    client = await Client.connect(environment.port, reading.session_id.split("_")[1])
    check(await client.resume(reading.session_id, 1), PROMPT)
    client.close()


async def start_and_disconnect(
    environment: Environment, waiting_clients: WaitingClients, start: int, count: int
) -> None:
    for first in range(start, start + count, _AT_ONCE):
        clients = await connect_clients(environment, min(_AT_ONCE, start + count - first), start=first)
        tasks = await waiting_clients.start_runs(clients)
        for client in clients:
            client.close()
        for task in tasks:
            task.cancel()


async def measure_latency(environment: Environment, count: int, *, pause_seconds: float) -> tuple[float, float]:
    """The time (ms) from the publication of a decision to the next event at the client, as p50 and p99.

    One client decides `pause_seconds` after each request, because processors respond slowly after an idle time.
    """
    approver = await Approver.connect(environment.redis_port)
    (client,) = await connect_clients(environment, 1)
    found: list[float] = []
    for number in range(count + 20):
        published: list[float] = []

        def later(reading: Reading, published: list[float] = published) -> None:
            def decide() -> None:
                published.append(time.perf_counter())
                approver.approve(reading)

            asyncio.get_running_loop().call_later(pause_seconds, decide)

        reading = await client.run(PROMPT, on_hitl=later, with_times=True)
        check(reading, PROMPT)
        assert reading.event_times is not None
        if number >= 20:
            found.append(1000 * (min(at for at in reading.event_times if at > published[0]) - published[0]))
    client.close()
    approver.close()
    found.sort()
    return percentile(found, 0.5), percentile(found, 0.99)
