"""What the settings say of one MCP server. The values are complete: variables are replaced, and bounds are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

SEPARATOR = "__"
"""It is between the name of a server and that of its tool, as the tool is offered: `crm__find_customer`."""


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """OAuth 2.1 client credentials, which are sent to the authorization server with this `issuer` and to no other."""

    client_id: str
    client_secret: str = field(repr=False)
    issuer: str
    token_endpoint_auth_method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"  # noqa: S105
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class McpServer:
    """One server of `AURA_MCP_SERVERS`: a `command` that is started here, or a `url` that is connected to.

    `environment` is everything that the command gets. `allow` and `deny` are patterns (`*`, `?`, `[…]`) of the server's
    own names of its tools; `approval` are pairs of such a pattern and whether the tool needs an approval, in the order
    of the settings. `secrets` are the values that no event, result or log line may contain. `remarks` are sentences
    about the settings of the server, which the log gets when the service starts.
    """

    name: str
    command: str | None = None
    args: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    url: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    oauth: ClientCredentials | None = None
    trusted: bool = False
    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()
    approval: tuple[tuple[str, bool], ...] = ()
    timeout_seconds: float | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    remarks: tuple[str, ...] = ()

    def offers(self, tool: str) -> bool:
        """Whether the settings allow this tool of the server at all; `deny` wins."""
        return _matches(tool, self.allow) and not _matches(tool, self.deny)

    def approval_of(self, tool: str) -> bool | None:
        """What the settings say of the tool's approval: the first pattern that matches; None if none does."""
        return next((needed for pattern, needed in self.approval if fnmatchcase(tool, pattern)), None)


def _matches(tool: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(tool, pattern) for pattern in patterns)
