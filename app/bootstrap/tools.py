"""Wires the tools: the built-in ones of the settings, and those that other packages plug in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from app.knowledge.service import Knowledge
from app.ports.clock import Clock
from app.ports.knowledge import WorkspaceSearch
from app.settings import Settings
from app.tools.built_in import KNOWN_TOOL_NAMES, configured_tools
from app.tools.loading import Loaded, load, plug_in
from app.tools.registry import ToolRegistry
from app.tools.resources import ToolResources

log = structlog.get_logger(__name__)


def make_toolbox(
    settings: Settings, clock: Clock, knowledge: Knowledge | None, tools: Sequence[Loaded] | None
) -> tuple[ToolRegistry, ToolResources]:
    """Return the tools that the settings name, or these `tools` where a test has its own, and their resources.

    Raises `ConfigurationError`.
    """
    if settings.github_token is not None and settings.aura_github_repositories is None:
        remedy = "all tenants may use all repositories of the token: list those of each in AURA_GITHUB_REPOSITORIES"
        log.warning("github.unrestricted", remedy=remedy)
    parts: dict[type, Any] = {Clock: clock}
    if knowledge is not None:
        parts[WorkspaceSearch] = knowledge
    if tools is None:
        plugged_in = plug_in(load(settings.aura_tools, with_entry_points=settings.aura_tool_plugins), parts)
        offered = [*configured_tools(settings, clock, knowledge), *plugged_in.tools]
    else:
        plugged_in = plug_in(tools, parts)
        offered = plugged_in.tools
    registry = ToolRegistry(
        offered,
        approval_required=settings.aura_approval_required,
        known_names=KNOWN_TOOL_NAMES,
        default_timeout_seconds=settings.aura_tool_timeout_seconds,
        result_limit_bytes=settings.aura_tool_result_bytes,
        secrets=settings.secrets,
    )
    return registry, plugged_in.resources
