"""The GitHub tools of one tenant stay in its repositories, and on GitHub's server (`AURA_GITHUB_REPOSITORIES`)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from app.errors import ConfigurationError, ToolError
from app.ports.tools import ToolContext
from app.settings import Settings
from app.tools.github import (
    CreatePullRequest,
    CreatePullRequestArguments,
    GetPullRequest,
    GetPullRequestArguments,
)
from app.tools.repositories import AllowedRepositories
from tests.app.tools.test_tool_github import PULL
from tests.harness.service import SECRET

LISTS = "t1=DWP/*, partner/docs; 7=secret/plans; *=public-org/handbook"


def parsed(text: str) -> AllowedRepositories:
    settings = Settings.from_environment({"JWT_SECRET": SECRET, "AURA_GITHUB_REPOSITORIES": text})
    return AllowedRepositories(settings.aura_github_repositories)


def reader(http_server: Any, lists: str = LISTS) -> GetPullRequest:
    return GetPullRequest(SecretStr("ghp_token"), http_server.url, parsed(lists))


def pull_of(full_name: str) -> dict[str, Any]:
    return PULL | {"base": {"ref": "main", "repo": {"full_name": full_name}}}


def refusal(allowed: AllowedRepositories, tenant: str, repository: str) -> str:
    try:
        allowed.check(tenant, repository)
    except ToolError as error:
        return error.cause
    return ""


# --- the list ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tenant", "repository", "is_allowed"),
    [
        ("t1", "dwp/anything", True),
        ("t1", "Dwp/ANYTHING", True),
        ("t1", "partner/docs", True),
        ("t1", "public-org/handbook", True),
        ("unknown", "public-org/handbook", True),
        ("t1", "partner/other", False),
        ("t1", "public-org/other", False),
        ("t1", "secret/plans", False),
        ("T1", "dwp/anything", False),
        ("7", "secret/plans", True),
        ("7", "dwp/anything", False),
        ("*", "dwp/anything", False),
        ("t1", "dwp2/anything", False),
        ("t1", "xdwp/anything", False),
    ],
)
def test_a_tenant_uses_the_repositories_of_its_list_and_of_the_list_for_all(
    tenant: str, repository: str, is_allowed: bool
) -> None:
    assert (refusal(parsed(LISTS), tenant, repository) == "") == is_allowed


def test_a_refusal_names_the_remedy_and_nothing_of_other_tenants() -> None:
    cause = refusal(parsed(LISTS), "t1", "secret/plans")
    assert "dwp/*, partner/docs, public-org/handbook" in cause
    assert "AURA_GITHUB_REPOSITORIES" in cause
    assert cause.count("secret/plans") == 1, "the model's own words, and not the list of tenant 7"
    assert ": none." in refusal(parsed("t1=dwp/*"), "t2", "dwp/aura")


def test_everything_may_be_allowed_and_without_a_list_everything_is() -> None:
    assert refusal(parsed("*=*/*"), "t9", "any/thing") == ""
    assert refusal(AllowedRepositories(None), "t9", "any/thing") == ""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("dwp/aura", "entry 1: tenant=owner/repository"),
        ("t1=", "entry 1: tenant=owner/repository"),
        ("=dwp/aura", "entry 1: tenant=owner/repository"),
        ("t1=dwp/aura;t2=dwp", "entry 2: dwp is not owner/repository"),
        ("t1=dwp/au*", "entry 1: dwp/au* is not"),
        ("t1=*/aura", "entry 1: */aura is not"),
        ("t1=*", "entry 1: * is not"),
        ("t1=dwp/aura/x", "entry 1: dwp/aura/x is not"),
        ("t1=https://github.com/dwp/aura", "is not owner/repository"),
        ("t1=dwp/aura;t1=dwp/*", "entry 2: the tenant t1 has an entry already"),
    ],
)
def test_a_list_that_cannot_be_read_stops_the_start(text: str, cause: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parsed(text)
    assert str(raised.value).startswith("AURA_GITHUB_REPOSITORIES: ")
    assert cause in str(raised.value)


# --- the tools --------------------------------------------------------------------------------------------------------


async def test_a_repository_of_another_tenant_is_never_requested(http_server: Any, context: ToolContext) -> None:
    with pytest.raises(ToolError, match="not one of those"):
        await reader(http_server).run(GetPullRequestArguments(owner="secret", repo="plans", number=7), context)
    writer = CreatePullRequest(SecretStr("ghp_token"), http_server.url, parsed(LISTS))
    with pytest.raises(ToolError, match="not one of those"):
        await writer.run(CreatePullRequestArguments(owner="secret", repo="plans", title="t", head="x"), context)
    with pytest.raises(ToolError, match="secret/aura is not one of those"):
        await writer.run(CreatePullRequestArguments(owner="dwp", repo="aura", title="t", head="secret:x"), context)
    assert http_server.requests == []


async def test_a_repository_that_was_moved_to_a_foreign_owner_is_not_read(
    http_server: Any, context: ToolContext
) -> None:
    arguments, moved = GetPullRequestArguments(owner="dwp", repo="aura", number=7), "/api/v3/repositories/1/pulls/7"
    http_server.on("GET /api/v3/repos/dwp/aura/pulls/7", {}, 301, location=moved)
    http_server.on("GET /api/v3/repos/dwp/aura/pulls/7/files", [])
    http_server.on(f"GET {moved}", pull_of("secret/aura"))
    with pytest.raises(ToolError, match="secret/aura is not one of those"):
        await reader(http_server).run(arguments, context)
    http_server.on(f"GET {moved}", pull_of("DWP/renamed"))
    assert (await reader(http_server).run(arguments, context))["number"] == 7
    http_server.on(f"GET {moved}", PULL)
    with pytest.raises(ToolError, match="cannot be understood"):
        await reader(http_server).run(arguments, context)


@pytest.mark.parametrize("target", ["http://localhost:{port}/x", "http://127.0.0.1:{other}/x", "//localhost:{port}/x"])
async def test_a_redirect_to_another_origin_is_not_followed(
    http_server: Any, context: ToolContext, target: str
) -> None:
    """The server that answers there could be an internal service, and would be read to the model."""
    asked: list[bytes] = []

    async def answer(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        asked.append(await incoming.read(100))
        outgoing.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as elsewhere:
        port = http_server.url.rpartition(":")[2].partition("/")[0]
        location = target.format(port=port, other=elsewhere.sockets[0].getsockname()[1])
        http_server.on("GET /api/v3/repos/dwp/aura/pulls/7", {}, 302, location=location)
        http_server.on("GET /x", PULL)
        with pytest.raises(ToolError, match="redirects to another server") as caught:
            await reader(http_server).run(GetPullRequestArguments(owner="dwp", repo="aura", number=7), context)
    assert "localhost" not in caught.value.cause
    assert [request.path for request in http_server.requests] == ["/api/v3/repos/dwp/aura/pulls/7"]
    assert asked == []
