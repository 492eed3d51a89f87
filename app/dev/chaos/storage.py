"""The Redis of an experiment: its servers, the ways of the nodes to them, and the faults that the servers can have."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable

import redis
from redis.crc import key_slot

from app.dev.chaos.abstract_storage import Storage
from app.dev.chaos.faults import Fault, FaultKind, RedisKind
from app.dev.chaos.injected import Outage
from app.dev.chaos.link import Link, Links, SentinelLink
from app.dev.demo.redis import RedisNotStarted, RedisServer
from app.dev.demo.redis_deployments import MASTER_NAME, ClusterServers, SentinelServers, execute
from app.errors import ConfigurationError

_HEAL_SECONDS = 60.0
"""How long a fault waits for a successor of a master, and afterwards until the servers have healed (s)."""
_POLL_SECONDS = 0.1
_MOVED_SLOTS = 3
_SCANNED_KEYS = 1000
_ERRORS = (redis.RedisError, RedisNotStarted, OSError)
_ENDPOINT_OPTION = "cluster-preferred-endpoint-type"


class FaultFailed(Exception):
    """A fault did not have its effect in time. What it did to the servers is undone."""


class SingleStorage(Storage):
    """One server, which keeps every write when it restarts."""

    def __init__(self, replicas: int) -> None:
        super().__init__(replicas)
        self._server = RedisServer(persistent=True)

    @property
    def url(self) -> str:
        return self._server.url

    def links(self, index: int) -> Links:
        link = Link(self._server.port)
        return Links({self._server.port: link}, lambda: link.url)

    async def inject(self, fault: Fault, outage: Outage) -> None:
        outage.begin()
        if fault.kind is FaultKind.REDIS_PAUSE:
            self._server.pause()
            try:
                await asyncio.sleep(fault.duration_seconds)
            finally:
                self._server.resume()
        else:
            self._server.kill()
            try:
                await asyncio.sleep(fault.duration_seconds)
            finally:
                await self._in_thread(lambda: self._server.restart(keep_data=True))
        outage.end()

    def _start(self) -> None:
        self._server.start()

    def _stop(self) -> None:
        self._server.stop()


class _ReplicatedStorage(Storage):
    """Servers of which one replaces another."""

    _servers: ClusterServers | SentinelServers
    _successors: list[RedisServer] | None = None
    """The masters when this fault's master was replaced."""

    async def settle(self) -> None:
        if not await self._until(self._is_settled):
            self.problems.append(f"Redis did not heal within {_HEAL_SECONDS:g} s: a master lacks replicas")

    async def inject(self, fault: Fault, outage: Outage) -> None:
        self._successors = None
        try:
            await self._apply(fault, outage)
        except (*_ERRORS, FaultFailed) as error:
            self.problems.append(f"a {fault.kind.value} failed: {type(error).__name__}: {error}")
        if outage.is_open and await self._until(self._can_acknowledge):
            outage.end()
        await self.settle()
        if self._successors is not None:
            with contextlib.suppress(*_ERRORS):
                outage.replaces_successor = await self._in_thread(self._masters) != self._successors

    async def _apply(self, fault: Fault, outage: Outage) -> None:
        masters = await self._in_thread(self._masters)
        master = masters[fault.node % len(masters)]
        match fault.kind:
            case FaultKind.MASTER_KILL:
                await self._kill(master, fault, outage)
            case FaultKind.SEED_KILL:
                await self._kill_seed(fault, outage)
            case FaultKind.PARTITION:
                await self._suspend(master, fault, outage)
            case FaultKind.LAGGING_REPLICA:
                await self._promote_lagging_replica(master, fault, outage)
            case _:
                raise ValueError(f"{fault.kind.value} is no fault of this Redis")

    async def _kill(self, server: RedisServer, fault: Fault, outage: Outage) -> None:
        """Kill a server, and start it again once another one is the master in its place, if it was one."""
        outage.replaces_master = server in await self._in_thread(self._masters)
        if outage.replaces_master or self.replicas:
            outage.begin()
        await self._in_thread(server.kill)
        try:
            await self._wait_for_successor(server, outage)
            await asyncio.sleep(fault.duration_seconds)
        finally:
            await self._in_thread(lambda: self._rejoin(server))

    async def _suspend(self, master: RedisServer, fault: Fault, outage: Outage) -> None:
        outage.replaces_master = True
        outage.begin()
        master.pause()
        try:
            await self._wait_for_successor(master, outage)
            await asyncio.sleep(fault.duration_seconds)
        finally:
            master.resume()

    async def _promote_lagging_replica(self, master: RedisServer, fault: Fault, outage: Outage) -> None:
        replicas = await self._in_thread(lambda: self._replicas_of(master))
        if self.replicas:
            outage.begin()
        try:
            for replica in replicas:
                await self._in_thread(replica.kill)
            await asyncio.sleep(fault.duration_seconds)
            outage.replaces_master = True
            if not outage.is_open:
                outage.begin()
            await self._in_thread(master.kill)
            for replica in replicas:
                await self._in_thread(replica.start)
            await self._wait_for_successor(master, outage)
        finally:
            for replica in replicas:
                await self._in_thread(replica.start)
            await self._in_thread(lambda: self._rejoin(master))

    async def _wait_for_successor(self, server: RedisServer, outage: Outage) -> None:
        """Wait until the others report that a server is no master. Raises `FaultFailed` where that takes too long.

        The outage ends here, unless replicas must acknowledge a takeover: too few may follow the new master yet.
        """
        if not await self._until(lambda: self._is_replaced(server)):
            raise FaultFailed(f"no other server has replaced the master within {_HEAL_SECONDS:g} s")
        if not self.replicas and outage.is_open:
            outage.end()
        self._successors = await self._in_thread(self._masters)

    def _can_acknowledge(self) -> bool:
        """Return whether every master has as many replicas as must acknowledge."""
        return all(len(_replica_ports(master)) >= self.replicas for master in self._masters())

    def _replicas_of(self, master: RedisServer) -> list[RedisServer]:
        return [server for server in self._servers.servers if server.port in _replica_ports(master)]

    def _is_settled(self) -> bool:
        """Return whether every master has all its replicas, and they follow it."""
        online = {server: _replica_ports(server) for server in self._masters()}
        return self._servers.is_whole() and all(len(ports) == self.max_replicas for ports in online.values())

    async def _until(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition is true. Returns False where it does not become true in time."""
        deadline = time.monotonic() + _HEAL_SECONDS
        while not await self._in_thread(lambda: _is_true(condition)):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    @abstractmethod
    def _masters(self) -> list[RedisServer]:
        """Raises `RedisNotStarted` and the driver's errors."""

    @abstractmethod
    def _is_replaced(self, server: RedisServer) -> bool:
        """Return whether a server is no master, as the others report."""

    @abstractmethod
    def _rejoin(self, server: RedisServer) -> None:
        """Start a server that was killed, with its data; where another one is the master, it follows that one."""

    @abstractmethod
    async def _kill_seed(self, fault: Fault, outage: Outage) -> None: ...

    def _start(self) -> None:
        self._servers.__enter__()

    def _stop(self) -> None:
        self._servers.__exit__()


class ClusterStorage(_ReplicatedStorage):
    """Three masters with one replica each.

    The servers name each other by their ports alone, and a client adds the host that it has reached. So each node stays
    on its own links.
    """

    max_replicas = 1

    def __init__(self, replicas: int) -> None:
        super().__init__(replicas)
        self._servers: ClusterServers = ClusterServers(
            persistent=True, arguments=(f"--{_ENDPOINT_OPTION}", "unknown-endpoint")
        )

    @property
    def url(self) -> str:
        return self._servers.url

    def links(self, index: int) -> Links:
        host = _host(index)
        seeds = ",".join(f"{host}:{server.port}" for server in self._servers.seeds)
        return Links(_links(self._servers.servers, Link, host), lambda: f"redis://{seeds}")

    async def master_port(self, index: int) -> int | None:
        try:
            masters = await self._in_thread(self._masters)
        except _ERRORS:  # another fault is under way: any server will do
            masters = self._servers.seeds
        return masters[index % len(masters)].port

    async def _apply(self, fault: Fault, outage: Outage) -> None:
        if fault.kind is not FaultKind.RESHARD:
            await super()._apply(fault, outage)
            return
        masters = await self._in_thread(self._masters)
        source, target = (masters[(fault.node + step) % len(masters)] for step in (0, 1))
        for slot in await self._in_thread(lambda: _some_slots(source, fault.at_seconds)):
            await self._in_thread(
                lambda slot=slot: self._servers.move_slot(  # type: ignore[misc]
                    slot, source, target, pause_seconds=fault.duration_seconds / 10
                )
            )

    async def _kill_seed(self, fault: Fault, outage: Outage) -> None:
        await self._kill(self._servers.seeds[0], fault, outage)

    def _masters(self) -> list[RedisServer]:
        return self._servers.masters()

    def _is_replaced(self, server: RedisServer) -> bool:
        return server not in self._servers.masters(without=server)

    def _rejoin(self, server: RedisServer) -> None:
        server.start()

    def _start(self) -> None:
        """Raises `ConfigurationError` where the server's program is too old."""
        try:
            super()._start()
        except RedisNotStarted as error:
            if _ENDPOINT_OPTION in str(error):
                raise ConfigurationError(
                    f"--redis cluster needs Redis 7 or Valkey: install one, or use another --redis; {error}"
                ) from error
            raise


class SentinelStorage(_ReplicatedStorage):
    """A master with two replicas, and three sentinels."""

    max_replicas = 2

    def __init__(self, replicas: int) -> None:
        super().__init__(replicas)
        self._servers: SentinelServers = SentinelServers(persistent=True)

    @property
    def url(self) -> str:
        return self._servers.url

    def links(self, index: int) -> Links:
        host = _host(index)
        sentinels = ",".join(f"{host}:{sentinel.port}" for sentinel in self._servers.sentinels)
        return Links(
            {**_links(self._servers.servers, Link, host), **_links(self._servers.sentinels, SentinelLink, host)},
            lambda: f"redis+sentinel://{sentinels}/{MASTER_NAME}",
        )

    async def _kill_seed(self, fault: Fault, outage: Outage) -> None:
        seed = self._servers.sentinels[0]
        await self._in_thread(seed.kill)
        try:
            await asyncio.sleep(fault.duration_seconds)
        finally:
            await self._in_thread(seed.start)

    def _masters(self) -> list[RedisServer]:
        return [self._servers.master()]

    def _is_replaced(self, server: RedisServer) -> bool:
        return self._servers.master() is not server

    def _rejoin(self, server: RedisServer) -> None:
        """Sentinels would demote a former master only after some ten seconds."""
        server.start()
        master = self._servers.master()
        if master is not server:
            execute(server, "REPLICAOF", "127.0.0.1", master.port)


STORAGES: dict[RedisKind, type[Storage]] = {
    RedisKind.SINGLE: SingleStorage,
    RedisKind.CLUSTER: ClusterStorage,
    RedisKind.SENTINEL: SentinelStorage,
}


def _host(index: int) -> str:
    """Return a loopback address for a node: each on Linux is this machine's own, and all have the same length."""
    return f"127.0.{1 + index // 9}.{1 + index % 9}"


def _links(servers: Iterable[RedisServer], kind: type[Link | SentinelLink], host: str) -> dict[int, Link]:
    return {server.port: kind(server.port, host=host) for server in servers}


def _replica_ports(master: RedisServer) -> set[int]:
    """Return the ports of the replicas that follow a master. Raises the driver's errors."""
    information = execute(master, "INFO", "replication")
    replicas = (information.get(f"slave{number}") for number in range(len(information)))
    return {int(replica["port"]) for replica in replicas if replica and replica["state"] == "online"}


def _some_slots(master: RedisServer, seed: float) -> list[int]:
    """Return some slots of a master in which there are keys."""
    _, names = execute(master, "SCAN", 0, "COUNT", _SCANNED_KEYS)
    slots = sorted({key_slot(name.encode()) for name in names})
    return random.Random(seed).sample(slots, min(_MOVED_SLOTS, len(slots)))  # noqa: S311


def _is_true(condition: Callable[[], bool]) -> bool:
    """Return whether a condition is true. A server that does not answer is no reason to give up."""
    try:
        return condition()
    except _ERRORS:
        return False
