"""The GitHub tools against a real HTTP server with the API of GitHub."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app.errors import ToolError
from app.ports.tools import ToolContext
from app.tools.github import (
    CreatePullRequest,
    CreatePullRequestArguments,
    GetPullRequest,
    GetPullRequestArguments,
)

PULL: dict[str, Any] = {
    "number": 7,
    "title": "재시도 추가",
    "state": "open",
    "merged": False,
    "draft": False,
    "user": {"login": "kim"},
    "base": {"ref": "main"},
    "head": {"ref": "feature/retry"},
    "body": "본문",
    "html_url": "https://github.test/dwp/aura/pull/7",
    "additions": 120,
    "deletions": 5,
    "changed_files": 60,
    "mergeable": True,
    "node_id": "not for the model",
}
FILES = [
    {"filename": f"src/{i}.py", "status": "modified", "additions": 2, "deletions": 1, "patch": "@@"} for i in range(60)
]
PULLS_PATH = "/api/v3/repos/dwp/aura/pulls"
GET = GetPullRequestArguments(owner="dwp", repo="aura", number=7)
CREATE = CreatePullRequestArguments(owner="dwp", repo="aura", title="재시도 추가", head="feature/retry", body="본문")


def reader(http_server: Any) -> GetPullRequest:
    return GetPullRequest(SecretStr("ghp_token"), http_server.url)


def writer(http_server: Any) -> CreatePullRequest:
    return CreatePullRequest(SecretStr("ghp_token"), http_server.url)


# --- the arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "repo"),
    [
        ("dwp", ".."),
        ("dwp", "."),
        ("dwp", "a/b"),
        ("dwp/aura", "aura"),
        ("..", "aura"),
        ("-dwp", "aura"),
        ("dwp", "aura?x=1"),
        ("dwp", "aura#"),
        ("dwp", "aura\n"),
        ("dwp", "%2e%2e"),
        ("", "aura"),
        ("dwp", ""),
    ],
)
def test_repository_must_not_be_a_path(owner: str, repo: str) -> None:
    with pytest.raises(ValidationError):
        GetPullRequestArguments(owner=owner, repo=repo, number=1)


@pytest.mark.parametrize(
    "head", ["", "a b", "../main", "a..b", "-x", "a\nb", "o:p:q", "a//b", "x.lock", "a@{0}", "a\\b"]
)
def test_invalid_branch_is_refused(head: str) -> None:
    with pytest.raises(ValidationError):
        CreatePullRequestArguments(owner="dwp", repo="aura", title="t", head=head)


def test_only_creating_needs_approval(http_server: Any) -> None:
    assert not reader(http_server).needs_approval
    assert writer(http_server).needs_approval
    assert writer(http_server).idempotent


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_pull_request_is_read_compactly(http_server: Any, context: ToolContext) -> None:
    http_server.on(f"GET {PULLS_PATH}/7", PULL | {"body": "가" * 5000})
    http_server.on(f"GET {PULLS_PATH}/7/files", FILES)
    result = await reader(http_server).run(GET, context)
    files = result.pop("files")
    assert len(files) == 50
    assert files[0] == {"filename": "src/0.py", "status": "modified", "additions": 2, "deletions": 1}
    assert result == {
        "number": 7,
        "title": "재시도 추가",
        "state": "open",
        "draft": False,
        "author": "kim",
        "base": "main",
        "head": "feature/retry",
        "body": "가" * 4000 + "…",
        "url": "https://github.test/dwp/aura/pull/7",
        "additions": 120,
        "deletions": 5,
        "changed_files": 60,
        "mergeable": True,
    }
    first, second = http_server.requests
    assert second.path.endswith("/pulls/7/files?per_page=50")
    assert first.headers["x-github-api-version"] == "2022-11-28"
    assert first.headers["authorization"] == "token ghp_token"
    assert first.headers["accept"] == "application/vnd.github+json"


async def test_public_pull_request_needs_no_token(http_server: Any, context: ToolContext) -> None:
    http_server.on(f"GET {PULLS_PATH}/7", PULL | {"merged": True, "state": "closed", "user": None, "body": None})
    http_server.on(f"GET {PULLS_PATH}/7/files", [])
    result = await GetPullRequest(None, http_server.url + "/").run(GET, context)
    assert (result["state"], result["author"], result["body"]) == ("merged", None, "")
    assert "authorization" not in http_server.requests[0].headers


async def test_renamed_repository_is_followed_when_reading(http_server: Any, context: ToolContext) -> None:
    http_server.on(f"GET {PULLS_PATH}/7", {}, 301, location=f"{http_server.url}/repositories/1/pulls/7")
    http_server.on("GET /api/v3/repositories/1/pulls/7", PULL)
    http_server.on(f"GET {PULLS_PATH}/7/files", [])
    assert (await reader(http_server).run(GET, context))["number"] == 7


@pytest.mark.parametrize(
    ("status", "body", "headers", "cause"),
    [
        (401, {"message": "Bad credentials"}, {}, "does not accept the token (401)"),
        (403, {"message": "Resource not accessible"}, {}, "may not do this (403, dwp/aura#7): Resource not accessible"),
        (
            403,
            {"message": "API rate limit exceeded"},
            {"x_ratelimit_limit": "60", "x_ratelimit_remaining": "0", "x_ratelimit_reset": "1706151600"},
            "rate limit is used up until 2024-01-25T03:00:00+00:00",
        ),
        (
            403,
            {"message": "secondary rate limit"},
            {"retry_after": "30"},
            "rate limit is used up (403); try again in 30 s",
        ),
        (429, {"message": "slow down"}, {}, "rate limit is used up (429); try again in 60 s"),
        (404, {"message": "Not Found"}, {}, "dwp/aura#7 does not exist on GitHub, or the token may not see it (404)"),
        (410, {"message": "Gone"}, {}, "refused it (410, dwp/aura#7): Gone"),
        (422, {"message": "Odd"}, {}, "refused it (422, dwp/aura#7): Odd"),
        (502, "<html>", {"content_type": "text/html"}, "problem of its own (502)"),
        (200, "{not json", {}, "cannot be understood"),
        (200, {"number": 7}, {}, "cannot be understood"),
        (200, [], {}, "cannot be understood"),
    ],
)
async def test_error_names_its_cause(
    http_server: Any, context: ToolContext, status: int, body: Any, headers: dict[str, str], cause: str
) -> None:
    http_server.on(f"GET {PULLS_PATH}/7", body, status, **headers)
    http_server.on(f"GET {PULLS_PATH}/7/files", [])
    with pytest.raises(ToolError) as caught:
        await reader(http_server).run(GET, context)
    assert cause in caught.value.cause
    assert "ghp_token" not in caught.value.cause


async def test_unreachable_server_is_named_in_the_log_and_not_to_the_user(context: ToolContext) -> None:
    free = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{free.sockets[0].getsockname()[1]}"
    free.close()
    await free.wait_closed()
    with pytest.raises(ToolError, match="GitHub cannot be reached") as caught:
        await GetPullRequest(None, url).run(GET, context)
    assert "127.0.0.1" not in caught.value.message
    assert url in caught.value.log_cause


@pytest.mark.parametrize("url", ["ftp://github.test", "github.test", "http://[::", "http://"])
async def test_invalid_base_url_is_an_error(context: ToolContext, url: str) -> None:
    with pytest.raises(ToolError):
        await GetPullRequest(None, url).run(GET, context)


async def test_token_that_cannot_be_a_header_is_not_shown(http_server: Any, context: ToolContext) -> None:
    with pytest.raises(ToolError) as caught:
        await GetPullRequest(SecretStr("ghp_token\nx"), http_server.url).run(GET, context)
    assert "ghp" not in caught.value.cause


# --- creating ---------------------------------------------------------------------------------------------------------


async def test_pull_request_is_created(http_server: Any, context: ToolContext) -> None:
    http_server.on(f"GET {PULLS_PATH}", [])
    http_server.on(f"POST {PULLS_PATH}", PULL, 201)
    result = await writer(http_server).run(CREATE, context)
    assert (result["created"], result["number"], result["url"]) == (True, 7, "https://github.test/dwp/aura/pull/7")
    search, created = http_server.requests
    assert search.path == f"{PULLS_PATH}?state=open&head=dwp%3Afeature%2Fretry&base=main"
    assert created.body == {
        "title": "재시도 추가",
        "head": "feature/retry",
        "base": "main",
        "body": "본문",
        "draft": False,
    }
    assert created.headers["x-github-api-version"] == "2022-11-28"


async def test_repeated_creation_returns_the_existing_pull_request(http_server: Any, context: ToolContext) -> None:
    http_server.on(f"GET {PULLS_PATH}", [PULL | {"number": 6, "head": {"ref": "other"}}, PULL])
    result = await writer(http_server).run(CREATE, context)
    assert (result["created"], result["number"]) == (False, 7)
    assert [request.method for request in http_server.requests] == ["GET"]


async def test_head_in_a_fork_is_searched_there(http_server: Any, context: ToolContext) -> None:
    http_server.on(f"GET {PULLS_PATH}", [PULL])
    await writer(http_server).run(CREATE.model_copy(update={"head": "lee:feature/retry"}), context)
    assert "head=lee%3Afeature%2Fretry" in http_server.requests[0].path


ALREADY = {
    "message": "Validation Failed",
    "errors": [{"resource": "PullRequest", "code": "custom", "message": "A pull request already exists for dwp:x."}],
}


async def test_creation_returns_one_that_was_created_meanwhile(http_server: Any, context: ToolContext) -> None:
    responses = [[], [PULL]]
    http_server.routes[f"GET {PULLS_PATH}"] = lambda _: (200, {}, responses.pop(0))
    http_server.on(f"POST {PULLS_PATH}", ALREADY, 422)
    result = await writer(http_server).run(CREATE, context)
    assert (result["created"], result["number"]) == (False, 7)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (ALREADY, "A pull request already exists"),
        ({"message": "Validation Failed", "errors": [{"field": "base", "code": "invalid"}]}, "[base invalid]"),
    ],
)
async def test_refused_creation_names_the_cause(http_server: Any, context: ToolContext, body: Any, cause: str) -> None:
    http_server.on(f"GET {PULLS_PATH}", [])
    http_server.on(f"POST {PULLS_PATH}", body, 422)
    with pytest.raises(ToolError) as caught:
        await writer(http_server).run(CREATE, context)
    assert cause in caught.value.cause


async def test_creation_does_not_follow_a_redirect(http_server: Any, context: ToolContext) -> None:
    http_server.on(f"GET {PULLS_PATH}", [])
    http_server.on(f"POST {PULLS_PATH}", {}, 307, location=f"{http_server.url}/repos/other/aura/pulls")
    with pytest.raises(ToolError, match="dwp/aura has moved"):
        await writer(http_server).run(CREATE, context)
