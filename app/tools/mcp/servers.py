"""All MCP servers of the settings: they are connected while the service runs, and their tools are in its registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from app.crypto.purpose_keys import MessageAuthenticator
from app.ports.mcp_servers import McpServer
from app.ports.tools import Tool
from app.tools.mcp.connection import ServerConnection
from app.tools.mcp.request_states import RequestStates
from app.tools.mcp.tool import McpTool, source_of

log = structlog.get_logger(__name__)

START_SECONDS = 10.0
MAX_OFFERED_TOOLS = 112
"""Model servers accept 128 tools in a request; the rest is for the tools of the service."""


class McpServers:
    """The connections to all servers, and what they offer. `replace` is that of the registry."""

    def __init__(
        self,
        servers: Sequence[McpServer],
        replace: Callable[[str, Sequence[Tool]], None],
        authenticator: MessageAuthenticator,
        mask: Callable[[str], str],
        *,
        default_timeout_seconds: float,
    ) -> None:
        self._servers = servers
        self._replace = replace
        self._states = RequestStates(authenticator)
        self._mask = mask
        self._default_timeout_seconds = default_timeout_seconds
        self._connections: dict[str, ServerConnection] = {}
        self._offered: dict[str, Sequence[McpTool]] = {}

    async def start(self, seconds: float = START_SECONDS) -> None:
        """Connect to all servers, and wait for them at most so long. Those that need longer follow in the background.

        No failure stops the start: the log names the servers that are not there.
        """
        for name in ("mcp", "client"):  # the SDK logs what servers send, which may hold secrets
            logging.getLogger(name).setLevel(logging.CRITICAL)
        for server in self._servers:
            for remark in server.remarks:
                log.warning("mcp.settings", server=server.name, remark=remark)
            connection = ServerConnection(
                server, partial(self._publish, server), self._states, self._mask, self._default_timeout_seconds
            )
            self._connections[server.name] = connection
            connection.start()
        waits = [asyncio.create_task(connection.tried.wait()) for connection in self._connections.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=seconds)
            for wait in late:
                wait.cancel()
            if late:
                log.info("mcp.start_continues", servers=len(late), seconds=seconds)

    async def stop(self) -> None:
        """End all connections and the processes behind them."""
        await asyncio.gather(*(connection.stop() for connection in self._connections.values()))
        self._connections.clear()

    def status(self) -> dict[str, str]:
        """Return why each server is not connected; the text is empty for one that is."""
        return {name: connection.cause for name, connection in self._connections.items()}

    def _publish(self, server: McpServer, tools: Sequence[McpTool]) -> None:
        """Put the tools of a server into the registry, as many as all servers together may offer."""
        others = sum(len(offered) for name, offered in self._offered.items() if name != server.name)
        room = max(0, MAX_OFFERED_TOOLS - others)
        if len(tools) > room:
            remedy = "choose the tools of each server with allow in AURA_MCP_SERVERS"
            log.warning("mcp.tools_left_out", server=server.name, limit=MAX_OFFERED_TOOLS, offered=room, remedy=remedy)
        self._offered[server.name] = tools[:room]
        self._replace(source_of(server.name), tools[:room])
