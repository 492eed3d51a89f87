"""The plan of `aura chaos`: its runs and its faults."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from app.dev.chaos import faults, plan
from app.dev.chaos.faults import Fault, FaultKind, RedisKind
from app.dev.chaos.plan import RunKind


def first_faults(
    seed: int, count: int = 200, *, nodes: int = 3, lease_seconds: float = 10, redis: RedisKind = RedisKind.SINGLE
) -> list[Fault]:
    planned = faults.faults(seed, nodes=nodes, every_seconds=2, lease_seconds=lease_seconds, redis=redis)
    return list(islice(planned, count))


def test_seed_determines_the_plan() -> None:
    assert plan.runs(7, 50) == plan.runs(7, 50)
    assert plan.runs(7, 50)[:20] == plan.runs(7, 20)
    assert plan.runs(7, 50) != plan.runs(8, 50)
    assert first_faults(7) == first_faults(7)
    assert first_faults(7) != first_faults(8)


def test_plan_contains_every_kind_of_run_and_decision() -> None:
    runs = plan.runs(1, 300)
    assert {run.kind for run in runs} == set(RunKind)
    assert {run.decision_path for run in runs} == set(plan.DecisionPath)
    assert any(run.rejects for run in runs)
    assert any(run.cancels_after for run in runs)
    assert {run.skips_unknown for run in runs} == {True, False}
    assert len({run.prompt for run in runs}) == len({run.text for run in runs}) == 300


def test_without_the_sdk_of_mcp_there_is_neither_a_run_nor_a_fault_of_it() -> None:
    runs = plan.runs(1, 300, with_mcp=False)
    assert {run.kind for run in runs} == {kind for kind in RunKind if not kind.uses_mcp}
    assert runs[:20] == plan.runs(1, 20, with_mcp=False)
    for redis in RedisKind:
        without = faults.faults(3, nodes=3, every_seconds=2, lease_seconds=10, redis=redis, with_mcp=False)
        assert FaultKind.MCP_KILL not in {fault.kind for fault in islice(without, 200)}


def test_tools_of_a_run_are_recognised_by_marks_of_their_own() -> None:
    runs = plan.runs(1, 300)
    for tool in {tool for kind in RunKind for tool in kind.tools}:
        assert len({run.mark(tool) for run in runs}) == 300


ON_ONE_SERVER = {FaultKind.REDIS_RESTART, FaultKind.REDIS_PAUSE}
ON_SEVERAL_SERVERS = {FaultKind.MASTER_KILL, FaultKind.SEED_KILL, FaultKind.PARTITION, FaultKind.LAGGING_REPLICA}
ON_A_CLUSTER = {FaultKind.RESHARD, FaultKind.MASTER_CUT}


def test_each_kind_of_redis_has_its_own_faults() -> None:
    kinds = {redis: {fault.kind for fault in first_faults(3, redis=redis)} for redis in RedisKind}
    assert kinds[RedisKind.SINGLE] == set(FaultKind) - ON_SEVERAL_SERVERS - ON_A_CLUSTER
    assert kinds[RedisKind.CLUSTER] == set(FaultKind) - ON_ONE_SERVER
    assert kinds[RedisKind.SENTINEL] == set(FaultKind) - ON_ONE_SERVER - ON_A_CLUSTER


@pytest.mark.parametrize("redis", RedisKind)
def test_faults_are_regular_and_one_node_at_a_time_is_away_longer_than_its_lease(redis: RedisKind) -> None:
    faults = first_faults(3, redis=redis)
    assert {fault.node for fault in faults} == {0, 1, 2}
    assert all(later.at_seconds - earlier.at_seconds == 2 for earlier, later in pairwise(faults))
    away = [fault for fault in faults if fault.duration_seconds > 10 and not fault.kind.affects_redis]
    assert all(earlier.at_seconds + earlier.duration_seconds <= later.at_seconds for earlier, later in pairwise(away))
    for long in away:
        meanwhile = [f for f in faults if long.at_seconds < f.at_seconds < long.at_seconds + long.duration_seconds]
        assert all(fault.node != long.node for fault in meanwhile)
