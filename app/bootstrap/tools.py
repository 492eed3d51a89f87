"""Wires the tools: the built-in ones of the settings, those that other packages plug in, and those of MCP servers."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from app.crypto.purpose_keys import Purpose, PurposeKeys
from app.errors import ConfigurationError
from app.knowledge.service import Knowledge
from app.ports.clock import Clock
from app.ports.knowledge import WorkspaceSearch
from app.settings import Settings
from app.tools.built_in import KNOWN_TOOL_NAMES, configured_tools
from app.tools.loading import Loaded, load, plug_in
from app.tools.registry import ToolRegistry
from app.tools.resources import ToolResources
from app.tools.results import SecretMask

if TYPE_CHECKING:
    from app.tools.mcp.servers import McpServers

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ToolParts:
    """The tools of a process, and what must be started for them."""

    registry: ToolRegistry
    resources: ToolResources
    mcp_servers: McpServers | None

    async def start(self, mcp_seconds: float | None = None) -> None:
        """Start the resources, and connect to the MCP servers. Raises `ConfigurationError`."""
        await self.resources.start()
        await self.start_listing(mcp_seconds)

    async def start_listing(self, mcp_seconds: float | None = None) -> None:
        """Start only what is needed to list the tools: wait at most so long for MCP servers (None: their default)."""
        if self.mcp_servers is not None:
            await (self.mcp_servers.start() if mcp_seconds is None else self.mcp_servers.start(mcp_seconds))

    @property
    def missing_servers(self) -> dict[str, str]:
        """The MCP servers that are not connected, each with the cause."""
        causes = {} if self.mcp_servers is None else self.mcp_servers.status()
        return {server: cause for server, cause in causes.items() if cause}

    async def stop(self) -> None:
        if self.mcp_servers is not None:
            await self.mcp_servers.stop()
        await self.resources.stop()


def make_tools(
    settings: Settings,
    keys: PurposeKeys,
    clock: Clock,
    knowledge: Knowledge | None,
    tools: Sequence[Loaded] | None = None,
) -> ToolParts:
    """Return the tools that the settings name, or these `tools` where a test has its own. Nothing starts or connects.

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
        known_names={*KNOWN_TOOL_NAMES, *(f"{server.name}__*" for server in settings.aura_mcp_servers)},
        default_timeout_seconds=settings.aura_tool_timeout_seconds,
        result_limit_bytes=settings.aura_tool_result_bytes,
        secrets=settings.secrets,
    )
    return ToolParts(registry, plugged_in.resources, _make_mcp_servers(settings, registry, keys))


def _make_mcp_servers(settings: Settings, registry: ToolRegistry, keys: PurposeKeys) -> McpServers | None:
    """Return the MCP servers of the settings, None if there are none.

    Raises `ConfigurationError` if the SDK is not installed.
    """
    if not settings.aura_mcp_servers:
        return None
    if importlib.util.find_spec("mcp") is None:
        raise ConfigurationError(
            'AURA_MCP_SERVERS: the SDK of MCP is not installed; install it with pip install "aura-platform[mcp]"'
        )
    from app.tools.mcp.servers import McpServers  # noqa: PLC0415 - an extra that others do without

    return McpServers(
        settings.aura_mcp_servers,
        registry.replace,
        keys.authenticator(Purpose.MCP_REQUEST_STATE),
        SecretMask(settings.secrets).text,
        default_timeout_seconds=settings.aura_tool_timeout_seconds,
    )
