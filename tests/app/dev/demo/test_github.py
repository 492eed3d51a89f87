"""The GitHub stand-in, tested with a real HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from app.dev.demo.github import GitHubStandIn

FOLDER = Path(__file__).parents[4] / "fixtures" / "github"
PULLS = "/repos/dwp-platform/aura-platform/pulls"
TOKEN = {"Authorization": "Bearer demo-token"}
NEW = {"title": "새 기능", "head": "feature/x", "base": "main", "body": "설명"}


@pytest.fixture
async def github() -> AsyncIterator[GitHubStandIn]:
    async with GitHubStandIn(FOLDER, token="demo-token") as running:
        yield running


@pytest.fixture
async def client(github: GitHubStandIn) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=github.url, trust_env=False) as running:
        yield running


async def test_sample_pull_request_matches_its_files(client: httpx2.AsyncClient) -> None:
    pull = (await client.get(f"{PULLS}/42")).json()
    files = (await client.get(f"{PULLS}/42/files", params={"per_page": "50"})).json()
    assert pull["number"] == 42
    assert pull["changed_files"] == len(files)
    assert pull["additions"] == sum(file["additions"] for file in files)
    assert pull["deletions"] == sum(file["deletions"] for file in files)


async def test_created_pull_request_can_be_read_and_listed(github: GitHubStandIn, client: httpx2.AsyncClient) -> None:
    created = await client.post(PULLS, json=NEW, headers=TOKEN)
    assert created.status_code == 201
    pull = created.json()
    assert (pull["number"], pull["title"], pull["state"]) == (43, "새 기능", "open")
    assert pull["html_url"] == "https://github.com/dwp-platform/aura-platform/pull/43"
    assert "/42" not in created.text
    assert (await client.get(f"{PULLS}/43")).json() == pull
    listed = await client.get(PULLS, params={"head": "dwp-platform:feature/x", "base": "main", "state": "open"})
    assert [found["number"] for found in listed.json()] == [43]
    assert [found["number"] for found in github.created] == [43]


async def test_pull_request_in_another_repository_is_its_first(client: httpx2.AsyncClient) -> None:
    pull = (await client.post("/repos/someone/else/pulls", json=NEW, headers=TOKEN)).json()
    assert (pull["number"], pull["base"]["repo"]["full_name"]) == (1, "someone/else")
    assert pull["url"].endswith("/repos/someone/else/pulls/1")


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"base": "feature/x"}, "No commits between"), ({"title": ""}, "missing_field")],
)
async def test_invalid_pull_request_is_refused(
    github: GitHubStandIn, client: httpx2.AsyncClient, change: dict[str, str], expected: str
) -> None:
    refused = await client.post(PULLS, json=NEW | change, headers=TOKEN)
    assert refused.status_code == 422
    assert expected in refused.text
    assert github.created == []


async def test_second_pull_request_for_the_same_branches_is_refused(client: httpx2.AsyncClient) -> None:
    await client.post(PULLS, json=NEW, headers=TOKEN)
    second = await client.post(PULLS, json=NEW, headers=TOKEN)
    assert second.status_code == 422
    assert "already exists" in second.text


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}])
async def test_writing_needs_the_token(client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    assert (await client.post(PULLS, json=NEW, headers=headers)).status_code == 401


@pytest.mark.parametrize("path", [f"{PULLS}/7", f"{PULLS}/7/files", "/repos/no/such/pulls/42", "/user"])
async def test_unknown_path_is_404_in_githubs_format(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.json()["message"] == "Not Found"


async def test_requests_are_recorded_with_headers(github: GitHubStandIn, client: httpx2.AsyncClient) -> None:
    await client.get(f"{PULLS}/42", headers=TOKEN | {"X-Request": "one"})
    assert [(request.method, request.headers["x-request"]) for request in github.requests] == [("GET", "one")]
