"""The connections of one process to Redis: one for all commands and one for Pub/Sub.

All runs and readers share them, so that a burst delays neither a request nor the lease. The caller does not need to
know whether the address is that of a standalone server, of a master that sentinels watch, or of a cluster, which gets
one connection for commands to each master, and one for sharded Pub/Sub where it is needed.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import NoScriptError

from app.errors import StorageUnavailable
from app.ports.redis_address import RedisAddress, Server
from app.redis.wire.cluster import Cluster
from app.redis.wire.discovery import find_server
from app.redis.wire.drivers import Drivers, Open
from app.redis.wire.errors import is_wrong_type, raise_error_reply, translate_reply, unavailable
from app.redis.wire.listening import Listening
from app.redis.wire.pipeline import Pipeline
from app.redis.wire.protocol import RedisProtocol
from app.redis.wire.scanning import scan_keys
from app.redis.wire.script import Command, Script
from app.redis.wire.sentinel import Sentinels
from app.redis.wire.sharded import ShardedPubSub
from app.redis.wire.topology import Topology

_MAX_ANSWER_SECONDS = 1.0
"""How long the start waits for each master of a cluster: one of them may hang."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """The number of commands that are sent and not answered, and what is known of the server since its first reply.

    `has_failovers`: another server may become the master, as in a cluster and with sentinels.
    """

    in_flight: int
    is_known: bool
    is_cluster: bool
    has_failovers: bool


class Connection:
    """Commands to Redis. Every method raises `StorageUnavailable` within twice `timeout_seconds` or a little more, and
    `UnicodeEncodeError` or `TypeError` for an argument that cannot be encoded."""

    def __init__(self, address: str, *, timeout_seconds: float) -> None:
        """`address` is a URL as `RedisAddress` reads it; raises `ValueError` for another one."""
        self._address = RedisAddress.parse(address)
        self.timeout_seconds = timeout_seconds
        self._drivers = Drivers(self._address, timeout_seconds=timeout_seconds)
        self._sentinels: Sentinels | None = None
        if self._address.master is not None:
            self._sentinels = Sentinels(self._drivers, timeout_seconds=timeout_seconds, on_switch=self._on_switch)
        self._listening = Listening(self._drivers, self._sentinels)
        self._pipelines: list[Pipeline] = []
        self._separate: dict[Server | None, Pipeline] = {}
        self._only_server: Server | None = None  # the one that answered, where it is no node of a cluster
        self._cluster: Cluster | None = None
        self._server: Pipeline | Cluster | None = None  # None until the kind of server is known
        self._discovery: asyncio.Task[StorageUnavailable | None] | None = None
        self._masters: frozenset[Server] | None = None  # of a cluster
        self.scripts: dict[str, Script] = {}
        """The registered scripts, by their SHA-1."""
        self.sharded: ShardedPubSub | None = None
        """Sharded Pub/Sub. None where the server is no cluster, lacks it (before Redis 7), or is not known yet."""
        self.failovers = 0
        """How often another server has become a master: it may lack the last writes of the former one."""

    def stats(self) -> ConnectionStats:
        in_flight = 0 if self._server is None else self._server.in_flight
        is_cluster = self._cluster is not None
        return ConnectionStats(
            in_flight,
            is_known=self._server is not None,
            is_cluster=is_cluster,
            has_failovers=is_cluster or self._sentinels is not None,
        )

    def register(self, script: Script) -> Script:
        """Remember a script, so that it is loaded into a server that does not have it. Returns the script."""
        self.scripts[script.sha] = script
        return script

    async def close(self) -> None:
        """Fail all commands and disconnect."""
        for pipeline in (*self._pipelines, *self._separate.values()):
            await pipeline.close()
        if self._discovery is not None:
            await self._discovery  # it ends, since the pipelines have failed its commands
        for part in (self._listening, self._cluster, self.sharded, self._sentinels):
            if part is not None:
                await part.close()

    async def listen(self, on_message: Callable[[Any], None], on_lost: Callable[[], None]) -> RedisProtocol:
        """Open a new connection for Pub/Sub in place of the last one. Raises one of `DRIVER_ERRORS`."""
        topology = self._cluster.topology if self._cluster is not None else None
        servers: Sequence[Server] = self._address.servers if topology is None else sorted(topology.all_masters)
        if self._only_server is not None:
            servers = [self._only_server]
        return await self._listening.open(servers, on_message, on_lost)

    def home_of(self, command: Command) -> Server | None:
        """Return the master of a cluster that holds the key of a command; None where there is only one server, or where
        it is not known at the moment."""
        return None if self._cluster is None else self._cluster.home_of(command)

    async def separate_pipeline(self, key: str) -> Pipeline:
        """Return a second connection for commands, to the master of this key: what blocks it delays nothing else.

        Raises `StorageUnavailable`.
        """
        if self._server is None:
            await self.execute("PING")
        server = self._only_server
        if self._cluster is not None:
            server = self._cluster.home_of(("GET", key))
            if server is None:
                raise StorageUnavailable("no node of the Redis cluster serves this slot")
        found = self._separate.get(server)
        if found is None:
            found = Pipeline(self._open(server), timeout_seconds=self.timeout_seconds)
            self._separate[server] = found
        return found

    # --- commands -----------------------------------------------------------------------------------------------------

    async def execute(self, *command: Any) -> Any:
        """Return the reply to one command. Raises `StorageUnavailable` for an error reply."""
        (reply,) = await self._submit([command])
        raise_error_reply(reply)
        return reply

    async def run_script(self, script: Script, rest: Sequence[Any] = (), /, **named: Any) -> Any:
        """Return the reply of a registered script; its arguments are those of `Script.command`.

        Raises `StorageUnavailable` for an error reply.
        """
        (reply,) = await self.pipeline_results([script.command(rest, **named)])
        raise_error_reply(reply)
        return reply

    async def pipeline_results(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip and return their replies in order; an error reply is an exception among them.

        A transient error is a `StorageUnavailable`, any other one a `ResponseError` of the driver.
        """
        replies = await self._submit(commands)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            for sha in {commands[i][1] for i in missing}:
                load = ("SCRIPT", "LOAD", self.scripts[sha].text)
                if self._cluster is None:
                    await self.execute(*load)
                else:
                    await _execute_on_masters(self._cluster, load)
            for i, reply in zip(missing, await self._submit([commands[i] for i in missing]), strict=True):
                replies[i] = reply
        return [translate_reply(reply) for reply in replies]

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip and return their replies in order. Raises `StorageUnavailable` where one of
        them is an error reply; the others have been executed all the same."""
        replies = await self.pipeline_results(commands)
        for reply in replies:
            raise_error_reply(reply)
        return replies

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the strings at these keys in order, None where a key does not exist or holds something else."""
        if self._cluster is not None:  # each node holds some of them
            replies = await self.pipeline_results([("GET", key) for key in keys])
            found = [None if is_wrong_type(reply) else reply for reply in replies]
            for reply in found:
                raise_error_reply(reply)
            return found
        return list(await self.execute("MGET", *keys)) if keys else []

    async def find_keys(self, pattern: str) -> list[bytes]:
        """Return the names of all keys that match a pattern, of every master. Takes time in a large database."""
        return list({name async for names in self.scan(pattern) for name in names})

    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Iterate over the names of all keys that match a pattern, some at a time. A name may come twice."""
        await self.execute("PING")  # so that it is known whether this is a cluster
        found = scan_keys(self._submit, pattern) if self._cluster is None else self._cluster.scan(pattern)
        async for names in found:
            yield names

    def _submit(self, commands: Sequence[Command]) -> Awaitable[list[Any]]:
        return self._submit_first(commands) if self._server is None else self._server.submit(commands)

    # --- connecting ---------------------------------------------------------------------------------------------------

    def _open(self, server: Server | None) -> Open:
        """Return what opens a connection to a server, or to the master that the sentinels name."""
        if self._sentinels is not None:
            return self._sentinels.open_master
        return lambda: self._drivers.open(server)

    def _on_switch(self) -> None:
        """Leave the server that is the master no longer."""
        self.failovers += 1
        for pipeline in (*self._pipelines, *self._separate.values()):
            pipeline.abort()
        self._listening.abort()

    def _on_map(self, topology: Topology) -> None:
        if self._masters is not None and topology.all_masters != self._masters:
            self.failovers += 1
        self._masters = topology.all_masters
        self._listening.abort_unless_to(topology.servers)

    async def _submit_first(self, commands: Sequence[Command]) -> list[Any]:
        """Find out the kind of server, then send the commands to it; both together within twice the timeout."""
        try:
            async with asyncio.timeout(2 * self.timeout_seconds):
                if self._discovery is None or self._discovery.done():
                    self._discovery = asyncio.create_task(self._discover(), context=contextvars.Context())
                failure = await asyncio.shield(self._discovery)
                if failure is not None:
                    raise failure
                return await self._submit(commands)
        except TimeoutError as error:
            raise unavailable(error) from error

    async def _discover(self) -> StorageUnavailable | None:
        """Query at the first contact whether the server is a cluster. Returns why it could not be queried, or None.

        Not done at the start of the process: Redis may be unavailable then.
        """
        servers: list[Server | None] = [*self._address.servers] if self._sentinels is None else []
        if self._sentinels is not None:
            self._sentinels.start()
        self._pipelines = [
            Pipeline(self._open(it), timeout_seconds=self.timeout_seconds, on_demoted=self._listening.abort)
            for it in servers or [None]
        ]
        try:
            pipeline, is_of_cluster = await find_server(self._pipelines)
            if is_of_cluster:
                await pipeline.close()
                self._cluster, self.sharded = await _open_cluster(
                    self._drivers, self._on_map, timeout_seconds=self.timeout_seconds
                )
                self._server = self._cluster
                return None
        except StorageUnavailable as error:
            return error
        if len(servers) > 1:
            log.warning("redis.several_servers", cause="REDIS_URL names several servers, and they are no cluster")
        self._only_server = servers[self._pipelines.index(pipeline)] if servers else None
        if self._only_server is not None:
            self._listening.abort_unless_to([self._only_server])
        self._server, self._pipelines = pipeline, [pipeline]
        return None


async def _execute_on_masters(cluster: Cluster, command: Command) -> None:
    """Execute a command on every master that answers. Raises `StorageUnavailable` where none of them succeeds."""
    replies = await cluster.query_masters(command)
    if all(isinstance(reply, Exception) for reply in replies):
        raise_error_reply(replies[0])


async def _open_cluster(
    drivers: Drivers, on_map: Callable[[Topology], None], *, timeout_seconds: float
) -> tuple[Cluster, ShardedPubSub | None]:
    """Return the cluster, and its sharded Pub/Sub if its masters have that. Raises `StorageUnavailable`."""
    cluster = Cluster(drivers, timeout_seconds=timeout_seconds)
    cluster.followers.append(on_map)
    try:
        await cluster.start()
        answers = await cluster.query_masters(("COMMAND", "INFO", "SPUBLISH"), within_seconds=_MAX_ANSWER_SECONDS)
    except StorageUnavailable:
        await cluster.close()
        raise
    if cluster.topology is None or not all(isinstance(answer, list) and answer != [None] for answer in answers):
        return cluster, None
    sharded = ShardedPubSub(drivers, cluster.topology, cluster.request_map, timeout_seconds=timeout_seconds)
    cluster.followers.append(sharded.follow)
    return cluster, sharded
