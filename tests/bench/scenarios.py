"""The scenarios by name. Each gives the figures that have a bar, and all others as lines to read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench import scaling
from tests.bench.client import Decider
from tests.bench.load import Cost, connected, median, round_of
from tests.bench.profile import Profiler
from tests.bench.scaling import Point
from tests.bench.waiting import ENVIRONMENT, gone, latencies, waiting
from tests.bench.world import World


@dataclass(slots=True)
class Outcome:
    """What one scenario found: figures by their name in the bar, lines to read, points of scaling lines."""

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    curves: dict[str, list[Point]] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)


Scenario = Callable[[int, Profiler | None], Coroutine[Any, Any, Outcome]]


@dataclass(frozen=True, slots=True)
class Work:
    """Runs of one kind, by so many clients."""

    name: str
    prompt: str
    clients: int
    runs_each: int
    needs_approval: bool = False

    async def __call__(self, rounds: int, profiler: Profiler | None) -> Outcome:
        with World(ENVIRONMENT if self.needs_approval else None) as world:
            clients = await connected(world, self.clients)
            decider = await Decider.connect(world.redis_port) if self.needs_approval else None
            on_hitl = decider.approve if decider else None
            costs: list[Cost] = []
            await round_of(world, clients, 2, self.prompt, on_hitl)
            for number in range(rounds):
                if profiler is not None and number == 0:
                    profiler.begin(self.name, world.pids[0])
                costs.append(await round_of(world, clients, self.runs_each, self.prompt, on_hitl))
                if profiler is not None and number == 0:
                    profiler.end()
            for client in clients:
                client.close()
            if decider is not None:
                decider.close()
        cost = median(costs[1:] if profiler is not None and len(costs) > 1 else costs)
        connections = cost.redis_connections - (decider is not None)
        return Outcome(
            self.name,
            {self.name: cost.cpu_ms, "connections": connections},
            [*cost.told(), f"{connections} Redis connections"],
            raw={"rounds": [asdict(cost) for cost in costs]},
        )


async def _latency(rounds: int, profiler: Profiler | None) -> Outcome:
    figures, lines, raw = {}, [], {}
    with World(ENVIRONMENT) as world:
        for words, pause_seconds in (("after 20 ms of silence", 0.02), ("at once", 0.0)):
            found = sorted([await latencies(world, 200, pause_seconds=pause_seconds) for _ in range(rounds)])
            p50, p99 = found[rounds // 2]
            lines.append(f"decision published {words} → next event: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
            figures, raw[words] = {"decision_p50": p50, "decision_p99": p99}, found
    return Outcome("latency", figures, lines, raw=raw)


async def _memory(rounds: int, profiler: Profiler | None) -> Outcome:
    with World(ENVIRONMENT) as world:
        without = await gone(world, 5000)
    with World(ENVIRONMENT) as world:
        waited = await waiting(world, 2000)
    return Outcome(
        "memory",
        {
            "memory_streaming": waited.memory_kb,
            "memory_gone": without,
            "approved_2000": waited.done_after_seconds,
            "connections": waited.redis_connections,
        },
        [*waited.told(), f"with its client gone a waiting run holds {without:.1f} KB"],
        raw=asdict(waited),
    )


async def _crowds(rounds: int, profiler: Profiler | None) -> Outcome:
    found = await scaling.crowds()
    return Outcome(
        "crowds",
        {},
        [line for waited in found for line in waited.told()],
        {
            "waiting: CPU ms per approved run": [
                Point(waited.count, waited.cpu_ms_after_approval) for waited in found if waited.count > 1
            ],
            # of fewer the allocator's own steps are larger than what the runs take
            "waiting: KB per run": [Point(waited.count, waited.memory_kb) for waited in found if waited.count >= 1000],
        },
        raw={"crowds": [asdict(waited) for waited in found]},
    )


async def _processes(rounds: int, profiler: Profiler | None) -> Outcome:
    points = await scaling.processes()
    lines = [f"{point.at} processes: {point.value:.2f} ms CPU per run, {point.note}" for point in points]
    return Outcome("processes", {}, lines, {"processes: CPU ms per run": points})


async def _lengths(rounds: int, profiler: Profiler | None) -> Outcome:
    per_event, per_resume = await scaling.lengths()
    return Outcome(
        "lengths",
        {},
        [
            *(f"{point.at:>6,} pieces: {point.value:.0f} µs CPU per event, {point.note}" for point in per_event),
            *(f"resume at the end of {point.at:>6,}: {point.value:.0f} µs CPU, {point.note}" for point in per_resume),
        ],
        {
            "frames of text in a stream: CPU µs per event": per_event,
            "frames of text in a stream: CPU µs per resume at its end": per_resume,
        },
    )


async def _overload(rounds: int, profiler: Profiler | None) -> Outcome:
    found = await scaling.overload()
    return Outcome(
        "overload",
        {},
        [line for offer in found for line in offer.told()],
        raw={"offers": [asdict(offer) for offer in found]},
    )


SCENARIOS: dict[str, Scenario] = {
    "chat": Work("chat", "bench chat 200 0", clients=32, runs_each=10),
    "paced": Work("paced", "bench chat 200 10", clients=16, runs_each=1),
    "tools": Work("tools", "bench tools 5 20", clients=32, runs_each=5),
    "together": Work("together", "bench together 5 20", clients=32, runs_each=5),
    "approval": Work("approval", "bench approval 1 20", clients=32, runs_each=5, needs_approval=True),
    "latency": _latency,
    "memory": _memory,
    "crowds": _crowds,
    "processes": _processes,
    "lengths": _lengths,
    "overload": _overload,
}
