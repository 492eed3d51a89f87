"""A client of the Main Service's HTTP API for agent tasks (§6). An error's class shows if a retry can help.

The deployed service refuses fields that it does not know, with 400 or 500, and knows no `planSteps`. So a refused
progress update is sent once more without the plan; if that succeeds, the plan is left out for an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never
from urllib.parse import quote

import httpx2
import structlog

from app.http.retry_after import retry_after_seconds
from app.http.transport import AiohttpTransport
from app.integrations.agent_task import (
    CompleteTask,
    CreateTask,
    FailTask,
    ReportProgress,
    StartTask,
    TaskRequest,
)
from statemachine.checkpoint import RunRequest
from statemachine.foreign_json import ForeignJsonInvalid, parse_object
from statemachine.stored import JsonObject

_TASKS_PATH = "/main/agent/tasks"
_UNAVAILABLE_STATUSES = (408, 425, 429, 502, 503, 504)
_MAX_RESPONSE_BYTES = 64 * 1024
_MAX_RETRY_AFTER_SECONDS = 60.0
_WITHOUT_PLAN_SECONDS = 3600.0
MAX_CONCURRENT_REQUESTS = 8

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """The user in whose name requests are sent. `expires_at` (Unix s) is the expiry time of the token."""

    token: str = field(repr=False)
    expires_at: float


class MainServiceError(Exception):
    """Base of the errors of a request."""


class ServiceUnavailable(MainServiceError):
    """There is no response, or one that says that the service is down or overloaded: the request may succeed later.

    `is_answer`: there is a response, so the fault may lie in this request alone.
    """

    def __init__(self, cause: str, retry_after_seconds: float = 0.0, *, is_answer: bool = False) -> None:
        super().__init__(cause)
        self.retry_after_seconds = retry_after_seconds
        self.is_answer = is_answer


class RequestFailed(MainServiceError):
    """The service has answered with an error of its own (HTTP 500): it may be a passing one, or this request always
    gets it."""


class TokenRejected(MainServiceError):
    """The token is not accepted: no request of this caller can succeed."""


class RequestRejected(MainServiceError):
    """The request is not accepted, and a retry cannot succeed."""


class MainService:
    """A client of one Main Service."""

    def __init__(
        self, url: str, *, timeout_seconds: float, now: Callable[[], float] = lambda: asyncio.get_running_loop().time()
    ) -> None:
        """`now` returns the time of a monotonic clock in seconds."""
        self._now = now
        self._without_plan_until = 0.0
        self._timeout_seconds = timeout_seconds
        self._client = httpx2.AsyncClient(
            base_url=url.rstrip("/"), transport=AiohttpTransport(), timeout=timeout_seconds, follow_redirects=False
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def send(self, request: TaskRequest, task_id: str | None, run: RunRequest, caller: Caller) -> str | None:
        """Send one request. Return the id of the task if it was created, else None.

        Raises `ServiceUnavailable`, `RequestFailed`, `TokenRejected` or `RequestRejected`.
        """
        task, headers = quote(task_id or "", safe=""), _headers(request, run, caller)
        if isinstance(request, ReportProgress):
            await self._report(request, f"{_TASKS_PATH}/{task}/progress", headers)
            return None
        body = await self._exchange(self._build(request, task, headers))
        return _task_id(body) if isinstance(request, CreateTask) else None

    async def _report(self, report: ReportProgress, path: str, headers: dict[bytes, bytes]) -> None:
        """Send a progress report with its plan; without the plan where the service refuses that field."""
        if self._now() >= self._without_plan_until:
            try:
                await self._patch(path, report.body, headers)
                return
            except (RequestFailed, RequestRejected) as error:
                cause = str(error)
            await self._patch(path, report.body_without_plan, headers)
            if self._now() >= self._without_plan_until:  # else another report was faster
                self._without_plan_until = self._now() + _WITHOUT_PLAN_SECONDS
                log.info("main_service.plan_refused", cause=cause, omittedForSeconds=_WITHOUT_PLAN_SECONDS)
            return
        await self._patch(path, report.body_without_plan, headers)

    async def _patch(self, path: str, body: JsonObject, headers: dict[bytes, bytes]) -> None:
        await self._exchange(self._client.build_request("PATCH", path, json=body, headers=headers))

    async def _exchange(self, outgoing: httpx2.Request) -> bytes:
        """Send a request and return the body of its successful response."""
        try:
            # The timeout of the client is for each step of a request; this one is for the whole request.
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._client.send(outgoing, stream=True)
                try:
                    body = await _read(response)
                finally:
                    await response.aclose()
        except (httpx2.HTTPError, TimeoutError) as error:
            raise ServiceUnavailable(type(error).__name__) from error
        _check(response)
        return body

    def _build(
        self, request: CreateTask | StartTask | CompleteTask | FailTask, task: str, headers: dict[bytes, bytes]
    ) -> httpx2.Request:
        build, path = self._client.build_request, f"{_TASKS_PATH}/{task}"
        match request:
            case CreateTask(body=body):
                return build("POST", _TASKS_PATH, json=body, headers=headers)
            case StartTask():
                return build("POST", f"{path}/start", headers=headers)
            case CompleteTask(body=body):
                return build("POST", f"{path}/complete", json=body, headers=headers)
            case FailTask(error_message=message):
                return build("POST", f"{path}/fail", params={"errorMessage": message}, headers=headers)
            case _:
                assert_never(request)


def _headers(request: TaskRequest, run: RunRequest, caller: Caller) -> dict[bytes, bytes]:
    """Return the headers of §6. They are bytes, because a user's name need not be ASCII."""
    fields = {
        "Authorization": f"Bearer {caller.token}",
        "X-Tenant-ID": run.tenant_id,
        "X-User-ID": run.user_id,
        "X-Correlation-ID": run.trace_id,
        "X-DWP-Source": "AURA",
        "X-DWP-Caller-Type": "AGENT",
    }
    if isinstance(request, CreateTask):
        # A service that supports the header creates one task even if a response is lost and the request is sent again.
        fields["Idempotency-Key"] = run.session_id
    if any(character < " " for value in fields.values() for character in value):
        raise RequestRejected("a header contains a control character")
    return {name.encode(): value.encode("utf-8", "replace") for name, value in fields.items()}


def _check(response: httpx2.Response) -> None:
    """Raise the error of a response that is not successful."""
    status = response.status_code
    if 200 <= status < 300:
        return
    if status in _UNAVAILABLE_STATUSES:
        retry_after = min(retry_after_seconds(response.headers) or 0.0, _MAX_RETRY_AFTER_SECONDS)
        raise ServiceUnavailable(f"HTTP {status}", retry_after, is_answer=True)
    if status >= 500:
        raise RequestFailed(f"HTTP {status}")
    if status in (401, 403):
        raise TokenRejected(f"HTTP {status}")
    raise RequestRejected(f"HTTP {status}")


async def _read(response: httpx2.Response) -> bytes:
    """Return the body, or the beginning of one that is longer than any that is expected."""
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MAX_RESPONSE_BYTES:
            break
    return body


def _task_id(body: bytes) -> str:
    """Return `data.taskId` of the response, which is a text or a number. Raises `RequestRejected`."""
    try:
        data = parse_object(body).get("data")
    except ForeignJsonInvalid:
        data = None
    task_id = data.get("taskId") if isinstance(data, dict) else None
    if isinstance(task_id, bool) or not isinstance(task_id, str | int) or task_id == "":
        raise RequestRejected("the response has no data.taskId")
    return str(task_id)[:200]
