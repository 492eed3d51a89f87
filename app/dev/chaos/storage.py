"""The Redis of an experiment: its servers, the ways of the nodes to them, and the faults that the servers can have."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import redis
from redis.crc import key_slot

from app.dev.chaos.link import Link, Links, SentinelLink
from app.dev.chaos.plan import Fault, FaultKind, RedisKind
from app.dev.demo.redis import RedisNotStarted, RedisServer
from app.dev.demo.redis_deployments import MASTER_NAME, ClusterServers, SentinelServers, execute

_HEAL_SECONDS = 60.0
_POLL_SECONDS = 0.1
_MOVED_SLOTS = 3
_SCANNED_KEYS = 1000
_ERRORS = (redis.RedisError, RedisNotStarted, OSError)

T = TypeVar("T")


class Storage(ABC):
    """The servers; also an async context manager, which starts and stops them.

    All of that is done in one thread: a server ends with the thread that started it. `replicas` is how many replicas
    acknowledge what must not be lost (`AURA_REDIS_REPLICAS`).
    """

    max_replicas = 0
    """How many replicas a master has."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas
        self.problems: list[str] = []
        """What did not heal in time, as texts."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="redis")

    async def __aenter__(self) -> Self:
        try:
            await self._in_thread(self._start)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._in_thread(self._stop)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @property
    @abstractmethod
    def url(self) -> str:
        """The address of Redis for the experiment itself, which has no faults on its way."""

    @abstractmethod
    def links(self, index: int) -> Links:
        """Return the ways of a node to the servers, which are not open yet."""

    async def settle(self) -> None:
        """Wait until nothing is left of earlier faults."""
        return

    @abstractmethod
    async def inject(self, fault: Fault) -> None:
        """Carry out a fault of Redis. Returns when the servers have healed."""

    async def master_port(self, index: int) -> int | None:
        """Return the port of one of several masters; None where there is only one."""
        return None

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None: ...


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

    async def inject(self, fault: Fault) -> None:
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

    def _start(self) -> None:
        self._server.start()

    def _stop(self) -> None:
        self._server.stop()


class _ReplicatedStorage(Storage):
    """Servers of which one replaces another."""

    _servers: ClusterServers | SentinelServers

    async def settle(self) -> None:
        await self._until(self._is_settled, "every master has its replicas")

    async def inject(self, fault: Fault) -> None:
        try:
            await self._apply(fault)
        except _ERRORS as error:
            self.problems.append(f"a {fault.kind.value} was not carried out: {type(error).__name__}: {error}")
        await self.settle()

    async def _apply(self, fault: Fault) -> None:
        masters = await self._in_thread(self._masters)
        master = masters[fault.node % len(masters)]
        match fault.kind:
            case FaultKind.MASTER_KILL:
                await self._kill(master, fault)
            case FaultKind.SEED_KILL:
                await self._kill_seed(fault)
            case FaultKind.PARTITION:
                await self._suspend(master, fault)
            case FaultKind.LAGGING_REPLICA:
                await self._promote_lagging_replica(master, fault)
            case _:
                raise ValueError(f"{fault.kind.value} is no fault of this Redis")

    async def _kill(self, server: RedisServer, fault: Fault) -> None:
        """Kill a server, and start it again once another one is the master in its place, if it was one."""
        await self._in_thread(server.kill)
        try:
            await self._until(lambda: self._is_replaced(server), "a killed master has a successor")
            await asyncio.sleep(fault.duration_seconds)
        finally:
            await self._in_thread(lambda: self._rejoin(server))

    async def _suspend(self, master: RedisServer, fault: Fault) -> None:
        master.pause()
        try:
            await self._until(lambda: self._is_replaced(master), "a suspended master has a successor")
            await asyncio.sleep(fault.duration_seconds)
        finally:
            master.resume()

    async def _promote_lagging_replica(self, master: RedisServer, fault: Fault) -> None:
        replicas = await self._in_thread(lambda: self._replicas_of(master))
        try:
            for replica in replicas:
                await self._in_thread(replica.kill)
            await asyncio.sleep(fault.duration_seconds)
            await self._in_thread(master.kill)
            for replica in replicas:
                await self._in_thread(replica.start)
            await self._until(lambda: self._is_replaced(master), "a lagging replica is the master")
        finally:
            for replica in replicas:
                await self._in_thread(replica.start)
            await self._in_thread(lambda: self._rejoin(master))

    def _replicas_of(self, master: RedisServer) -> list[RedisServer]:
        return [server for server in self._servers.servers if server.port in _replica_ports(master)]

    def _is_settled(self) -> bool:
        """Return whether every master has all its replicas, and they follow it."""
        online = {server: _replica_ports(server) for server in self._masters()}
        return self._servers.is_whole() and all(len(ports) == self.max_replicas for ports in online.values())

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition is true; note as a problem where it does not become true in time."""
        deadline = time.monotonic() + _HEAL_SECONDS
        while not await self._in_thread(lambda: _is_true(condition)):
            if time.monotonic() > deadline:
                self.problems.append(f"Redis did not heal within {_HEAL_SECONDS:g} s ({what})")
                return
            await asyncio.sleep(_POLL_SECONDS)

    @abstractmethod
    def _masters(self) -> list[RedisServer]:
        """Raises `RedisNotStarted` and the driver's errors."""

    @abstractmethod
    def _is_replaced(self, server: RedisServer) -> bool:
        """Return whether a server is no master, as the others say."""

    @abstractmethod
    def _rejoin(self, server: RedisServer) -> None:
        """Start a server that was killed, with its data; where another one is the master, it follows that one."""

    @abstractmethod
    async def _kill_seed(self, fault: Fault) -> None: ...

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
            persistent=True, arguments=("--cluster-preferred-endpoint-type", "unknown-endpoint")
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

    async def _apply(self, fault: Fault) -> None:
        if fault.kind is not FaultKind.RESHARD:
            await super()._apply(fault)
            return
        masters = await self._in_thread(self._masters)
        source, target = (masters[(fault.node + step) % len(masters)] for step in (0, 1))
        for slot in await self._in_thread(lambda: _some_slots(source, fault.at_seconds)):
            await self._in_thread(
                lambda slot=slot: self._servers.move_slot(  # type: ignore[misc]
                    slot, source, target, pause_seconds=fault.duration_seconds / 10
                )
            )

    async def _kill_seed(self, fault: Fault) -> None:
        await self._kill(self._servers.seeds[0], fault)

    def _masters(self) -> list[RedisServer]:
        return self._servers.masters()

    def _is_replaced(self, server: RedisServer) -> bool:
        return server not in self._servers.masters(without=server)

    def _rejoin(self, server: RedisServer) -> None:
        server.start()


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

    async def _kill_seed(self, fault: Fault) -> None:
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
