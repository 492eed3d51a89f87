"""Compares the tools that agents name with those that there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from app.agents.definitions import Agents
from app.agents.tables import did_you_mean

_SERVER_SEPARATOR = "__"
"""It is in the names of tools that a server offers while the service runs (MCP): they cannot be known in advance."""


@dataclass(frozen=True, slots=True)
class ToolFinding:
    """A name or pattern to which no tool belongs now. It is no error where a tool may come later."""

    agent: str
    text: str
    is_error: bool


def check_tool_names(agents: Agents, offered: Collection[str], known: Collection[str]) -> list[ToolFinding]:
    """Return what is noteworthy of the tools that agents name.

    `offered` are the tools of this process, `known` those that it could have with other settings.
    """
    found = (
        _finding(name, pattern, offered, known)
        for name, definition in agents.by_name.items()
        for pattern in definition.agent.tools or ()
    )
    return [finding for finding in found if finding is not None]


def _finding(agent: str, pattern: str, offered: Collection[str], known: Collection[str]) -> ToolFinding | None:
    if _matches(pattern, offered):
        return None
    place = f"agents.{agent}.tools: {pattern!r}"
    if _matches(pattern, known):
        return ToolFinding(agent, f"{place} is not offered here: its service is not configured", is_error=False)
    if _SERVER_SEPARATOR in pattern:
        return ToolFinding(agent, f"{place} is not offered at this moment; a server may offer it later", is_error=False)
    names = sorted({*offered, *known})
    near = did_you_mean(pattern, names) or f"; tools are {', '.join(names)}"
    return ToolFinding(agent, f"{place} is not a tool{near}", is_error=True)


def _matches(pattern: str, names: Collection[str]) -> bool:
    return any(True for _ in _matching(pattern, names))


def _matching(pattern: str, names: Collection[str]) -> Iterator[str]:
    return (name for name in names if fnmatchcase(name, pattern))
