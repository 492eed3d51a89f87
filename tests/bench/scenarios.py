"""The scenarios by name. Each returns the figures that have a target, and all figures as text."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench import cluster, footprint, gateways, scaling, takeover
from tests.bench.client import Approver
from tests.bench.environment import DEFAULT_QUOTAS, Environment
from tests.bench.fairness import measure_fairness
from tests.bench.load import Cost, connect_clients, median, run_round
from tests.bench.profile import Profiler
from tests.bench.scaling import Point
from tests.bench.waiting import APPROVAL_SETTINGS, measure_disconnected, measure_latency, measure_waiting


@dataclass(slots=True)
class ScenarioResult:
    """The result of one scenario: figures by the names of their targets, lines of text, and scaling curves."""

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    curves: dict[str, list[Point]] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)


Scenario = Callable[[int, Profiler | None], Coroutine[Any, Any, ScenarioResult]]


@dataclass(frozen=True, slots=True)
class RunScenario:
    """Runs of one prompt by several clients."""

    name: str
    prompt: str
    clients: int
    runs_each: int
    needs_approval: bool = False

    async def __call__(self, rounds: int, profiler: Profiler | None) -> ScenarioResult:
        with Environment(APPROVAL_SETTINGS if self.needs_approval else None) as environment:
            clients = await connect_clients(environment, self.clients)
            approver = await Approver.connect(environment.redis_port) if self.needs_approval else None
            on_hitl = approver.approve if approver else None
            costs: list[Cost] = []
            await run_round(environment, clients, 2, self.prompt, on_hitl)
            for number in range(rounds):
                if profiler is not None and number == 0:
                    profiler.start(self.name, environment.pids[0])
                costs.append(await run_round(environment, clients, self.runs_each, self.prompt, on_hitl))
                if profiler is not None and number == 0:
                    profiler.stop()
            for client in clients:
                client.close()
            if approver is not None:
                approver.close()
        cost = median(costs[1:] if profiler is not None and len(costs) > 1 else costs)
        connections = cost.redis_connections - (approver is not None)
        return ScenarioResult(
            self.name,
            {self.name: cost.cpu_ms, "connections": connections},
            [*cost.describe(), f"{connections} Redis connections"],
            raw={"rounds": [asdict(cost) for cost in costs]},
        )


async def _latency(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    figures, lines, raw = {}, [], {}
    with Environment(APPROVAL_SETTINGS) as environment:
        for description, pause_seconds in (("after 20 ms of silence", 0.02), ("at once", 0.0)):
            found = sorted(
                [await measure_latency(environment, 200, pause_seconds=pause_seconds) for _ in range(rounds)]
            )
            p50, p99 = found[rounds // 2]
            lines.append(f"decision published {description} → next event: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
            figures, raw[description] = {"decision_p50": p50, "decision_p99": p99}, found
    return ScenarioResult("latency", figures, lines, raw=raw)


async def _memory(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    with Environment(APPROVAL_SETTINGS) as environment:
        without = await measure_disconnected(environment, 5000)
    with Environment(APPROVAL_SETTINGS) as environment:
        cost = await measure_waiting(environment, 2000)
    return ScenarioResult(
        "memory",
        {
            "memory_streaming": cost.memory_kb,
            "memory_gone": without,
            "approved_2000": cost.done_after_seconds,
            "connections": cost.redis_connections,
        },
        [*cost.describe(), f"a waiting run without a client holds {without:.1f} KB"],
        raw=asdict(cost),
    )


async def _footprint(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    with Environment(APPROVAL_SETTINGS) as environment:
        waiting, ended = await footprint.measure_waiting(environment, 200)
    with Environment() as environment:
        answered = await footprint.measure_answered(environment, 200)
    found = (waiting, ended, answered)
    return ScenarioResult(
        "footprint",
        {"redis_waiting": waiting.kb, "redis_ended": ended.kb, "redis_answered": answered.kb},
        [line for each in found for line in each.describe()],
        raw={each.what: asdict(each) for each in found},
    )


async def _crowds(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    found = await scaling.measure_crowds()
    return ScenarioResult(
        "crowds",
        {},
        [line for cost in found for line in cost.describe()],
        {
            "waiting: CPU ms per approved run": [
                Point(cost.count, cost.cpu_ms_after_approval) for cost in found if cost.count > 1
            ],
            # With fewer runs, the memory that the allocator reserves at once exceeds that of the runs.
            "waiting: KB per run": [Point(cost.count, cost.memory_kb) for cost in found if cost.count >= 1000],
        },
        raw={"crowds": [asdict(cost) for cost in found]},
    )


async def _processes(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    points = await scaling.measure_processes()
    lines = [f"{point.at} processes: {point.value:.2f} ms CPU per run, {point.note}" for point in points]
    return ScenarioResult("processes", {}, lines, {"processes: CPU ms per run": points})


async def _lengths(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    per_event, per_resume = await scaling.measure_lengths()
    return ScenarioResult(
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


async def _overload(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    found = await scaling.measure_overload()
    return ScenarioResult(
        "overload",
        {},
        [line for offer in found for line in offer.describe()],
        raw={"offers": [asdict(offer) for offer in found]},
    )


async def _fairness(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    lines, raw = [], {}
    for name, variables in (("without quotas", {}), ("with the default quotas", DEFAULT_QUOTAS)):
        with Environment(variables) as environment, scaling.separate_processors(environment):
            found = await measure_fairness(environment)
        lines += [f"{name}:", *(f"  {line}" for line in found.describe())]
        raw[name] = asdict(found)
    return ScenarioResult("fairness", {}, lines, raw=raw)


async def _gateways(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    with Environment() as environment:
        found, missing = await gateways.measure_gateways(environment)
    raw = {each.gateway: asdict(each) for each in found}
    return ScenarioResult("gateways", {}, gateways.describe(found, missing), raw=raw)


async def _cluster(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    found = await cluster.measure_cluster(rounds)
    return ScenarioResult("cluster", {}, [each.describe() for each in found], raw={"costs": [*map(asdict, found)]})


async def _takeover(rounds: int, profiler: Profiler | None) -> ScenarioResult:
    found = await takeover.measure_takeover(10_000)
    return ScenarioResult("takeover", {}, found.describe(), raw=asdict(found))


SCENARIOS: dict[str, Scenario] = {
    "chat": RunScenario("chat", "bench chat 200 0", clients=32, runs_each=10),
    "paced": RunScenario("paced", "bench chat 200 10", clients=16, runs_each=1),
    "tools": RunScenario("tools", "bench tools 5 20", clients=32, runs_each=5),
    "together": RunScenario("together", "bench together 5 20", clients=32, runs_each=5),
    "approval": RunScenario("approval", "bench approval 1 20", clients=32, runs_each=5, needs_approval=True),
    "latency": _latency,
    "memory": _memory,
    "footprint": _footprint,
    "crowds": _crowds,
    "processes": _processes,
    "lengths": _lengths,
    "overload": _overload,
    "fairness": _fairness,
    "gateways": _gateways,
    "cluster": _cluster,
    "takeover": _takeover,
}
