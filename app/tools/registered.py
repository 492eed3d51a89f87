"""The tools of the process by their names: their marks, where each is from, and what the model is offered of them.

The tools of a source can be replaced while the service runs, for example when an MCP server has changed its list.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from app.errors import ConfigurationError
from app.ports.tools import Tool
from app.tools import arguments as args
from app.tools import plan
from statemachine.stored import JsonObject, digest

BUILT_IN = "built in"
_OWN_MARK = "the tool declares it"
_DIGEST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    """A tool with all of its marks. `schema` is its entry of the `tools` array of a request to the model.

    `approval_reason` is why it needs an approval; else it is empty. `definition` is a digest of what
    the model and people know of the tool, where that may change while the service runs; else it is empty.
    """

    tool: Tool
    source: str
    description: str
    schema: JsonObject
    approval_reason: str
    outward: bool
    untrusted: bool
    definition: str = ""

    @property
    def name(self) -> str:
        return self.tool.name

    @property
    def needs_approval(self) -> bool:
        return bool(self.approval_reason)


class ToolSet:
    """All tools, of all sources. `update_plan`, which is not a tool, is always offered with them."""

    def __init__(self, approval_required: Collection[str] = ()) -> None:
        """`approval_required` are names, or patterns such as `crm__*`, of tools that need an approval in addition."""
        self._approval_required = approval_required
        self._tools: dict[str, RegisteredTool] = {}
        self._plan_schema = _schema(plan.NAME, plan.DESCRIPTION, args.json_schema(plan.UpdatePlanArguments))
        self._offered = lru_cache(maxsize=64)(self._offer)

    def add(self, tools: Sequence[Tool]) -> None:
        """Add tools that stay as they are. Raises `ConfigurationError` where two have the same name."""
        for tool in tools:
            self._put(self._tools, tool, getattr(tool, "source", BUILT_IN), is_pinned=False)
        self._offered.cache_clear()

    def replace(self, source: str, tools: Sequence[Tool]) -> None:
        """Replace the tools of a source, all at once. Raises `ConfigurationError` and changes nothing if a tool of
        another source has one of the names."""
        others = {name: known for name, known in self._tools.items() if known.source != source}
        for tool in tools:
            self._put(others, tool, source, is_pinned=True)
        self._tools = others
        self._offered.cache_clear()

    def _put(self, tools: dict[str, RegisteredTool], tool: Tool, source: str, *, is_pinned: bool) -> None:
        if tool.name in tools or tool.name == plan.NAME:
            other = tools[tool.name].source if tool.name in tools else BUILT_IN
            raise ConfigurationError(f"two tools have the name {tool.name!r}: {other}, {source}; rename one")
        description = _description(tool)
        schema = _schema(tool.name, description, args.json_schema(tool.arguments))
        outward, untrusted = bool(getattr(tool, "outward", False)), bool(getattr(tool, "untrusted", False))
        marks = [tool.title, tool.needs_approval, tool.idempotent, outward, untrusted]
        tools[tool.name] = RegisteredTool(
            tool,
            source,
            description,
            schema,
            self._approval_reason(tool),
            outward=outward,
            untrusted=untrusted,
            definition=digest([schema, marks])[:_DIGEST_CHARACTERS] if is_pinned else "",
        )

    def _approval_reason(self, tool: Tool) -> str:
        if self.is_approval_required(tool.name):
            return "AURA_APPROVAL_REQUIRED names it"
        return (getattr(tool, "approval_reason", "") or _OWN_MARK) if tool.needs_approval else ""

    def is_approval_required(self, name: str) -> bool:
        """Whether the settings require an approval for tools of this name, which need not exist."""
        return is_named(name, self._approval_required)

    def check_required_names(self, known_names: Collection[str]) -> None:
        """Raise `ConfigurationError` where `AURA_APPROVAL_REQUIRED` names neither a tool nor one of `known_names`.

        Those are names, or patterns, of tools that are not offered here, or not yet.
        """
        known = {*self._tools, *known_names}
        for required in sorted(self._approval_required):
            if not any(fnmatchcase(name, required) or fnmatchcase(required, name) for name in known):
                raise ConfigurationError(
                    f"AURA_APPROVAL_REQUIRED names {required!r}, which is not a tool;"
                    f" tools are {', '.join(sorted(known))}"
                )

    def find(self, name: str, allowed: tuple[str, ...] | None = None) -> RegisteredTool | None:
        """Return the tool of that name if it exists and is one of those allowed (None: all)."""
        found = self._tools.get(name)
        return found if found is not None and (allowed is None or is_named(name, allowed)) else None

    def select(self, allowed: tuple[str, ...] | None = None) -> list[RegisteredTool]:
        """Return the tools that are allowed (None: all), in the order in which they are offered."""
        return [tool for name, tool in self._tools.items() if allowed is None or is_named(name, allowed)]

    def schemas(self, allowed: tuple[str, ...] | None = None) -> list[JsonObject]:
        """Return the `tools` array of a chat completion request. The same tools give the same object."""
        return self._offered(allowed)

    def _offer(self, allowed: tuple[str, ...] | None) -> list[JsonObject]:
        return [*(tool.schema for tool in self.select(allowed)), self._plan_schema]


def is_named(name: str, patterns: Collection[str]) -> bool:
    """Return whether a tool's name is one of these names, or matches one of these patterns, such as `crm__*`."""
    return name in patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _schema(name: str, description: str, parameters: JsonObject) -> JsonObject:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _description(tool: Tool) -> str:
    """Return what the model reads of a tool: its own description, else the first paragraph of its class's docstring."""
    text = getattr(tool, "description", "") or inspect.cleandoc(type(tool).__doc__ or tool.title).split("\n\n")[0]
    return " ".join(text.split())
