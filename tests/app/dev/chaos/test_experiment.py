"""The interruption of an experiment of `aura chaos`, and its evidence. No process is started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest

from app.dev.chaos import experiment
from app.dev.chaos.experiment import Experiment, ExperimentResult, Options
from app.dev.chaos.faults import FaultKind, RedisKind
from app.dev.chaos.injected import InjectedFault
from app.dev.chaos.takeover import Takeovers

FOUND = {"logs": {"session": []}, "stored_runs": frozenset({"session"})}


class FakeStorage:
    """Stands for the servers, which are not there."""

    url = "redis://127.0.0.1:1/0"
    problems: Sequence[str] = ()

    async def settle(self) -> None:
        return


def fake_processes(monkeypatch: pytest.MonkeyPatch, injected: Sequence[InjectedFault] = ()) -> None:
    """Run experiments without processes and clients, in which these faults were injected."""

    @asynccontextmanager
    async def environment(*_: Any, **__: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(node_variables=dict, executions=dict, keys=dict, problems=list, mcp=None)

    @asynccontextmanager
    async def storage(_: int) -> AsyncIterator[FakeStorage]:
        yield FakeStorage()

    @asynccontextmanager
    async def cluster(storage: FakeStorage, *_: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(storage=storage, injected=list(injected), nodes=[])

    async def no_clients(*_: Any) -> None:
        return

    monkeypatch.setattr(experiment, "start_environment", environment)
    monkeypatch.setattr(experiment, "STORAGES", dict.fromkeys(RedisKind, storage))
    monkeypatch.setattr(experiment, "Cluster", cluster)
    monkeypatch.setattr(Experiment, "_run_clients_and_faults", no_clients)


def interrupted_while_reading(monkeypatch: pytest.MonkeyPatch, times: int) -> Experiment:
    async def read_storage(interrupted: Experiment, *_: Any) -> dict[str, Any]:
        for _time in range(times):
            interrupted.interrupt()
        await asyncio.sleep(0)
        return FOUND

    monkeypatch.setattr(Experiment, "_read_storage", read_storage)
    return Experiment(options(), lambda _: None)


def options(replicas: int = 0) -> Options:
    return Options(1, 1.0, 3, 1, 10.0, RedisKind.SENTINEL, replicas)


async def no_storage(*_: Any) -> dict[str, Any]:
    return FOUND


async def in_a_task(run: Callable[[], Any]) -> ExperimentResult:
    """Run an experiment in a task of its own, which it may cancel."""
    task: asyncio.Task[ExperimentResult] = asyncio.create_task(run())
    return await task


async def test_first_ctrl_c_while_the_evidence_is_collected_loses_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_processes(monkeypatch)
    result = await in_a_task(interrupted_while_reading(monkeypatch, 1).run)
    assert result.evidence.is_interrupted
    assert result.evidence.logs == FOUND["logs"]
    assert result.evidence.stored_runs == FOUND["stored_runs"]
    assert result.evidence.takeovers == Takeovers()


async def test_second_ctrl_c_while_the_evidence_is_collected_ends_the_experiment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_processes(monkeypatch)
    with pytest.raises(asyncio.CancelledError):
        await in_a_task(interrupted_while_reading(monkeypatch, 2).run)


@pytest.mark.parametrize(
    ("replicas", "lossy"), [(0, [(3.0, 4.0), (5.0, 6.0), (7.0, 8.0)]), (2, [(5.0, 6.0), (7.0, 8.0)])]
)
async def test_only_a_master_that_was_replaced_may_have_lost_writes(
    replicas: int, lossy: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    injected = [
        InjectedFault(FaultKind.SEED_KILL, -1, 1.0, 2.0, None, replaced_master=False),
        InjectedFault(FaultKind.SEED_KILL, -1, 3.0, 4.0, (3.0, 3.5), replaced_master=True),
        InjectedFault(FaultKind.PARTITION, -1, 5.0, 6.0, (5.0, 5.5), replaced_master=True),
        InjectedFault(FaultKind.MASTER_KILL, -1, 7.0, 8.0, (7.0, 7.5), replaced_master=True, replaced_successor=True),
    ]
    fake_processes(monkeypatch, injected)
    interrupted_while_reading(monkeypatch, 0)
    result = await in_a_task(Experiment(options(replicas), lambda _: None).run)
    assert result.evidence.lossy_times == lossy


async def test_without_the_sdk_of_mcp_no_run_and_no_fault_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_processes(monkeypatch)
    monkeypatch.setattr(experiment, "is_sdk_installed", lambda: False)
    found = Experiment(replace(options(), runs=60), lambda _: None)
    given: list[Any] = []

    async def note(self: Experiment, *_: Any) -> None:
        given.extend([*self._plans, *islice(self._faults(), 60)])

    monkeypatch.setattr(Experiment, "_run_clients_and_faults", note)
    monkeypatch.setattr(Experiment, "_read_storage", no_storage)
    result = await in_a_task(found.run)
    assert not result.evidence.has_mcp
    runs, faults = given[:60], given[60:]
    assert len(faults) == 60
    assert not [run for run in runs if run.kind.uses_mcp]
    assert FaultKind.MCP_KILL not in {fault.kind for fault in faults}


async def test_redis_that_does_not_come_back_ends_the_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_processes(monkeypatch)
    monkeypatch.setattr(experiment, "_READ_SECONDS", 0.3)
    monkeypatch.setattr(FakeStorage, "problems", [])
    result = await in_a_task(Experiment(options(), lambda _: None).run)
    assert result.evidence.node_problems == ["Redis was unavailable for 0.3 s at the end: 0 logs were read"]
