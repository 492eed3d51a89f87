"""`github_get_pr` and `github_create_pr`, by the REST API of GitHub or of GitHub Enterprise at its own base URL.

The tenant comes from the run and limits the repositories. What a pull request says may be written by anybody, so a
result presents it as data.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import gidgethub
import httpx2
from gidgethub.httpx import GitHubAPI
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from app.errors import ToolError, without_places
from app.ports.tools import ToolContext
from app.tools.repositories import AllowedRepositories
from app.tools.results import DATA_NOTICE
from app.tools.text_fields import one_visible_line, without_hidden_characters
from statemachine.stored import JsonObject

DEFAULT_API_URL = "https://api.github.com"
# Enterprise servers in use support this version; newer versions do not change the fields that are read here.
API_VERSION = "2022-11-28"
_HEADERS = {"X-GitHub-Api-Version": API_VERSION}
_ACCEPT = "application/vnd.github+json"
_STEP_TIMEOUT_SECONDS = 20
_FILES_LIMIT = 50
_BODY_LIMIT_CHARACTERS = 4000
_NOTICE = f"A pull request on GitHub. {DATA_NOTICE}"
_ANY_REPOSITORY = AllowedRepositories(None)


def _not_a_path(name: str) -> str:
    if name in (".", ".."):
        raise ValueError("not the name of a repository")
    return name


def _branch(name: str) -> str:
    """Checks the rules of `git check-ref-format` that matter in a request. Raises `ValueError`."""
    forbidden = ("..", "//", "@{", "\\")
    if any(part in name for part in forbidden) or name.startswith(("/", "-")) or name.endswith(("/", ".", ".lock")):
        raise ValueError("not the name of a branch")
    return without_hidden_characters(name)


Owner = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$", description="User or organisation")]
Repository = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9._-]{1,100}$", description="Name of the repository, without its owner"),
    AfterValidator(_not_a_path),
]
Branch = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f\x7f~^:?*\[]{1,200}$"), AfterValidator(_branch)]
Head = Annotated[
    str,
    Field(
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,99}:)?[^\s\x00-\x1f\x7f~^:?*\[]{1,200}$",
        description="Branch with the changes; `owner:branch` where it is in a fork",
    ),
    AfterValidator(_branch),
]


class GetPullRequestArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    owner: Owner
    repo: Repository
    number: int = Field(ge=1, le=2**31)


class CreatePullRequestArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    owner: Owner
    repo: Repository
    title: Annotated[str, AfterValidator(one_visible_line)] = Field(min_length=1, max_length=256)
    head: Head
    base: Branch = "main"
    body: str = Field(default="", max_length=40_000, description="Markdown")
    draft: bool = False


class _GitHub:
    """One GitHub server. Each call has an HTTP client of its own, so that no connection stays open between calls."""

    def __init__(self, token: SecretStr | None, api_url: str) -> None:
        self._token = token
        self._api_url = api_url or DEFAULT_API_URL

    @asynccontextmanager
    async def session(
        self, subject: str, *, follow_redirects: bool, idempotency_key: str | None = None
    ) -> AsyncIterator[GitHubAPI]:
        """Opens a session of the API, in which every error becomes a `ToolError` about `subject`."""
        headers = _HEADERS if idempotency_key is None else {**_HEADERS, "Idempotency-Key": idempotency_key}
        token = self._token.get_secret_value() if self._token else None
        try:
            async with httpx2.AsyncClient(
                headers=headers,
                timeout=_STEP_TIMEOUT_SECONDS,
                follow_redirects=follow_redirects,
                event_hooks={"response": [_stay_on_the_origin]},
            ) as client:
                yield GitHubAPI(client, "Aura-Platform", oauth_token=token, base_url=self._api_url)
        except gidgethub.HTTPException as error:
            raise ToolError(_describe(error, subject)) from error
        except httpx2.TimeoutException as error:
            raise ToolError(f"GitHub did not respond in time ({subject})") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            # The message may contain a header, so only the class is named.
            raise ToolError("GitHub cannot be reached", detail=f"{type(error).__name__} at {self._api_url}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # the response is not the expected JSON
            raise ToolError(f"GitHub sent a response that cannot be understood ({subject})") from error


class GetPullRequest:
    """Read a GitHub pull request: title, state, author, branches, description, size and changed files."""

    name: str = "github_get_pr"
    title: str = "GitHub PR 조회"
    arguments: type[BaseModel] = GetPullRequestArguments
    needs_approval: bool = False
    idempotent: bool = True
    untrusted: bool = True
    timeout_seconds: float | None = None

    def __init__(
        self,
        token: SecretStr | None = None,
        api_url: str = DEFAULT_API_URL,
        repositories: AllowedRepositories = _ANY_REPOSITORY,
    ) -> None:
        self._github = _GitHub(token, api_url)
        self._repositories = repositories

    def question(self, arguments: GetPullRequestArguments) -> str:
        return f"GitHub PR {arguments.owner}/{arguments.repo}#{arguments.number}을(를) 조회하시겠습니까?"

    async def run(self, arguments: GetPullRequestArguments, context: ToolContext) -> JsonObject:
        self._repositories.check(context.tenant_id, f"{arguments.owner}/{arguments.repo}")
        subject = f"{arguments.owner}/{arguments.repo}#{arguments.number}"
        where = {"owner": arguments.owner, "repo": arguments.repo, "number": str(arguments.number)}
        # A renamed repository responds with a redirect, which stays on the server. It may have another owner now.
        async with self._github.session(subject, follow_redirects=True) as github:
            pull = await github.getitem("/repos/{owner}/{repo}/pulls/{number}", where, accept=_ACCEPT)
            if self._repositories.is_restricted:
                self._repositories.check(context.tenant_id, pull["base"]["repo"]["full_name"])
            files = await github.getitem(
                "/repos/{owner}/{repo}/pulls/{number}/files{?per_page}",
                {**where, "per_page": str(_FILES_LIMIT)},
                accept=_ACCEPT,
            )
            return _pull_request(pull) | {
                "additions": pull["additions"],
                "deletions": pull["deletions"],
                "changed_files": pull["changed_files"],
                "mergeable": pull.get("mergeable"),
                "files": [
                    {key: file[key] for key in ("filename", "status", "additions", "deletions")}
                    for file in files[:_FILES_LIMIT]
                ],
            }


class CreatePullRequest:
    """Open a GitHub pull request from a branch that is already pushed. A person approves it before.

    An open pull request with the same head and base is returned instead: GitHub does not allow a second one.
    """

    name: str = "github_create_pr"
    title: str = "GitHub PR 생성"
    arguments: type[BaseModel] = CreatePullRequestArguments
    needs_approval: bool = True
    idempotent: bool = True
    outward: bool = True
    timeout_seconds: float | None = None

    def __init__(
        self,
        token: SecretStr,
        api_url: str = DEFAULT_API_URL,
        repositories: AllowedRepositories = _ANY_REPOSITORY,
    ) -> None:
        self._github = _GitHub(token, api_url)
        self._repositories = repositories

    def question(self, arguments: CreatePullRequestArguments) -> str:  # noqa: ARG002 - the signature is the port's
        return "GitHub PR을 생성하시겠습니까?"

    async def run(self, arguments: CreatePullRequestArguments, context: ToolContext) -> JsonObject:
        subject = f"{arguments.owner}/{arguments.repo}"
        self._repositories.check(context.tenant_id, subject)
        if ":" in arguments.head:  # a pull request shows the changes of the fork to all readers of the repository
            self._repositories.check(context.tenant_id, f"{arguments.head.partition(':')[0]}/{arguments.repo}")
        # No redirects: an approval for one repository is not valid for another.
        session = self._github.session(subject, follow_redirects=False, idempotency_key=context.idempotency_key)
        async with session as github:
            existing = await _find_open_pull(github, arguments)
            if existing is not None:
                return _pull_request(existing) | {
                    "created": False,
                    "note": "An open pull request for this head and base.",
                }
            try:
                pull = await github.post(
                    "/repos/{owner}/{repo}/pulls",
                    {"owner": arguments.owner, "repo": arguments.repo},
                    data=arguments.model_dump(include={"title", "head", "base", "body", "draft"}),
                    accept=_ACCEPT,
                )
            except (gidgethub.InvalidField, gidgethub.ValidationError):
                # Another attempt of the same call may have created it after our check.
                existing = await _find_open_pull(github, arguments)
                if existing is None:
                    raise
                return _pull_request(existing) | {
                    "created": False,
                    "note": "An open pull request for this head and base.",
                }
            return _pull_request(pull) | {"created": True}


async def _find_open_pull(github: GitHubAPI, arguments: CreatePullRequestArguments) -> Any | None:
    """Returns the open pull request with this head and base, if it exists. The filter needs the owner of the head."""
    head = arguments.head if ":" in arguments.head else f"{arguments.owner}:{arguments.head}"
    pulls = await github.getitem(
        "/repos/{owner}/{repo}/pulls{?state,head,base}",
        {"owner": arguments.owner, "repo": arguments.repo, "state": "open", "head": head, "base": arguments.base},
        accept=_ACCEPT,
    )
    branch = head.partition(":")[2]
    # Checked again, because GitHub returns *all* open pull requests if it does not understand the filter.
    return next(
        (pull for pull in pulls if pull["head"]["ref"] == branch and pull["base"]["ref"] == arguments.base), None
    )


def _pull_request(pull: Any) -> JsonObject:
    body = pull.get("body") or ""
    return {
        "notice": _NOTICE,
        "number": pull["number"],
        "title": pull["title"],
        "state": "merged" if pull.get("merged") else pull["state"],
        "draft": pull.get("draft", False),
        "author": (pull.get("user") or {}).get("login"),  # null for a deleted account
        "base": pull["base"]["ref"],
        "head": pull["head"]["ref"],
        "body": body if len(body) <= _BODY_LIMIT_CHARACTERS else body[:_BODY_LIMIT_CHARACTERS] + "…",
        "url": pull["html_url"],
    }


async def _stay_on_the_origin(response: httpx2.Response) -> None:
    """Raises `ToolError` for a redirect to another scheme, host or port: what answers there is not GitHub's API."""
    if not response.has_redirect_location:
        return
    target = response.url.join(response.headers["location"])
    if (target.scheme, target.host, target.port) != (response.url.scheme, response.url.host, response.url.port):
        raise ToolError("GitHub redirects to another server, which is not followed", detail=str(target)[:200])


