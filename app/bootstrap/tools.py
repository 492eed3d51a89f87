"""Wires the tools."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from app.knowledge.service import Knowledge
from app.ports.clock import Clock
from app.ports.tools import Tool
from app.settings import Settings
from app.tools import KNOWN_TOOL_NAMES, configured_tools
from app.tools.registry import ToolRegistry

log = structlog.get_logger(__name__)


def make_toolbox(
    settings: Settings, clock: Clock, knowledge: Knowledge | None, tools: Sequence[Tool] | None
) -> ToolRegistry:
    """Return the tools that the settings name; or these `tools`, where a test has its own."""
    if settings.github_token is not None and settings.aura_github_repositories is None:
        remedy = "all tenants may use all repositories of the token: list those of each in AURA_GITHUB_REPOSITORIES"
        log.warning("github.unrestricted", remedy=remedy)
    return ToolRegistry(
        configured_tools(settings, clock, knowledge) if tools is None else tools,
        approval_required=settings.aura_approval_required,
        known_names=KNOWN_TOOL_NAMES,
        default_timeout_seconds=settings.aura_tool_timeout_seconds,
        result_limit_bytes=settings.aura_tool_result_bytes,
        secrets=settings.secrets,
    )
