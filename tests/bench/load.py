"""Generates load on the service and measures its cost: CPU of the service and of Redis, commands, bytes, times."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.client import Client, InvalidStream, Reading
from tests.bench.environment import Environment, RedisCount
from tests.bench.model_stub import expected_answer


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one round. CPU times, commands, round trips and events are per run."""

    runs: int
    seconds: float
    cpu_ms: float
    redis_cpu_ms: float
    redis_commands: float
    redis_round_trips: float
    redis_connections: int
    events: float
    bytes_per_event: float
    first_event_ms: float
    first_event_p99_ms: float

    @property
    def runs_per_second(self) -> float:
        return self.runs / self.seconds

    @property
    def cpu_us_per_event(self) -> float:
        return self.cpu_ms * 1000 / self.events

    def describe(self) -> list[str]:
        redis_us = self.redis_cpu_ms * 1000 / self.events
        return [
            f"CPU per run: service {self.cpu_ms:.2f} ms, Redis {self.redis_cpu_ms:.2f} ms",
            f"CPU per event: service {self.cpu_us_per_event:.0f} µs, Redis {redis_us:.0f} µs",
            f"{self.runs_per_second:.0f} runs/s",
            f"first event after {self.first_event_ms:.1f} ms, p99 {self.first_event_p99_ms:.1f} ms",
            f"{self.events:.1f} events a run, {self.bytes_per_event:.0f} bytes each",
            f"Redis, a run: {self.redis_commands:.1f} commands, {self.redis_round_trips:.1f} round trips",
        ]


def check(reading: Reading, prompt: str) -> None:
    """Raises `InvalidStream` where the run did not complete with the expected answer."""
    if reading.status != 200 or reading.end_status != "completed":
        raise InvalidStream(f"status {reading.status}, end {reading.end_status!r}")
    if reading.text != expected_answer(prompt):
        raise InvalidStream(f"the answer is {reading.text[:80]!r}…, {len(reading.text)} characters")


async def connect_clients(environment: Environment, count: int, start: int = 0) -> list[Client]:
    """Connect `count` clients, each of its own user, 500 at a time because the listen backlog is limited."""
    clients: list[Client] = []
    for first in range(start, start + count, 500):
        users = [f"bench{number}" for number in range(first, min(first + 500, start + count))]
        clients += await asyncio.gather(*(Client.connect(environment.port, user) for user in users))
    return clients


async def run_round(
    environment: Environment,
    clients: Sequence[Client],
    runs_each: int,
    prompt: str,
    on_hitl: Callable[[Reading], None] | None = None,
) -> Cost:
    """All clients execute their runs concurrently, each client one run after the other."""
    readings: list[Reading] = []

    async def work(client: Client) -> None:
        for _ in range(runs_each):
            reading = await client.run(prompt, on_hitl=on_hitl)
            check(reading, prompt)
            readings.append(reading)

    redis_before, cpu_before, started = environment.redis_count(), environment.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(work(client) for client in clients))
    seconds, cpu = time.perf_counter() - started, environment.cpu_seconds() - cpu_before
    return compute_cost(environment, readings, seconds, cpu, redis_before)


def compute_cost(
    environment: Environment, readings: Sequence[Reading], seconds: float, cpu: float, redis_before: RedisCount
) -> Cost:
    redis, runs = environment.redis_count().since(redis_before), len(readings)
    first = sorted(reading.first_event_seconds * 1000 for reading in readings)
    events = sum(reading.events for reading in readings)
    return Cost(
        runs=runs,
        seconds=seconds,
        cpu_ms=cpu * 1000 / runs,
        redis_cpu_ms=redis.cpu_seconds * 1000 / runs,
        redis_commands=redis.commands / runs,
        redis_round_trips=redis.round_trips / runs,
        redis_connections=redis.connections,
        events=events / runs,
        bytes_per_event=sum(reading.bytes for reading in readings) / events,
        first_event_ms=statistics.median(first),
        first_event_p99_ms=percentile(first, 0.99),
    )


def median(costs: Sequence[Cost]) -> Cost:
    """The round with the median CPU time per run."""
    return sorted(costs, key=lambda cost: cost.cpu_ms)[len(costs) // 2]


def percentile(values: Sequence[float], share: float) -> float:
    """The percentile of sorted values; `share` is 0.99 for p99."""
    return values[min(len(values) - 1, int(len(values) * share))]
