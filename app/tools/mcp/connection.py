"""Keeps one MCP server connected: connects again when it is lost, and offers its tools as it lists them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import structlog
from mcp_types import CallToolResult

from app.errors import ToolError
from app.ports.mcp_servers import McpServer
from app.ports.tools import ToolContext
from app.tools.mcp import texts
from app.tools.mcp.calls import Call, SessionEnded, not_connected, run_call
from app.tools.mcp.link import Link
from app.tools.mcp.listing import list_tools, offered_tools
from app.tools.mcp.request_states import CallIdentity, RequestStates
from app.tools.mcp.tool import McpTool
from statemachine.stored import JsonObject

log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_STABLE_SECONDS = 60.0
"""A connection that lasted so long was a good one: the next pause is the first one again."""
_LIST_PAUSE_SECONDS = 2.0
_LIST_PAUSE_FACTOR = 10
"""A list that takes long to read is read less often, so that a server which always changes it costs little."""
_WITHDRAW_SECONDS = 300.0
"""The tools of a server that is away for longer are not offered any more."""

Publish = Callable[[Sequence[McpTool]], None]


class ServerConnection:
    """One server. `tried` is set when the first attempt to connect has ended, well or not."""

    def __init__(
        self,
        server: McpServer,
        publish: Publish,
        states: RequestStates,
        mask: Callable[[str], str],
        default_timeout_seconds: float,
    ) -> None:
        self._server = server
        self._publish = publish
        self._states = states
        self._mask = mask
        self._timeout_seconds = server.timeout_seconds or default_timeout_seconds
        self._link: Link | None = None
        self._cause = "it is being connected"
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tools_changed = False
        self._list_again_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._links: set[Link] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self.tried = asyncio.Event()

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._task = asyncio.create_task(self._run(), name=f"mcp server {self._server.name}")

    async def stop(self) -> None:
        """End the connections, with the processes behind them."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await asyncio.gather(*(link.close() for link in self._links))
        if self._closing:
            await asyncio.wait(self._closing)

    @property
    def cause(self) -> str:
        """Why the server is not connected; empty if it is."""
        return self._cause if self._link is None else self._link.cause

    async def call(self, tool: McpTool, arguments: JsonObject, context: ToolContext) -> CallToolResult:
        """Run one call. Raises `ToolError` and `OutcomeUnknown`."""
        link = self._link
        if link is None or link.lost.is_set():
            raise not_connected(self._server.name, self.cause)
        call = Call(
            identity=CallIdentity.of(
                self._server.name, tool.server_tool, context.session_id, context.idempotency_key, arguments
            ),
            server_tool=tool.server_tool,
            arguments=arguments,
            idempotent=tool.idempotent,
            timeout_seconds=tool.call_seconds,
        )
        try:
            return await run_call(link, call, self._states)
        except SessionEnded:
            link.lose("the server has ended the session")
            raise ToolError(
                f"the MCP server {self._server.name!r} has ended its session, so the call did not run; call it again"
            ) from None

    # --- the task that keeps the server connected ---------------------------------------------------------------------

    async def _run(self) -> None:
        failures, lost_at = 0, _now()
        while True:
            link = Link(self._server, self._mask, self._notice)
            self._links.add(link)
            try:
                await link.open()
                self._link = link  # the tools may be called as soon as they are offered
                await self._offer(link, "mcp.connected")
            except Exception as error:  # noqa: BLE001 - of whatever kind: it is logged, and the server is tried again
                self._link = None
                failures += 1
                self._report(link, error, failures)
            else:
                connected_at = _now()
                await self._serve(link)
                self._link, self._cause = None, link.cause
                failures = 0 if _now() - connected_at > _STABLE_SECONDS else failures + 1
                lost_at = _now()
            self._end(link)
            await self._pause(failures, lost_at)

    async def _offer(self, link: Link, event: str) -> None:
        """List the tools and offer them, and log the event."""
        began = _now()
        listed = await list_tools(link)
        tools = await offered_tools(self._server, listed, self.call, self._timeout_seconds)
        self._publish(tools)
        self._list_again_at = _now() + max(_LIST_PAUSE_SECONDS, _LIST_PAUSE_FACTOR * (_now() - began))
        version = link.client.protocol_version
        log.info(event, server=self._server.name, tools=len(tools), listed=len(listed), protocol=version)
        self.tried.set()

    async def _serve(self, link: Link) -> None:
        """Wait until the connection is lost; list the tools again when they have changed."""
        while not link.lost.is_set():
            await self._wake.wait()
            self._wake.clear()
            if link.lost.is_set() or not self._tools_changed:
                continue
            if not await self._may_list(link):
                break
            self._tools_changed = False
            try:
                await self._offer(link, "mcp.tools_changed")
            except Exception as error:  # noqa: BLE001 - as there; what is offered stays as it is
                cause = texts.error(str(error))
                log.warning("mcp.list_failed", server=self._server.name, cause=cause)
        log.warning("mcp.lost", server=self._server.name, cause=self._mask(link.cause))

    async def _may_list(self, link: Link) -> bool:
        """Wait until the tools may be listed again: many changes are one. Returns False if the connection is lost."""
        try:
            async with asyncio.timeout(max(0.0, self._list_again_at - _now())):
                await link.lost.wait()
        except TimeoutError:
            return True
        return False

    def _notice(self) -> None:
        self._tools_changed = True
        self._wake.set()

    def _report(self, link: Link, error: Exception, failures: int) -> None:
        """Log why the server could not be connected: the first time, and then from time to time."""
        self._cause = self._mask(texts.error(str(error) or link.cause or type(error).__name__))
        if failures & (failures - 1) == 0:
            remedy = "check the server's entry in AURA_MCP_SERVERS, and the server's own log (AURA_LOG_LEVEL=DEBUG)"
            log.warning(
                "mcp.unavailable", server=self._server.name, cause=self._cause, attempts=failures, remedy=remedy
            )
        self.tried.set()

    def _end(self, link: Link) -> None:
        """Close a connection in the background; calls over HTTP may still get their answers."""
        seconds = 0.0 if link.transport is None else self._timeout_seconds
        closing = asyncio.create_task(self._close(link, seconds))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close(self, link: Link, seconds: float) -> None:
        await link.close_when_idle(seconds, self._stopping)
        self._links.discard(link)

    async def _pause(self, failures: int, lost_at: float) -> None:
        """Wait before the next attempt, longer after each failure."""
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(failures, 8))
        await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 - spreads attempts, protects nothing
        if _now() - lost_at > _WITHDRAW_SECONDS:
            self._publish(())
        self._wake.clear()
        self._tools_changed = False


def _now() -> float:
    return asyncio.get_running_loop().time()
