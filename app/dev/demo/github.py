"""A stand-in for GitHub's REST API: serves the sample pull requests of a folder and stores created ones in memory.

It implements the endpoints and response fields that pull requests need.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.dev.demo.http import Request, Response, StandIn

_PATH = re.compile(r"/repos/(?P<owner>[^/]+)/(?P<repo>[^/]+)/pulls(?:/(?P<number>\d+)(?P<files>/files)?)?$")
_DOCUMENTATION = "https://docs.github.com/rest"
_REQUIRED = ("title", "head", "base")

Pull = dict[str, Any]


class GitHubStandIn(StandIn):
    """The server on a free port of 127.0.0.1; also an async context manager.

    Reading needs no token; writing needs one. Where `token` is set, only that token is accepted.
    """

    def __init__(self, folder: Path, *, token: str | None = None) -> None:
        """`folder` contains `<name>.json`, a pull request in GitHub's format, and its `<name>_files.json`."""
        self.requests: list[Request] = []
        """Every request in the order of arrival."""
        self.created: list[Pull] = []
        """The pull requests that were created, in GitHub's format."""
        self._token = token
        self._pulls: dict[tuple[str, int], Pull] = {}
        self._files: dict[tuple[str, int], list[dict[str, Any]]] = {}
        super().__init__()
        for path in sorted(folder.glob("*.json")):
            if not path.stem.endswith("_files"):
                self._load_pull(path)

    @property
    def url(self) -> str:
        """The base address `http://127.0.0.1:{port}`, to be used as `GITHUB_API_URL`."""
        return self._http.origin

    def _load_pull(self, path: Path) -> None:
        pull = json.loads(path.read_text(encoding="utf-8"))
        key = (pull["base"]["repo"]["full_name"].lower(), pull["number"])
        self._pulls[key] = pull
        files = path.with_name(f"{path.stem}_files.json")
        self._files[key] = json.loads(files.read_text(encoding="utf-8")) if files.exists() else []

    async def _handle(self, request: Request, response: Response) -> None:
        self.requests.append(request)
        token = request.headers.get("authorization", "").partition(" ")[2]
        if token and self._token is not None and token != self._token:
            await response.json(401, _error_body(401, "Bad credentials"))
            return
        found = _PATH.fullmatch(request.path)
        match request.method, found:
            case "GET", re.Match() if found["number"] is not None:
                await self._get_pull(found, response)
            case "GET", re.Match():
                await response.json(200, self._list_pulls(found, request))
            case "POST", re.Match() if found["number"] is None:
                if not token:
                    await response.json(401, _error_body(401, "Requires authentication"))
                else:
                    await self._create(f"{found['owner']}/{found['repo']}", request, response)
            case _:
                await response.json(404, _error_body(404, "Not Found"))

    async def _get_pull(self, found: re.Match[str], response: Response) -> None:
        key = (f"{found['owner']}/{found['repo']}".lower(), int(found["number"]))
        if key not in self._pulls:
            await response.json(404, _error_body(404, "Not Found"))
        else:
            await response.json(200, self._files[key] if found["files"] else self._pulls[key])

    def _list_pulls(self, found: re.Match[str], request: Request) -> list[Pull]:
        """The pull requests of a repository, filtered as GitHub does: `state`, `head` (`owner:branch`), `base`."""
        name, state = f"{found['owner']}/{found['repo']}".lower(), request.query.get("state", "open")
        return [
            pull
            for (repository, _), pull in self._pulls.items()
            if repository == name
            and state in ("all", pull["state"])
            and request.query.get("head", pull["head"]["label"]) == pull["head"]["label"]
            and request.query.get("base", pull["base"]["ref"]) == pull["base"]["ref"]
        ]

    async def _create(self, repository: str, request: Request, response: Response) -> None:
        try:
            fields = request.json()
        except ValueError:
            await response.json(400, _error_body(400, "Problems parsing JSON"))
            return
        error = self._validation_error(repository, fields)
        if error is not None:
            details = [{"resource": "PullRequest", **error}]
            await response.json(422, {**_error_body(422, "Validation Failed"), "errors": details})
            return
        pull = self._new_pull(repository, fields)
        key = (repository.lower(), pull["number"])
        self._pulls[key], self._files[key] = pull, []
        self.created.append(pull)
        await response.json(201, pull, {"Location": pull["url"]})

    def _validation_error(self, repository: str, fields: dict[str, Any]) -> dict[str, str] | None:
        """The error of an invalid new pull request, as GitHub lists it under `errors`; None where it is valid."""
        for name in _REQUIRED:
            if not isinstance(fields.get(name), str) or not fields[name]:
                return {"code": "missing_field", "field": name}
        head, base = _branch(fields["head"]), fields["base"]
        if head == base:
            return {"code": "custom", "message": f"No commits between {base} and {head}"}
        for (name, _), pull in self._pulls.items():
            same = (pull["head"]["ref"], pull["base"]["ref"]) == (head, base) and pull["state"] == "open"
            if name == repository.lower() and same:
                return {"code": "custom", "message": f"A pull request already exists for {pull['head']['label']}."}
        return None

    def _new_pull(self, repository: str, fields: dict[str, Any]) -> Pull:
        """A new pull request, built from a sample so that it has every field that GitHub sends."""
        number = max((number for name, number in self._pulls if name == repository.lower()), default=0) + 1
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        sample = next(iter(self._pulls.values()), {})
        old = f"{sample['base']['repo']['full_name']}/pulls/{sample['number']}" if sample else ""
        text = json.dumps(sample, ensure_ascii=False)
        for kind in ("pulls", "pull", "issues"):
            text = text.replace(old.replace("pulls", kind), f"{repository}/{kind}/{number}") if old else text
        pull: Pull = json.loads(text)
        owner, head = repository.partition("/")[0], _branch(fields["head"])
        pull.update(number=number, state="open", title=fields["title"], body=fields.get("body"), merged=False)
        pull.update(draft=fields.get("draft") is True, created_at=now, updated_at=now, labels=[], comments=0)
        pull.update(commits=1, additions=0, deletions=0, changed_files=0, review_comments=0)
        pull.setdefault("url", f"{self.url}/repos/{repository}/pulls/{number}")
        pull["html_url"] = f"https://github.com/{repository}/pull/{number}"
        pull["head"] = {**pull.get("head", {}), "ref": head, "label": f"{owner}:{head}"}
        base = fields["base"]
        pull["base"] = {**pull.get("base", {}), "ref": base, "label": f"{owner}:{base}"}
        pull["base"]["repo"] = {**pull["base"].get("repo", {}), "full_name": repository}
        return pull


def _branch(name: str) -> str:
    """`owner:branch` and `branch` name the same branch."""
    return name.rpartition(":")[2]


def _error_body(status: int, message: str) -> dict[str, str]:
    """An error body in GitHub's format."""
    return {"message": message, "documentation_url": _DOCUMENTATION, "status": str(status)}
