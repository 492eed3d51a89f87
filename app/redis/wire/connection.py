"""The connections of one process to Redis: one for all commands and one for Pub/Sub.

All runs and readers share them, so that a burst delays neither a request nor the lease. The caller does not need to
know whether the address is that of a standalone server or of a cluster.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import NoScriptError, ResponseError

from app.errors import StorageUnavailable
from app.redis.wire.cluster import Cluster
from app.redis.wire.driver_protocol import attach
from app.redis.wire.errors import is_wrong_type, raise_error_reply, translate_reply, unavailable
from app.redis.wire.pipeline import SCANNED_KEYS, Pipeline
from app.redis.wire.protocol import RedisProtocol
from app.redis.wire.script import Command, Script


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """The number of commands that are sent and not answered, and whether the server is known to be a cluster."""

    in_flight: int
    is_cluster: bool


class Connection:
    """Commands to Redis. Every method raises `StorageUnavailable` within twice `timeout_seconds` or a little more, and
    `UnicodeEncodeError` or `TypeError` for an argument that cannot be encoded."""

    def __init__(self, address: str, *, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._pipeline = Pipeline(
            self._make_driver(retries=1), timeout_seconds=timeout_seconds, on_demoted=self._abort_listening
        )
        # Only `PubSub` reconnects this one. With RESP 3 the driver would merely log a message between replies.
        self._listening_driver = self._make_driver(retries=0, protocol=2)
        self._listening: RedisProtocol | None = None
        self._cluster: Cluster | None = None
        self._server: Pipeline | Cluster | None = None  # None until the kind of server is known
        self._discovery: asyncio.Task[StorageUnavailable | None] | None = None
        self._scripts: dict[str, Script] = {}

    def stats(self) -> ConnectionStats:
        in_flight = self._pipeline.in_flight if self._cluster is None else self._cluster.in_flight
        return ConnectionStats(in_flight, is_cluster=self._cluster is not None)

    def register(self, script: Script) -> Script:
        """Remember a script, so that it is loaded into a server that does not have it. Returns the script."""
        self._scripts[script.sha] = script
        return script

    @property
    def scripts(self) -> list[Script]:
        """The registered scripts."""
        return list(self._scripts.values())

    async def configuration_advice(self) -> list[str]:
        """Return which settings of the server can lose runs or waste its memory; empty if none can, or the server does
        not allow the query."""
        try:
            found = await self.execute("CONFIG", "GET", "maxmemory-policy", "appendonly", "stream-node-max-bytes")
        except StorageUnavailable:
            return []
        values = {_text(name): _text(value) for name, value in dict(found).items()}
        advice = []
        if values.get("maxmemory-policy", "noeviction") != "noeviction":
            advice.append("maxmemory-policy is not noeviction: Redis may evict the data of runs; set it to noeviction")
        if values.get("appendonly", "yes") != "yes":
            advice.append("appendonly is off: a restart of Redis loses all runs; set appendonly yes")
        if not 0 < int(values.get("stream-node-max-bytes", "4096")) <= 4096:
            advice.append("stream-node-max-bytes is over 4096: each run takes 4 KB more of Redis; set it to 4096")
        return advice

    async def close(self) -> None:
        """Fail all commands and disconnect."""
        await self._pipeline.close()
        if self._discovery is not None:
            await self._discovery  # it ends, since the pipeline has failed its command
        await self._listening_driver.disconnect(nowait=True)
        if self._cluster is not None:
            await self._cluster.close()

    async def listen(self, on_message: Callable[[Any], None], on_lost: Callable[[], None]) -> RedisProtocol:
        """Open a new connection for Pub/Sub in place of the last one. Raises one of `DRIVER_ERRORS`."""
        driver = self._listening_driver
        await driver.disconnect(nowait=True)
        async with asyncio.timeout(2 * self._timeout_seconds):  # a server may accept and not answer
            await driver.connect()  # type: ignore[no-untyped-call]
        self._listening = attach(driver, on_message, on_lost)
        return self._listening

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
                await self._load(self._scripts[sha])
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
        await self.execute("PING")  # so that it is known whether this is a cluster
        if self._cluster is not None:
            return await self._cluster.find_keys(pattern)
        found: set[bytes] = set()
        cursor = 0
        while True:
            next_cursor, names = await self.execute("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED_KEYS)
            found.update(names)
            cursor = int(next_cursor)
            if not cursor:
                return list(found)

    def _submit(self, commands: Sequence[Command]) -> Awaitable[list[Any]]:
        return self._submit_first(commands) if self._server is None else self._server.submit(commands)

    async def _load(self, script: Script) -> None:
        if self._cluster is None:
            await self.execute("SCRIPT", "LOAD", script.text)
        else:
            await self._cluster.load_script(script.text)

    # --- connecting ---------------------------------------------------------------------------------------------------

    def _make_driver(self, *, retries: int, protocol: int = 3) -> AbstractConnection:
        """Return an unconnected connection of the driver. It has no timeout for replies, since it would set a timer for
        each of them."""
        pool = ConnectionPool.from_url(
            self._address,
            socket_timeout=None,
            socket_connect_timeout=self._timeout_seconds,
            protocol=protocol,
            retry=Retry(ConstantBackoff(0.05), retries),
        )
        connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    def _abort_listening(self) -> None:
        if self._listening is not None:
            self._listening.abort()

    async def _submit_first(self, commands: Sequence[Command]) -> list[Any]:
        """Find out the kind of server, then send the commands to it; both together within twice the timeout."""
        try:
            async with asyncio.timeout(2 * self._timeout_seconds):
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
        try:
            (info,) = await self._pipeline.submit([("INFO", "cluster")])
        except StorageUnavailable as error:
            return error
        if isinstance(info, Exception) and not isinstance(info, ResponseError):
            return unavailable(info)
        if isinstance(info, bytes) and b"cluster_enabled:1" in info:  # a `ResponseError`: INFO is not allowed
            await self._pipeline.close()
            client = RedisCluster.from_url(
                self._address, socket_timeout=self._timeout_seconds, socket_connect_timeout=self._timeout_seconds
            )
            self._cluster = Cluster(client, timeout_seconds=self._timeout_seconds)
        self._server = self._cluster or self._pipeline
        return None


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
