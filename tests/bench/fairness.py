"""The flood of one tenant: how late the first events of another tenant are, with and without it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from tests.bench.client import Client
from tests.bench.environment import Environment
from tests.bench.load import check, percentile

_PROMPT = "bench chat 200 0"
_FLOOD_CLIENTS = 400
_FLOOD_USERS = 40
_QUIET_CLIENTS = 16
_RUNS_PER_SECOND = 5.0
_SECONDS = 10.0
_WARM_UP_SECONDS = 5.0
"""How long the flood goes on before anything is measured: after 3 s without an empty queue, runs may be refused."""


@dataclass(frozen=True, slots=True)
class FirstEvents:
    """When the quiet tenant got the first event of its runs (ms), and how many of them were refused."""

    p50_ms: float
    p90_ms: float
    refused: int


@dataclass(frozen=True, slots=True)
class Fairness:
    """The quiet tenant alone and beside the flood, and what became of the flood's requests."""

    alone: FirstEvents
    flooded: FirstEvents
    flood_served_per_second: float
    flood_refused_per_second: float

    @property
    def times_later(self) -> float:
        return self.flooded.p50_ms / self.alone.p50_ms

    def describe(self) -> list[str]:
        alone, flooded = self.alone, self.flooded
        late = f"p50 {flooded.p50_ms:.1f} ms ({self.times_later:.1f} times), p90 {flooded.p90_ms:.1f} ms"
        served, refused = self.flood_served_per_second, self.flood_refused_per_second
        return [
            f"alone: first event p50 {alone.p50_ms:.1f} ms, p90 {alone.p90_ms:.1f} ms",
            f"beside the flood: {late}, {flooded.refused} refused",
            f"the flood: {served:.0f} runs/s served, {refused:.0f} refused per second",
        ]


class _Flood:
    """Clients of one tenant, each of which sends its next request as soon as it has the answer to the last one."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self.served = self.refused = 0

    async def run(self) -> None:
        await asyncio.gather(*map(self._send, self._clients))

    async def _send(self, client: Client) -> None:
        while True:
            reading = await client.run(_PROMPT)
            if reading.status == 200:
                self.served += 1
            else:
                self.refused += 1


async def measure_fairness(environment: Environment, *, seconds: float = _SECONDS) -> Fairness:
    """Measure a tenant that starts a few runs per second, alone and while another tenant sends all it can."""
    quiet = [await Client.connect(environment.port, f"quiet{it}", "quiet") for it in range(_QUIET_CLIENTS)]
    await _first_events(quiet, 1.0)
    alone = await _first_events(quiet, seconds)
    flooding = [
        await Client.connect(environment.port, f"flood{it % _FLOOD_USERS}", "flood") for it in range(_FLOOD_CLIENTS)
    ]
    flood = _Flood(flooding)
    task = asyncio.create_task(flood.run())
    await asyncio.sleep(min(_WARM_UP_SECONDS, seconds))
    served, refused, started = flood.served, flood.refused, time.perf_counter()
    flooded = await _first_events(quiet, seconds)
    passed = time.perf_counter() - started
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for client in (*quiet, *flooding):
        client.close()
    return Fairness(alone, flooded, (flood.served - served) / passed, (flood.refused - refused) / passed)


async def _first_events(clients: list[Client], seconds: float) -> FirstEvents:
    """Start runs at a steady rate. A run for which no client is free in time waits, which counts."""
    started, times, refused = time.perf_counter(), list[float](), 0
    free: asyncio.Queue[Client] = asyncio.Queue()
    for client in clients:
        free.put_nowait(client)

    async def run_one(number: int) -> None:
        nonlocal refused
        due = started + number / _RUNS_PER_SECOND
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        client = await free.get()
        reading = await client.run(_PROMPT)
        if reading.status == 200:
            check(reading, _PROMPT)
            times.append(1000 * (reading.first_event_at - due))
        else:
            refused += 1
        free.put_nowait(client)

    await asyncio.gather(*(run_one(number) for number in range(int(seconds * _RUNS_PER_SECOND))))
    times.sort()
    if not times:
        return FirstEvents(float("inf"), float("inf"), refused)
    return FirstEvents(percentile(times, 0.5), percentile(times, 0.9), refused)
