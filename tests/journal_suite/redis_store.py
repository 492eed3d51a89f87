"""Redis as a store of the suite, whatever its deployment: the only module here that knows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from app.clock import SystemClock
from app.dev.demo.redis import RedisServer
from app.dev.demo.redis_deployments import execute
from app.errors import StorageUnavailable
from app.ports.nodes import RunOwner
from app.ports.quotas import Quotas
from app.redis.approval_requests import RedisApprovalRequests
from app.redis.checkpoints import Checkpoints
from app.redis.decisions import RedisDecisions
from app.redis.erasure import RedisRunData
from app.redis.journal import RedisJournal
from app.redis.nodes import RedisNodes, new_node_id
from app.redis.quotas import RedisTenants
from app.redis.sender_diagnostics import SenderDiagnostics
from app.redis.wire.acknowledgements import Acknowledgements
from app.redis.wire.connection import Connection
from app.redis.wire.protocol import RedisProtocol
from app.redis.wire.pubsub import PubSub
from app.redis.wire.script import Command
from tests.harness.stored import seals
from tests.harness.waiting import eventually
from tests.journal_suite.store import StoreProcess

_TIMEOUT_SECONDS = 2.0


class _LosableConnection(Connection):
    """A connection that can be lost for ever, or without which messages arrive."""

    def __init__(self, address: str, *, timeout_seconds: float) -> None:
        super().__init__(address, timeout_seconds=timeout_seconds)
        self.is_lost = False
        self.may_listen = asyncio.Event()
        self.may_listen.set()

    def _submit(self, commands: Sequence[Command]) -> Awaitable[list[Any]]:
        if self.is_lost:
            raise StorageUnavailable("this process was cut off")
        return super()._submit(commands)

    async def listen(self, on_message: Callable[[Any], None], on_lost: Callable[[], None]) -> RedisProtocol:
        await self.may_listen.wait()
        return await super().listen(on_message, on_lost)


@dataclass(frozen=True)
class RedisProcess:
    """The parts that `app/bootstrap` builds for each process, and nothing else of it."""

    connection: _LosableConnection
    pubsub: PubSub
    journal: RedisJournal
    decisions: RedisDecisions
    requests: RedisApprovalRequests
    nodes: RedisNodes
    personal_runs: RedisRunData

    async def start(self) -> None:
        await self.pubsub.start()
        await self.journal.start()
        await self.decisions.start()
        await self.nodes.start()

    async def cut_off(self) -> None:
        self.connection.is_lost = True
        await self.pubsub.stop()
        await self.connection.close()

    async def stop(self) -> None:
        await self.nodes.stop()
        await self.decisions.stop()
        await self.journal.stop()
        await self.pubsub.stop()
        await self.connection.close()


class RedisStore:
    """Servers that hold one store. `replicas` acknowledge what must not be lost (`AURA_REDIS_REPLICAS`).

    `masters` returns the servers that take writes.
    """

    def __init__(
        self,
        url: str,
        servers: Sequence[RedisServer],
        *,
        replicas: int = 0,
        masters: Callable[[], list[RedisServer]] | None = None,
    ) -> None:
        self._url = url
        self._servers = servers
        self._replicas = replicas
        self._masters = masters

    def clear(self) -> None:
        """Remove everything that is stored. The servers stay."""
        for server in self._servers:
            if execute(server, "ROLE")[0] == "master":
                execute(server, "FLUSHALL")

    async def start_process(
        self, owner: RunOwner, on_news: Callable[[str], None], *, lease_seconds: float, retention_seconds: int
    ) -> StoreProcess:
        node_id, clock, sealed, quotas = new_node_id(), SystemClock(), seals(), Quotas()
        connection = _LosableConnection(self._url, timeout_seconds=_TIMEOUT_SECONDS)
        pubsub = PubSub(connection, node_id, timeout_seconds=_TIMEOUT_SECONDS)
        acknowledgements = Acknowledgements(connection, self._replicas)
        diagnostics = SenderDiagnostics(connection, clock)
        requests = RedisApprovalRequests(connection, sealed.requests, diagnostics, clock, acknowledgements)
        nodes = RedisNodes(
            connection,
            pubsub,
            node_id=node_id,
            lease_seconds=lease_seconds,
            takeover_limit=50,
            acknowledgements=acknowledgements,
        )
        tenants = RedisTenants(connection, clock, quotas, retention_seconds=retention_seconds)
        checkpoints = Checkpoints(connection, sealed.checkpoints, clock, [], retention_seconds=retention_seconds)
        process = RedisProcess(
            connection,
            pubsub,
            RedisJournal(connection, pubsub, nodes, checkpoints, tenants, quotas, acknowledgements),
            RedisDecisions(connection, pubsub, requests, sealed.requests, checkpoints, diagnostics, clock),
            requests,
            nodes,
            RedisRunData(connection),
        )
        process.nodes.subscribe(owner)
        process.decisions.subscribe(on_news)
        await process.start()
        return process

    @asynccontextmanager
    async def lost_messages(self, process: StoreProcess) -> AsyncIterator[None]:
        """Close the connection for Pub/Sub: it is made again when the context ends."""
        assert isinstance(process, RedisProcess)
        process.connection.may_listen.clear()
        for server in self._servers:
            if execute(server, "ROLE")[0] != "sentinel":
                execute(server, "CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: not process.pubsub.is_connected)
        yield
        process.connection.may_listen.set()

    async def lose_server(self) -> None:
        if self._masters is None:
            raise NotImplementedError
        masters = self._masters
        lost = masters()[0]
        lost.kill()
        await eventually(lambda: lost not in masters())
        lost.start()  # it becomes a replica
        await eventually(lambda: all(map(_has_replica, masters())))

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        for server in self._servers:
            server.pause()
        try:
            yield
        finally:
            for server in self._servers:
                server.resume()
            await asyncio.sleep(0)


def _has_replica(master: RedisServer) -> bool:
    """Return whether a replica has all that this master has: one that is connected may still be loading it."""
    return bool(execute(master, "INFO").get("slave0", {}).get("state") == "online")
