"""The faults of the servers of `aura chaos`: what each is recorded as, and where it fails. No server is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.dev.chaos import storage
from app.dev.chaos.faults import Fault, FaultKind
from app.dev.chaos.injected import Outage
from app.dev.chaos.storage import ClusterStorage, SentinelStorage
from app.dev.demo.redis import RedisServer
from app.errors import ConfigurationError


class FakeServer:
    """Stands for a server or a sentinel, and remembers what was done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def kill(self) -> None:
        self.done.append("kill")

    def start(self) -> None:
        self.done.append("start")

    def pause(self) -> None:
        self.done.append("pause")

    def resume(self) -> None:
        self.done.append("resume")


class FakeCluster(ClusterStorage):
    """A cluster of fake servers, of which the first one is the seed."""

    def __init__(self, *, replicas: int = 0, master: int = 0, is_replaced: bool = True) -> None:
        super().__init__(replicas)
        self.fakes = [FakeServer(), FakeServer()]
        self._servers = cast("Any", SimpleNamespace(servers=self.fakes, seeds=self.fakes[:1]))
        self._master, self._replaced = master, is_replaced

    def _masters(self) -> list[RedisServer]:
        return [cast("RedisServer", self.fakes[self._master])]

    def _is_replaced(self, server: RedisServer) -> bool:
        return self._replaced

    def _is_settled(self) -> bool:
        return True

    def _can_acknowledge(self) -> bool:
        return True


class FakeSentinels(SentinelStorage):
    """One fake sentinel; the servers that it watches have no fault."""

    def __init__(self) -> None:
        super().__init__(2)
        self.sentinel = FakeServer()
        self._servers = cast("Any", SimpleNamespace(servers=[FakeServer()], sentinels=[self.sentinel]))

    def _masters(self) -> list[RedisServer]:
        return self._servers.servers

    def _is_settled(self) -> bool:
        return True


def fault(kind: FaultKind) -> Fault:
    return Fault(kind, 0.0, 0, 0.0)


async def test_partition_without_a_successor_fails_and_its_server_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_HEAL_SECONDS", 0.2)
    cluster, outage = FakeCluster(is_replaced=False), Outage()
    await cluster.inject(fault(FaultKind.PARTITION), outage)
    assert cluster.fakes[0].done == ["pause", "resume"]
    assert len(cluster.problems) == 1
    assert cluster.problems[0].startswith("a partition failed:")
    assert "no other server has replaced the master within 0.2 s" in cluster.problems[0]


async def test_killed_seed_that_is_a_master_is_replaced_and_interrupts_redis() -> None:
    cluster, outage = FakeCluster(master=0), Outage()
    await cluster.inject(fault(FaultKind.SEED_KILL), outage)
    assert cluster.fakes[0].done == ["kill", "start"]
    assert outage.replaces_master
    assert 0 < outage.since <= outage.until
    assert not outage.is_open


@pytest.mark.parametrize(("replicas", "interrupts"), [(0, False), (1, True)])
async def test_killed_seed_that_is_a_replica_interrupts_redis_only_where_it_must_acknowledge(
    replicas: int, *, interrupts: bool
) -> None:
    cluster, outage = FakeCluster(replicas=replicas, master=1), Outage()
    await cluster.inject(fault(FaultKind.SEED_KILL), outage)
    assert cluster.fakes[0].done == ["kill", "start"]
    assert not outage.replaces_master
    assert bool(outage.until) == interrupts


async def test_killed_sentinel_replaces_no_master_and_interrupts_nothing() -> None:
    sentinels, outage = FakeSentinels(), Outage()
    await sentinels.inject(fault(FaultKind.SEED_KILL), outage)
    assert sentinels.sentinel.done == ["kill", "start"]
    assert outage == Outage()


@pytest.mark.parametrize("kind", [FaultKind.MASTER_KILL, FaultKind.PARTITION, FaultKind.LAGGING_REPLICA])
async def test_outage_ends_when_a_successor_is_known(kind: FaultKind, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, outage, ends = FakeCluster(), Outage(), []
    monkeypatch.setattr(cluster, "_rejoin", lambda server: ends.append(outage.until))
    monkeypatch.setattr(cluster, "_replicas_of", lambda master: [cluster.fakes[1]])
    monkeypatch.setattr(cluster.fakes[0], "resume", lambda: ends.append(outage.until))
    await cluster.inject(fault(kind), outage)
    assert ends == [outage.until]  # the killed or suspended server is still away


@pytest.mark.parametrize("replaces_again", [True, False])
async def test_successor_that_is_replaced_itself_is_recorded(
    monkeypatch: pytest.MonkeyPatch, *, replaces_again: bool
) -> None:
    cluster, outage = FakeCluster(), Outage()
    monkeypatch.setattr(cluster, "_rejoin", lambda server: setattr(cluster, "_master", int(replaces_again)))
    await cluster.inject(fault(FaultKind.MASTER_KILL), outage)
    assert outage.replaces_master
    assert outage.replaces_successor == replaces_again


async def test_server_that_is_too_old_for_the_cluster_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho \">>> 'cluster-preferred-endpoint-type'\"\necho 'Bad directive'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(RedisServer, "find", staticmethod(lambda: program))
    with pytest.raises(ConfigurationError, match="--redis cluster needs Redis 7 or Valkey"):
        await ClusterStorage(0).__aenter__()
