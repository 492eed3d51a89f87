"""An MCP server made with the SDK: in this process over HTTP, or as a program on standard input and output."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from pydantic import BaseModel

from tests.harness.waiting import eventually


class Notes(BaseModel):
    count: int
    notes: list[str]


class NoteServer:
    """A server with notes. `started` is set when `wait` runs, which ends when `go_on` is set; `cancelled` counts."""

    def __init__(self, **options: Any) -> None:
        self.mcp = MCPServer("notes", version="1", log_level="CRITICAL", **options)
        self.notes: list[str] = []
        self.headers: dict[str, str] = {}
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.cancelled = asyncio.Event()
        reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
        self.mcp.add_tool(self.list_notes, annotations=reads)
        for tool in (self.add_note, self.wait, self.fail, self.refuse, self.show, self.grow, self.big):
            self.mcp.add_tool(tool)

    def list_notes(self, ctx: Context) -> Notes:
        """List the notes."""
        self.headers = dict(ctx.headers or {})
        return Notes(count=len(self.notes), notes=self.notes)

    def add_note(self, text: str) -> str:
        """Add a note."""
        self.notes.append(text)
        return f"added {text}"

    async def wait(self) -> str:
        """Wait until the test lets it go on."""
        self.started.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "waited"

    def fail(self) -> str:
        raise ValueError("the inner cause")

    def refuse(self) -> str:
        raise MCPError(code=-32099, message="not today")

    def show(self) -> CallToolResult:
        return CallToolResult(
            content=[TextContent(text="a picture"), ImageContent(data="aGVsbG8gd29ybGQ=", mime_type="image/png")]
        )

    async def grow(self, ctx: Context) -> str:
        """Add a tool to the list."""
        self.mcp.add_tool(self.add_note, name="grown")
        await ctx.notify_tools_changed()
        await ctx.session.send_tool_list_changed()
        return "grown"

    def big(self) -> str:
        return "x" * 3_000_000


class HttpServer:
    """A server that listens on a port of this machine, and can be stopped and started again on the same one."""

    def __init__(self, app: Any, listener: socket.socket | None = None) -> None:
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        await eventually(lambda: self._server.started)

    async def stop(self) -> None:
        """End all connections at once, as a process that is killed does."""
        self._server.should_exit = self._server.force_exit = True
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()
        if self._task is not None:
            await self._task
        self._listener.close()


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer(app)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def without_discovery(app: Any) -> Any:
    """Return the ASGI app as a server before 2026, which does not know `server/discover`."""

    async def older(scope: Any, receive: Any, send: Any) -> None:
        if (b"mcp-method", b"server/discover") not in scope.get("headers", ()):
            await app(scope, receive, send)
            return
        error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32601, "message": "Method not found"}}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(error).encode()})

    return older


if __name__ == "__main__":
    NoteServer().mcp.run()
