"""What a run costs on a Redis Cluster, beside a standalone server in the same minutes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench.environment import Environment
from tests.bench.load import Cost, connect_clients, run_round

WORK = {
    "chat": ("bench chat 200 0", 32, 5),
    "paced": ("bench chat 200 10", 16, 1),
    "tools": ("bench tools 5 20", 32, 3),
}
"""The prompt, the number of clients, and the runs of each client in a round."""
MASTERS = (0, 1, 3)
"""Masters of the cluster; 0: a standalone server."""
PROCESSES = (1, 4)


@dataclass(frozen=True, slots=True)
class ClusterCost:
    """The median CPU times per run of all processes of the service and of all servers of Redis, the ratio of the former
    to that with a standalone server, and the runs per second that all clients together completed."""

    work: str
    processes: int
    masters: int
    cpu_ms: float
    ratio: float
    redis_cpu_ms: float
    runs_per_second: float

    def describe(self) -> str:
        redis = "a standalone server" if not self.masters else f"a cluster, {self.masters} master(s)"
        return (
            f"{self.work}, {self.processes} process(es), {redis}: {self.cpu_ms:.2f} ms CPU a run ({self.ratio:.2f}×),"
            f" Redis {self.redis_cpu_ms:.2f} ms, {self.runs_per_second:.0f} runs/s"
        )


async def measure_cluster(rounds: int, processes: tuple[int, ...] = PROCESSES) -> list[ClusterCost]:
    """All kinds of Redis run at the same time; each round visits them in turn, so all meet the same machine."""
    found: list[ClusterCost] = []
    for workers in processes:
        with ExitStack() as stack:
            environments = [stack.enter_context(Environment(workers=workers, masters=it)) for it in MASTERS]
            for work, (prompt, count, runs_each) in WORK.items():
                clients = [await connect_clients(environment, count) for environment in environments]
                costs: list[list[Cost]] = [[] for _ in MASTERS]
                for number in range(rounds + 1):
                    for environment, connected, cost in zip(environments, clients, costs, strict=True):
                        measured = await run_round(environment, connected, runs_each, prompt)
                        if number:  # the first round warms up
                            cost.append(measured)
                for client in (each for connected in clients for each in connected):
                    client.close()
                found += [_summary(work, workers, it, cost, costs[0]) for it, cost in zip(MASTERS, costs, strict=True)]
    return found


def _summary(work: str, processes: int, masters: int, costs: Sequence[Cost], standalone: Sequence[Cost]) -> ClusterCost:
    return ClusterCost(
        work=work,
        processes=processes,
        masters=masters,
        cpu_ms=statistics.median(it.cpu_ms for it in costs),
        ratio=statistics.median(mine.cpu_ms / base.cpu_ms for mine, base in zip(costs, standalone, strict=True)),
        redis_cpu_ms=statistics.median(it.redis_cpu_ms for it in costs),
        runs_per_second=statistics.median(it.runs_per_second for it in costs),
    )
