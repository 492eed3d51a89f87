"""The tools that come with the service, and the selection of those whose services the settings configure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from pydantic import SecretStr

from app.ports.clock import Clock
from app.ports.knowledge import WorkspaceSearch
from app.ports.tools import Tool
from app.tools.clock import GetCurrentTime
from app.tools.github import CreatePullRequest, GetPullRequest
from app.tools.mail import Encryption, SendEmail
from app.tools.repositories import AllowedRepositories
from app.tools.workspace import SearchWorkspace

KNOWN_TOOL_NAMES = frozenset(
    {GetCurrentTime.name, SendEmail.name, GetPullRequest.name, CreatePullRequest.name, SearchWorkspace.name}
)


class ToolSettings(Protocol):
    """The settings that the tools need."""

    @property
    def smtp_host(self) -> str | None: ...
    @property
    def smtp_port(self) -> int: ...
    @property
    def smtp_username(self) -> str | None: ...
    @property
    def smtp_password(self) -> SecretStr | None: ...
    @property
    def smtp_from(self) -> str | None: ...
    @property
    def smtp_tls(self) -> Encryption: ...
    @property
    def github_token(self) -> SecretStr | None: ...
    @property
    def github_api_url(self) -> str: ...
    @property
    def aura_github_repositories(self) -> Mapping[str, Collection[str]] | None: ...


def configured_tools(settings: ToolSettings, clock: Clock, workspace: WorkspaceSearch | None = None) -> list[Tool]:
    """Returns the tools whose services are configured. A tool connects to its service when it runs."""
    tools: list[Tool] = [GetCurrentTime(clock)]
    if settings.smtp_host and settings.smtp_from:
        tools.append(
            SendEmail(
                clock,
                host=settings.smtp_host,
                port=settings.smtp_port,
                sender=settings.smtp_from,
                username=settings.smtp_username,
                password=settings.smtp_password,
                encryption=settings.smtp_tls,
            )
        )
    if settings.github_token:
        repositories = AllowedRepositories(settings.aura_github_repositories)
        tools.append(GetPullRequest(settings.github_token, settings.github_api_url, repositories))
        tools.append(CreatePullRequest(settings.github_token, settings.github_api_url, repositories))
    if workspace is not None:
        tools.append(SearchWorkspace(workspace))
    return tools
