"""Fixtures of the end-to-end tests: nodes as separate processes, and the scripted model in the process of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from app.dev.chaos.experiment import INTERNAL_ERRORS
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from tests.harness.console import browser, demo
from tests.harness.fork_server import ForkServer
from tests.harness.process import ServeProcess
from tests.harness.service import SECRET

__all__ = ["browser", "demo"]

LEASE_SECONDS = 2


@dataclass
class Nodes:
    """Starts nodes that share a Redis and a model, and kills them at the end of the test."""

    fork_server: ForkServer
    environment: dict[str, str]
    stack: AsyncExitStack
    started: list[ServeProcess] = field(default_factory=list)

    def create(self, *arguments: str, port: int | None = None, **environment: Any) -> ServeProcess:
        """Create a node without starting it."""
        overrides = {name: str(value) for name, value in environment.items()}
        return ServeProcess(self.fork_server, {**self.environment, **overrides}, *arguments, port=port)

    async def start(self, *arguments: str, port: int | None = None, **environment: Any) -> ServeProcess:
        node = await self.stack.enter_async_context(self.create(*arguments, port=port, **environment))
        self.started.append(node)
        return node

    async def start_pair(self, **environment: Any) -> tuple[ServeProcess, ServeProcess]:
        return await self.start(**environment), await self.start(**environment)


def environment(redis_url: str, model: ScriptedModelServer) -> dict[str, str]:
    return {
        "JWT_SECRET": SECRET,
        "REDIS_URL": redis_url,
        "OPENAI_API_KEY": "test-key-0123456789",
        "OPENAI_BASE_URL": model.base_url,
        "AURA_LEASE_SECONDS": str(LEASE_SECONDS),
        "AURA_MAX_WAIT_SECONDS": "0",  # disables load shedding, which a loaded machine could trigger
        "AURA_DRAIN_SECONDS": "1",
        "AURA_REDIS_TIMEOUT_SECONDS": "1",
    }


@pytest.fixture
async def nodes(
    fork_server: ForkServer, redis_server: RedisServer, redis_client: redis.Redis, model: ScriptedModelServer
) -> AsyncIterator[Nodes]:
    """Nodes on the Redis of the test session, which is emptied."""
    async with AsyncExitStack() as stack:
        nodes = Nodes(fork_server, environment(redis_server.url, model), stack)
        yield nodes
        _fail_on_tracebacks(nodes)


@pytest.fixture
async def nodes_on(fork_server: ForkServer, model: ScriptedModelServer) -> AsyncIterator[Callable[[str], Nodes]]:
    """A function that creates nodes on the Redis at a given URL."""
    async with AsyncExitStack() as stack:
        created: list[Nodes] = []

        def create(redis_url: str) -> Nodes:
            created.append(Nodes(fork_server, environment(redis_url, model), stack))
            return created[-1]

        yield create
        for nodes in created:
            _fail_on_tracebacks(nodes)


def _fail_on_tracebacks(nodes: Nodes) -> None:
    """No fault of the network or the storage may cause an internal error in a node."""
    for node in nodes.started:
        assert "Traceback" not in node.output, node.output
        assert not any(node.logged(event) for event in INTERNAL_ERRORS), node.output
