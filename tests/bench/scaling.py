"""Curves that should be flat: the cost per run and per event while the amount of work grows."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench.client import InvalidStream
from tests.bench.environment import Environment
from tests.bench.load import check, connect_clients, median, percentile, run_round
from tests.bench.waiting import APPROVAL_SETTINGS, WaitingCost, measure_waiting

PROCESSES = (1, 2, 4)
LENGTHS = (10, 100, 1_000, 10_000)
WAITING = (1, 100, 1_000, 2_000, 10_000)
_RESUMES = 200
_OVERLOAD = "bench chat 200 0"
_CLIENTS = 200
"""The number of clients that start their next run when one has ended; they measure the capacity of the service."""
_LOADS = ((0.5, 10.0), (0.8, 10.0), (1.5, 30.0))
"""Each load as a share of the capacity of the service, and its duration (s)."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve: the amount of work, and its cost."""

    at: int
    value: float
    note: str = ""


async def measure_processes() -> list[Point]:
    """The CPU time (ms) of all processes per chat run, for each number of processes."""
    points = []
    for workers in PROCESSES:
        with Environment(workers=workers) as environment:
            clients = await connect_clients(environment, 32)
            rounds = [await run_round(environment, clients, 5, "bench chat 200 0") for _ in range(4)]
            cost = median(rounds[1:])
            points.append(Point(workers, cost.cpu_ms, f"{cost.runs_per_second:.0f} runs/s"))
            for client in clients:
                client.close()
    return points


async def measure_lengths() -> tuple[list[Point], list[Point]]:
    """The CPU time (µs) per event of streams of each length, and per resume at the end of such a stream."""
    per_event, per_resume = [], []
    with Environment() as environment:
        clients = await connect_clients(environment, 8)
        await run_round(environment, clients, 2, "bench pages 100 2")
        for pieces in LENGTHS:
            each = max(1, 300 // pieces)
            cost = await run_round(environment, clients, each, f"bench pages {pieces} 2")
            per_event.append(Point(pieces, cost.cpu_us_per_event, f"{cost.events:.0f} events a run"))
            per_resume.append(await _measure_resume(environment, pieces))
        for client in clients:
            client.close()
    return per_event, per_resume


async def _measure_resume(environment: Environment, pieces: int) -> Point:
    (client,) = await connect_clients(environment, 1, start=9000 + pieces)
    reading = await client.run(f"bench pages {pieces} 2", with_times=True)
    check(reading, f"bench pages {pieces} 2")
    times_ms: list[float] = []
    cpu = environment.cpu_seconds()
    for _ in range(_RESUMES):
        again = await client.resume(reading.session_id, reading.last_id - 1)
        if again.events != 1 or again.last_id != reading.last_id:
            raise InvalidStream(f"the resumed stream has {again.events} events instead of 1")
        times_ms.append(again.first_event_seconds * 1000)
    cpu = environment.cpu_seconds() - cpu
    client.close()
    times_ms.sort()
    return Point(pieces, cpu * 1e6 / _RESUMES, f"p50 {percentile(times_ms, 0.5):.2f} ms")


async def measure_crowds() -> list[WaitingCost]:
    found = []
    for count in WAITING:
        with Environment(APPROVAL_SETTINGS) as environment:
            found.append(await measure_waiting(environment, count))
    return found


@dataclass(frozen=True, slots=True)
class OfferedLoad:
    """The result of runs that were started at a steady rate. Times of refusals are -1 where no run was refused."""

    share: float
    rate: float
    served_rate: float
    first_event_p50_ms: float
    first_event_p99_ms: float
    refused_percent: float
    refused_after_seconds: float
    refusal_p50_ms: float
    refusal_p99_ms: float
    first_event_afterwards_ms: float

    def describe(self) -> list[str]:
        refused = f"{self.refused_percent:.0f} % refused"
        if self.refused_percent:
            times = f"p50 {self.refusal_p50_ms:.0f} ms, p99 {self.refusal_p99_ms:.0f} ms"
            refused += f", the first after {self.refused_after_seconds:.1f} s; a refusal took {times}"
        p50, p99, afterwards = self.first_event_p50_ms, self.first_event_p99_ms, self.first_event_afterwards_ms
        return [
            f"{self.share:.0%} load ({self.rate:.0f} runs/s): {self.served_rate:.0f} runs/s served, {refused}",
            f"  first event p50 {p50:.0f} ms, p99 {p99:.0f} ms; of a run afterwards {afterwards:.1f} ms",
        ]


async def measure_overload() -> list[OfferedLoad]:
    """Measure the time to the first event, and refusals, below and above the capacity of the service.

    The service, Redis and the model share one processor, so that the clients on the others are never late.
    """
    with Environment() as environment, separate_processors(environment):
        clients = await connect_clients(environment, _CLIENTS)
        rounds = [await run_round(environment, clients, 4, _OVERLOAD) for _ in range(4)]
        max_rate = sorted(cost.runs_per_second for cost in rounds[1:])[1]
        for client in clients:
            client.close()
        return [await _offer_load(environment, share, share * max_rate, seconds) for share, seconds in _LOADS]


@contextmanager
def separate_processors(environment: Environment) -> Iterator[None]:
    """Run the measured processes on the first processor, and this process on the others."""
    first, *others = processors = sorted(os.sched_getaffinity(0))
    for pid in environment.all_pids:
        os.sched_setaffinity(pid, {first})
    os.sched_setaffinity(0, others or processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


async def _offer_load(environment: Environment, share: float, rate: float, seconds: float) -> OfferedLoad:
    count = int(rate * seconds)
    free = await connect_clients(environment, _CLIENTS)
    loop, started = asyncio.get_running_loop(), time.perf_counter()
    served: list[float] = []
    firsts: list[float] = []
    refused: list[float] = []
    refusals: list[float] = []

    async def run_one(number: int) -> None:
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        client = free.pop() if free else (await connect_clients(environment, 1, start=5000 + number))[0]
        reading = await client.run(_OVERLOAD)
        if reading.status == 503:
            refused.append(due - started)
            refusals.append(1000 * (time.perf_counter() - due))
        else:
            check(reading, _OVERLOAD)
            served.append(reading.ended_at - started)
            firsts.append(1000 * (reading.first_event_at - due))
        free.append(client)

    await asyncio.gather(*(loop.create_task(run_one(number)) for number in range(count)))
    afterwards = await free[0].run(_OVERLOAD)
    check(afterwards, _OVERLOAD)
    for client in free:
        client.close()
    return OfferedLoad(
        share=share,
        rate=rate,
        served_rate=sum(ended <= seconds for ended in served) / seconds,
        first_event_p50_ms=percentile(sorted(firsts), 0.5),
        first_event_p99_ms=percentile(sorted(firsts), 0.99),
        refused_percent=100 * len(refusals) / count,
        refused_after_seconds=min(refused, default=-1),
        refusal_p50_ms=percentile(sorted(refusals), 0.5) if refusals else -1,
        refusal_p99_ms=percentile(sorted(refusals), 0.99) if refusals else -1,
        first_event_afterwards_ms=1000 * afterwards.first_event_seconds,
    )
