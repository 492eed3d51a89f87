"""What a tool of an MCP server may do without a person: nothing, unless its server is trusted.

The hints of a tool are texts of its server. They count only if the settings have `"trusted": true`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcp_types import Tool as ListedTool

from app.ports.mcp_servers import McpServer


@dataclass(frozen=True, slots=True)
class Hints:
    """What a server declares of its tool. `open_world`: it reaches others than the server itself, such as web pages.

    Each is False where the server does not declare it.
    """

    read_only: bool = False
    idempotent: bool = False
    open_world: bool = False


def hints_of(listed: ListedTool) -> Hints:
    """Return the hints of a tool that its server declares."""
    given = listed.annotations
    if given is None:
        return Hints()
    return Hints(
        read_only=given.read_only_hint is True,
        idempotent=given.idempotent_hint is True,
        open_world=given.open_world_hint is True,
    )


@dataclass(frozen=True, slots=True)
class Rights:
    """What follows for the service. `approval_reason` is empty for a tool that needs no approval."""

    needs_approval: bool
    approval_reason: str
    idempotent: bool
    outward: bool


def rights_of(server: McpServer, tool: str, hints: Hints) -> Rights:
    """Return the rights of the server's `tool`. The registry adds the approvals of `AURA_APPROVAL_REQUIRED`."""
    reason = _approval_reason(server, tool, hints)
    return Rights(
        needs_approval=bool(reason),
        approval_reason=reason,
        idempotent=server.trusted and (hints.read_only or hints.idempotent),
        # The protocol's default of the last hint is True, which servers that only read rarely correct.
        outward=not (server.trusted and hints.read_only and not hints.open_world),
    )


def _approval_reason(server: McpServer, tool: str, hints: Hints) -> str:
    setting = server.approval_of(tool)
    if setting is True:
        return f"the settings of the MCP server {server.name!r} require it"
    if not server.trusted:
        return f"the MCP server {server.name!r} is not trusted"
    if setting is False or hints.read_only or hints.idempotent:
        return ""
    return f"the MCP server {server.name!r} marks it neither as read-only nor as idempotent"
