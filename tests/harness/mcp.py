"""MCP servers that are connected as the service connects them, with a registry that has their tools."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.crypto.purpose_keys import Purpose, PurposeKeys
from app.ports.mcp_servers import McpServer
from app.ports.tools import Tool, ToolContext
from app.tools.mcp.servers import McpServers
from app.tools.registry import ToolRegistry
from app.tools.results import SecretMask
from tests.harness.waiting import eventually

SECRET = "a secret of at least thirty-two bytes, for tests"
RAW = Path(__file__).with_name("mcp_raw.py")
CONTEXT = ToolContext(session_id="session_1", tenant_id="tenant1", user_id="kim", idempotency_key="call_1")


def raw(name: str = "raw", protocol: str = "2026", *words: str, **settings: Any) -> McpServer:
    """The settings of the program `mcp_raw`, which misbehaves on request."""
    args = (str(RAW), protocol, *words)
    environment = {"PATH": "/usr/bin:/bin", **settings.pop("environment", {})}
    return McpServer(name=name, command=sys.executable, args=args, environment=environment, **settings)


class Connected:
    """The servers of a test, and the registry that has their tools."""

    def __init__(self, servers: McpServers, registry: ToolRegistry) -> None:
        self.servers = servers
        self.registry = registry

    @property
    def names(self) -> list[str]:
        return [tool.name for tool in self.registry.select()]

    def tool(self, name: str) -> Tool:
        return next(tool.tool for tool in self.registry.select() if tool.name == name)

    async def call(self, name: str, **arguments: Any) -> Any:
        """Run a tool directly, so that its errors are seen as they are raised."""
        tool = self.tool(name)
        return await tool.run(tool.arguments.model_validate(arguments), CONTEXT)

    async def again(self, name: str, **arguments: Any) -> Any:
        """Run a tool as soon as its server is connected again."""
        await eventually(lambda: self.servers.status()[name.partition("__")[0]] == "")
        return await self.call(name, **arguments)


@asynccontextmanager
async def connected(
    *servers: McpServer, secrets: Sequence[str] = (), start_seconds: float = 30, timeout_seconds: float = 30
) -> AsyncIterator[Connected]:
    registry = ToolRegistry([], secrets=secrets)
    authenticator = PurposeKeys([SECRET]).authenticator(Purpose.MCP_REQUEST_STATE)
    mask = SecretMask(secrets).text
    running = McpServers(servers, registry.replace, authenticator, mask, default_timeout_seconds=timeout_seconds)
    await running.start(start_seconds)
    try:
        yield Connected(running, registry)
    finally:
        await running.stop()
