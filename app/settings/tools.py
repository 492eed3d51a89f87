"""The settings of tools of others: plugged-in ones (`AURA_TOOLS`) and MCP servers (`AURA_MCP_SERVERS`)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from app.ports.mcp_servers import McpServer
from app.settings.mcp_servers import parse_servers
from app.settings.types import OrderedNames


class PluginSettings(BaseModel):
    """The tools of other packages."""

    aura_tools: OrderedNames = Field(
        default=(), description="`package.module:name`, …: [tools of your own](../tools/README.md), or all of a module"
    )
    aura_tool_plugins: bool = Field(
        default=True, description="offer the tools of installed packages too (entry points `aura.tools`)"
    )


class McpSettings(BaseModel):
    """The MCP servers whose tools are offered."""

    aura_mcp_servers: tuple[McpServer, ...] = Field(
        default=(), description="[MCP servers](../tools/mcp/README.md) whose tools are offered: JSON, or its file"
    )

    @field_validator("aura_mcp_servers", mode="before")
    @classmethod
    def _servers(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        return parse_servers(value, (info.context or {}).get("environment", {}))

    @property
    def mcp_secrets(self) -> tuple[str, ...]:
        """Return the values of the servers that no event, result or log line may contain."""
        return tuple(secret for server in self.aura_mcp_servers for secret in server.secrets)
