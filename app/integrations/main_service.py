"""The Main Service's HTTP interface for agent tasks (§6): one method a call, failures sorted by what helps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import assert_never
from urllib.parse import quote

import httpx2

from app.http.retry_after import retry_after_seconds
from app.http.transport import AiohttpTransport
from app.integrations.agent_task import Call, Complete, Create, Fail, Report, Start
from statemachine.checkpoint import RunRequest

_TASKS = "/main/agent/tasks"
_PASSING = (408, 425, 429)
_ANSWER_BYTES = 64 * 1024
_MOST_PATIENCE_SECONDS = 60.0
CALLS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Caller:
    """In whose name the calls are made. `expires_at` (Unix s) is the token's own end."""

    token: str = field(repr=False)
    expires_at: float


class MainServiceError(Exception):
    """Base of what a call can come to."""


class Away(MainServiceError):
    """No answer, or one that says later: the same call may succeed then."""

    def __init__(self, cause: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(cause)
        self.retry_after_seconds = retry_after_seconds


class CallerRefused(MainServiceError):
    """The token is not accepted (any more): no call of this caller will be."""


class CallRefused(MainServiceError):
    """This very call is not accepted, and never will be."""


class MainService:
    """A client of one Main Service."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._client = httpx2.AsyncClient(
            base_url=url.rstrip("/"), transport=AiohttpTransport(), timeout=timeout_seconds, follow_redirects=False
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def send(self, call: Call, task_id: str | None, request: RunRequest, caller: Caller) -> str | None:
        """Make one call; the task's id where it was created. Raises `Away`, `CallerRefused`, `CallRefused`."""
        outgoing = self._request(call, quote(task_id or "", safe=""), _headers(call, request, caller))
        try:
            async with asyncio.timeout(self._timeout_seconds):  # of the whole call; a client's own is of each step
                response = await self._client.send(outgoing)
        except (httpx2.HTTPError, TimeoutError) as error:
            raise Away(type(error).__name__) from error
        _check(response)
        return _task_id(response) if isinstance(call, Create) else None

    def _request(self, call: Call, task: str, headers: dict[bytes, bytes]) -> httpx2.Request:
        make = self._client.build_request
        match call:
            case Create(body=body):
                return make("POST", _TASKS, json=body, headers=headers)
            case Start():
                return make("POST", f"{_TASKS}/{task}/start", headers=headers)
            case Report():
                return make("PATCH", f"{_TASKS}/{task}/progress", json=call.body, headers=headers)
            case Complete(body=body):
                return make("POST", f"{_TASKS}/{task}/complete", json=body, headers=headers)
            case Fail(error_message=message):
                return make("POST", f"{_TASKS}/{task}/fail", params={"errorMessage": message}, headers=headers)
            case _:
                assert_never(call)


def _headers(call: Call, request: RunRequest, caller: Caller) -> dict[bytes, bytes]:
    """The caller's own and ours (§6), as bytes: a user's name need not be ASCII."""
    fields = {
        "Authorization": f"Bearer {caller.token}",
        "X-Tenant-ID": request.tenant_id,
        "X-User-ID": request.user_id,
        "X-Correlation-ID": request.trace_id,
        "X-DWP-Source": "AURA",
        "X-DWP-Caller-Type": "AGENT",
    }
    if isinstance(call, Create):
        fields["Idempotency-Key"] = request.session_id  # where it is known: one task, however often an answer is lost
    if any(character < " " for value in fields.values() for character in value):
        raise CallRefused("a control character in a header")
    return {name.encode(): value.encode("utf-8", "replace") for name, value in fields.items()}


def _check(response: httpx2.Response) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    if status >= 500 or status in _PASSING:
        raise Away(f"HTTP {status}", min(retry_after_seconds(response.headers) or 0.0, _MOST_PATIENCE_SECONDS))
    if status in (401, 403):
        raise CallerRefused(f"HTTP {status}")
    raise CallRefused(f"HTTP {status}")


def _task_id(response: httpx2.Response) -> str:
    """`data.taskId`, text or a number."""
    try:
        found = response.json()["data"]["taskId"] if len(response.content) <= _ANSWER_BYTES else None
    except (ValueError, KeyError, TypeError):
        found = None
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise CallRefused("its answer holds no data.taskId")
    return str(found)[:200]
