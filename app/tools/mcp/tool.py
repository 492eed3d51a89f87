"""A tool of an MCP server, as the registry and the model see it (`ports.tools.Tool`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mcp_types import CallToolResult
from mcp_types import Tool as ListedTool
from pydantic import BaseModel

from app.errors import ToolError
from app.ports.mcp_servers import SEPARATOR, McpServer
from app.ports.tools import ToolContext
from app.tools.mcp import results, texts
from app.tools.mcp.rights import hints_of, rights_of
from app.tools.mcp.schemas import ServerArguments, arguments_model
from statemachine.stored import JsonObject

CallServer = Callable[["McpTool", JsonObject, ToolContext], Awaitable[CallToolResult]]

_GRACE_SECONDS = 20.0
"""The registry's own time limit is this much longer, so that the call itself knows first what is known of it."""


class McpTool:
    """A tool that an MCP server offers."""

    untrusted: bool = True

    def __init__(
        self, server: McpServer, listed: ListedTool, name: str, call: CallServer, timeout_seconds: float
    ) -> None:
        """`name` is the name under which it is offered. Raises `SchemaRefused` if it cannot be offered."""
        rights = rights_of(server, listed.name, hints_of(listed))
        self.name = name
        self.server_tool = listed.name
        self.source = source_of(server.name)
        self.title = texts.title(server.name, _title(listed))
        self.description = texts.description(server.name, listed.description or _title(listed))
        self.arguments: type[BaseModel] = arguments_model(listed.input_schema)
        self.needs_approval = rights.needs_approval
        self.approval_reason = rights.approval_reason
        self.idempotent = rights.idempotent
        self.outward = rights.outward
        self.call_seconds = timeout_seconds
        self.timeout_seconds: float | None = timeout_seconds + _GRACE_SECONDS
        self._server = server.name
        self._call = call

    def question(self, arguments: Any) -> str:  # noqa: ARG002 - nothing of a server or a model is in the question
        return texts.question(self._server, self.name.partition(SEPARATOR)[2])

    async def run(self, arguments: ServerArguments, context: ToolContext) -> JsonObject:
        answered = await self._call(self, arguments.root, context)
        if answered.is_error:
            error = results.error_text(answered)
            raise ToolError(f"the tool of the MCP server {self._server!r} failed, and its server writes: {error}")
        return results.result_of(self._server, answered)


def source_of(server: str) -> str:
    """Return where the tools of a server are from, as the registry and `aura tools` name it."""
    return f"mcp:{server}"


def _title(listed: ListedTool) -> str:
    annotated = None if listed.annotations is None else listed.annotations.title
    return listed.title or annotated or listed.name
