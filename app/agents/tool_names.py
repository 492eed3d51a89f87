"""Compares the tools that agents name with those that there are, or may be later."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from app.agents.definitions import Agents
from app.ports.mcp_servers import SEPARATOR
from app.settings.text_files import did_you_mean


@dataclass(frozen=True, slots=True)
class KnownTools:
    """The tools that there are: those `offered` by this process now, those that it could have with other settings, and
    the MCP `servers` of the settings, whose tools are known only while they are connected."""

    offered: Collection[str]
    configurable: Collection[str] = ()
    servers: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class ToolFinding:
    """A name or pattern to which no tool belongs. It is not an error where a tool may come later."""

    agent: str
    text: str
    is_error: bool


def check_tool_names(agents: Agents, known: KnownTools) -> list[ToolFinding]:
    """Return what is noteworthy of the tools that agents name."""
    found = []
    for name, definition in agents.by_name.items():
        for pattern in definition.agent.tools or ():
            if (cause := _cause(pattern, known)) is not None:
                text, is_error = cause
                found.append(ToolFinding(name, f"agents.{name}.tools: {pattern!r} {text}", is_error))
    return found


def _cause(pattern: str, known: KnownTools) -> tuple[str, bool] | None:
    """Return why no tool belongs to a pattern, and whether that is an error; None where a tool does or may belong."""
    if _matches(pattern, known.offered):
        return None
    if _matches(pattern, known.configurable):
        return "is not offered here: its service is not configured", False
    servers = [server for server in known.servers if _may_be_of(pattern, server)]
    if not servers and SEPARATOR in pattern:
        server = pattern.partition(SEPARATOR)[0]
        return f"is a tool of the MCP server {server!r}, which is not in AURA_MCP_SERVERS", False
    if servers:
        listed = [name for name in known.offered if name.partition(SEPARATOR)[0] in servers]
        if not listed:
            return None
        return f"is not offered at this moment; the MCP server offers {', '.join(sorted(listed))}", False
    names = sorted({*known.offered, *known.configurable})
    return f"is not a tool{did_you_mean(pattern, names) or '; tools are ' + ', '.join(names)}", True


def _may_be_of(pattern: str, server: str) -> bool:
    prefix, separator, _ = pattern.partition(SEPARATOR)
    return fnmatchcase(server, prefix) if separator else fnmatchcase(f"{server}{SEPARATOR}", pattern)


def _matches(pattern: str, names: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)