def _describe(error: gidgethub.HTTPException, subject: str) -> str:
    message = without_places(" ".join(str(error).split())[:300])
    status = int(error.status_code)
    match error:
        case gidgethub.RateLimitExceeded():
            return f"GitHub's rate limit is used up until {error.rate_limit.reset_datetime.isoformat()}"
        case gidgethub.RedirectionException():
            return f"{subject} has moved; use the repository's present name"
        case gidgethub.InvalidField() | gidgethub.ValidationError():
            return f"GitHub refused it ({status}, {subject}): {message}{_field_errors(error.errors)}"
        case gidgethub.GitHubBroken():
            return f"GitHub has a problem of its own ({status}); try again later"
    return _describe_status(status, error.headers.get("retry-after"), f"({status}, {subject}): {message}", subject)


def _describe_status(status: int, retry_after: str | None, details: str, subject: str) -> str:
    if status == 401:
        return "GitHub does not accept the token (401): GITHUB_TOKEN is wrong or expired"
    if status == 429 or (status == 403 and retry_after):
        return f"GitHub's rate limit is used up ({status}); try again in {retry_after or 60} s"
    if status == 403:
        return f"the token may not do this {details}"
    if status == 404:
        return f"{subject} does not exist on GitHub, or the token may not see it (404)"
    return f"GitHub refused it {details}"


def _field_errors(errors: Any) -> str:
    if not isinstance(errors, list):
        return ""
    fields = [
        " ".join(str(item[key]) for key in ("field", "code") if item.get(key))
        for item in errors[:5]
        if isinstance(item, dict)
    ]
    return f" [{', '.join(fields)}]" if any(fields) else ""
