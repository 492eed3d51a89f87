"""Nodes of a cluster as real processes, the scripted model in the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from tests.harness.console import browser, demo
from tests.harness.nursery import Nursery
from tests.harness.process import ServeProcess
from tests.harness.service import SECRET

__all__ = ["browser", "demo"]

LEASE_SECONDS = 2


@dataclass
class Nodes:
    """Starts nodes that share a Redis and a model; ends them with the test."""

    nursery: Nursery
    environment: dict[str, str]
    stack: AsyncExitStack
    started: list[ServeProcess] = field(default_factory=list)

    def prepare(self, *arguments: str, port: int | None = None, **environment: Any) -> ServeProcess:
        """A node that is not started yet."""
        given = {name: str(value) for name, value in environment.items()}
        return ServeProcess(self.nursery, {**self.environment, **given}, *arguments, port=port)

    async def start(self, *arguments: str, port: int | None = None, **environment: Any) -> ServeProcess:
        node = await self.stack.enter_async_context(self.prepare(*arguments, port=port, **environment))
        self.started.append(node)
        return node

    async def pair(self, **environment: Any) -> tuple[ServeProcess, ServeProcess]:
        return await self.start(**environment), await self.start(**environment)


def environment(redis_url: str, model: ScriptedModelServer) -> dict[str, str]:
    return {
        "JWT_SECRET": SECRET,
        "REDIS_URL": redis_url,
        "OPENAI_API_KEY": "test-key-0123456789",
        "OPENAI_BASE_URL": model.base_url,
        "AURA_LEASE_SECONDS": str(LEASE_SECONDS),
        "AURA_MAX_WAIT_SECONDS": "0",  # a loaded machine must not cost a run
        "AURA_DRAIN_SECONDS": "1",
        "AURA_REDIS_TIMEOUT_SECONDS": "1",
    }


@pytest.fixture
async def nodes(
    nursery: Nursery, redis_server: RedisServer, redis_client: redis.Redis, model: ScriptedModelServer
) -> AsyncIterator[Nodes]:
    """On the session's Redis, emptied."""
    async with AsyncExitStack() as stack:
        nodes = Nodes(nursery, environment(redis_server.url, model), stack)
        yield nodes
        _fail_on_tracebacks(nodes)


@pytest.fixture
async def nodes_on(nursery: Nursery, model: ScriptedModelServer) -> AsyncIterator[Callable[[str], Nodes]]:
    """On a Redis of the test's own (its URL)."""
    async with AsyncExitStack() as stack:
        made: list[Nodes] = []

        def make(redis_url: str) -> Nodes:
            made.append(Nodes(nursery, environment(redis_url, model), stack))
            return made[-1]

        yield make
        for nodes in made:
            _fail_on_tracebacks(nodes)


def _fail_on_tracebacks(nodes: Nodes) -> None:
    """Whatever the network and the storage do, nothing in a node may break."""
    for node in nodes.started:
        assert "Traceback" not in node.output, node.output
        assert not node.logged("run.broke"), node.output
        assert not node.logged("request.crashed"), node.output
