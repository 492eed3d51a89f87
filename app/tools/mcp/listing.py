"""The list of a server's tools: read page by page, filtered by the settings, and made into tools of ours."""

from __future__ import annotations

import asyncio

import structlog
from mcp_types import Tool as ListedTool

from app.ports.mcp_servers import McpServer
from app.tools.mcp.link import Link, LinkFailed
from app.tools.mcp.names import offered_names
from app.tools.mcp.schemas import SchemaRefused
from app.tools.mcp.texts import one_line
from app.tools.mcp.tool import CallServer, McpTool

log = structlog.get_logger(__name__)

MAX_PAGES = 20
MAX_LISTED_TOOLS = 128
LIST_SECONDS = 30.0
_MAX_NAME_CHARACTERS = 200


async def list_tools(link: Link) -> list[ListedTool]:
    """Return at most `MAX_LISTED_TOOLS` tools that the server lists. Raises `LinkFailed`, and what the SDK raises."""
    listed: list[ListedTool] = []
    cursor: str | None = None
    try:
        async with asyncio.timeout(LIST_SECONDS):
            for _ in range(MAX_PAGES):
                page = await link.client.list_tools(cursor=cursor, cache_mode="refresh")
                listed += page.tools
                cursor = page.next_cursor
                if cursor is None or len(listed) > MAX_LISTED_TOOLS:
                    return listed
    except TimeoutError:
        raise LinkFailed(f"it did not list its tools within {LIST_SECONDS:g} s") from None
    raise LinkFailed(f"its list of tools has more than {MAX_PAGES} pages")


async def offered_tools(
    server: McpServer, listed: list[ListedTool], call: CallServer, timeout_seconds: float
) -> list[McpTool]:
    """Return those of the listed tools that are offered. The log names those that cannot be, with the cause."""
    known = {tool.name: tool for tool in listed if 0 < len(tool.name) <= _MAX_NAME_CHARACTERS}
    allowed = [tool for tool in known.values() if server.offers(tool.name)]
    if len(allowed) > MAX_LISTED_TOOLS:
        log.warning("mcp.tools_left_out", server=server.name, limit=MAX_LISTED_TOOLS, remedy="choose some with allow")
    names = offered_names(server.name, known)
    offered: dict[str, McpTool] = {}
    for tool in allowed[:MAX_LISTED_TOOLS]:
        await asyncio.sleep(0)  # checking a large schema takes milliseconds, in which other work can run
        name = names[tool.name]
        try:
            made = McpTool(server, tool, name, call, timeout_seconds)
        except (SchemaRefused, RecursionError) as error:
            cause = str(error) if isinstance(error, SchemaRefused) else "its schema is nested too deeply"
            log.warning("mcp.tool_left_out", server=server.name, tool=one_line(tool.name, 80), cause=cause)
            continue
        offered.setdefault(name, made)
    return list(offered.values())
