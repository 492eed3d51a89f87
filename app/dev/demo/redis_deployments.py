"""Redis on more than one server, as child processes on 127.0.0.1: a cluster, and a master that sentinels watch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.dev.demo.redis import RedisNotStarted, RedisServer

MASTER_NAME = "aura"
_NODE_TIMEOUT_MS = 2000
_DOWN_AFTER_MS = 1000
SLOTS = 16384
_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.05
_MOVED_KEYS = 10
_MOVE_TIMEOUT_MS = 5000


class _Deployment(ABC):
    """Servers that start and stop together; a context manager."""

    def __init__(self, servers: list[RedisServer], sentinels: Sequence[SentinelServer] = ()) -> None:
        self.servers = servers
        self.sentinels = sentinels

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in (*self.sentinels, *self.servers):
            server.stop()

    def is_whole(self) -> bool:
        """Return whether every running server works: slots are served, and replicas follow their masters."""
        return all(_is_healthy(server) for server in self.servers if server.is_running)

    @abstractmethod
    def _start(self) -> None:
        """Start the servers, and wait until they know each other."""


class ClusterServers(_Deployment):
    """A cluster of masters with one replica each. A master that dies is replaced after about `_NODE_TIMEOUT_MS`."""

    def __init__(
        self, masters: int = 3, *, replicas: bool = True, persistent: bool = False, arguments: Sequence[str] = ()
    ) -> None:
        """`arguments` are added to the command line of each server."""
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(_NODE_TIMEOUT_MS), *arguments)
        more = ("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")
        self._count = masters
        total = 2 * masters if replicas else masters
        super().__init__([RedisServer(*options, *more, persistent=persistent) for _ in range(total)])

    @property
    def url(self) -> str:
        """The address that names the first masters as seeds."""
        return "redis://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[: self._count])

    @property
    def seeds(self) -> list[RedisServer]:
        """The servers that the address names: the first masters."""
        return self.servers[: self._count]

    def masters(self, *, without: RedisServer | None = None) -> list[RedisServer]:
        """Return the servers that hold slots, in the order of their slots, as a living node reports (`without`: another
        one than this)."""
        by_port = {server.port: server for server in self.servers}
        slots = self._execute_on_any("CLUSTER", "SLOTS", without=without)
        ranges = sorted(slots, key=lambda each: int(each[0]))
        return list(dict.fromkeys(by_port[int(each[2][1])] for each in ranges))

    def move_slot(self, slot: int, source: RedisServer, target: RedisServer, *, pause_seconds: float = 0.0) -> None:
        """Move a hash slot and its keys from one master to another, some keys at a time with a pause after each."""
        source_id, target_id = (execute(server, "CLUSTER", "MYID") for server in (source, target))
        execute(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        execute(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := execute(source, "CLUSTER", "GETKEYSINSLOT", slot, _MOVED_KEYS):
            execute(source, "MIGRATE", "127.0.0.1", target.port, "", 0, _MOVE_TIMEOUT_MS, "KEYS", *keys)
            time.sleep(pause_seconds)
        for server in (target, source):  # the new owner first: no node redirects to one that does not know it
            execute(server, "CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def _start(self) -> None:
        for server in self.servers:
            server.start()
        masters, replicas = self.servers[: self._count], self.servers[self._count :]
        for number, server in enumerate(masters):
            first, last = number * SLOTS // self._count, (number + 1) * SLOTS // self._count - 1
            execute(server, "CLUSTER", "ADDSLOTSRANGE", first, last)
            execute(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in self.servers[1:]:
            execute(server, "CLUSTER", "MEET", "127.0.0.1", masters[0].port)
        _wait_until(lambda: all(map(self._knows_all, self.servers)), "all nodes know each other")
        for master, replica in zip(masters, replicas, strict=False):
            execute(replica, "CLUSTER", "REPLICATE", execute(master, "CLUSTER", "MYID"))
        _wait_until(self.is_whole, "the cluster works and every replica follows its master")

    def _knows_all(self, server: RedisServer) -> bool:
        return f"cluster_known_nodes:{len(self.servers)}" in str(execute(server, "CLUSTER", "INFO"))

    def _execute_on_any(self, *command: Any, without: RedisServer | None = None) -> Any:
        for server in self.servers:
            if server.is_running and server is not without:
                try:
                    return execute(server, *command)
                except redis.RedisError:
                    continue
        raise RedisNotStarted("no node of the cluster answers")


class SentinelServers(_Deployment):
    """A master with replicas, and sentinels that replace it when it dies."""

    def __init__(self, *, replicas: int = 2, sentinels: int = 3, persistent: bool = False) -> None:
        servers = [RedisServer(persistent=persistent) for _ in range(1 + replicas)]
        super().__init__(servers, [SentinelServer() for _ in range(sentinels)])

    @property
    def url(self) -> str:
        """The address that names the sentinels and the master's name."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{it.port}' for it in self.sentinels)}/{MASTER_NAME}"

    def master(self) -> RedisServer:
        """Return the server that most sentinels name as the master: one of them can be behind the others."""
        votes: Counter[int] = Counter()
        for sentinel in self.sentinels:
            if sentinel.is_running:
                with suppress(redis.RedisError):
                    votes[int(execute(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)[1])] += 1
        if not votes:
            raise RedisNotStarted("no sentinel answers")
        ((port, _),) = votes.most_common(1)
        return next(server for server in self.servers if server.port == port)

    def _start(self) -> None:
        master, *replicas = self.servers
        for server in self.servers:
            server.start()
        for replica in replicas:
            execute(replica, "REPLICAOF", "127.0.0.1", master.port)
        _wait_until(lambda: all(map(_is_healthy, replicas)), "every replica follows the master")
        for sentinel in self.sentinels:
            sentinel.watch(master.port, quorum=len(self.sentinels) // 2 + 1)
            sentinel.start()
        _wait_until(self._know_each_other, "the sentinels know each other and the replicas")

    def _know_each_other(self) -> bool:
        expected = {"num-slaves": len(self.servers) - 1, "num-other-sentinels": len(self.sentinels) - 1}
        for sentinel in self.sentinels:
            reply = execute(sentinel, "SENTINEL", "MASTER", MASTER_NAME)
            fields = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
            if any(int(fields[name]) < count for name, count in expected.items()):
                return False
        return True


class SentinelServer(RedisServer):
    """A sentinel: the same program in another mode, whose configuration is a file that it rewrites.

    Its arguments are further lines of that file.
    """

    def watch(self, port: int, *, quorum: int) -> None:
        """Set what it watches; must be called before it is started."""
        self._lines: Sequence[str] = (
            f"sentinel monitor {MASTER_NAME} 127.0.0.1 {port} {quorum}",
            f"sentinel down-after-milliseconds {MASTER_NAME} {_DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER_NAME} {10 * _DOWN_AFTER_MS}",
        )

    def _command(self, binary: Path, port: int, directory: Path) -> list[str]:
        configuration = directory / "sentinel.conf"
        if not configuration.exists():
            lines = (
                f"port {port}",
                "bind 127.0.0.1",
                f"dir {directory}",
                "daemonize no",
                *self._lines,
                *self._arguments,
            )
            configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [str(binary), str(configuration), "--sentinel"]


def execute(server: RedisServer, *command: Any) -> Any:
    """Return the reply of one server to one command. Raises the driver's errors, after two seconds at the latest."""
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=server.port, decode_responses=True, socket_timeout=2, protocol=2, retry=once) as client:
        return client.execute_command(*command)


def _is_healthy(server: RedisServer) -> bool:
    information = execute(server, "INFO", "everything")
    follows = information["role"] == "master" or information["master_link_status"] == "up"
    is_of_cluster = bool(information["cluster_enabled"])
    return follows and (not is_of_cluster or "cluster_state:ok" in str(execute(server, "CLUSTER", "INFO")))


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    """Raises `RedisNotStarted` where a condition does not come true in time."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RedisNotStarted(f"not within {_WAIT_SECONDS:.0f} s: {what}")
        time.sleep(_POLL_SECONDS)
