"""The setting of the MCP servers (`AURA_MCP_SERVERS`), in the shape that other clients of MCP use."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from app.mcp_settings.servers import parse_servers
from app.ports.mcp_servers import McpServer

__all__ = ["McpSettings"]


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
