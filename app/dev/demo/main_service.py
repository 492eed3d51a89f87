"""A stand-in for the agent tasks of the Main Service (CONTRACT §6), which can fail as a real service does.

By default it behaves as the deployed service: a body with a field that the service does not know, or with a value that
it cannot convert, gets its catch-all error (500, `E1000`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from dataclasses import dataclass, field
from typing import Any

from app.dev.demo.http import Request, Response, StandIn

_INTERNAL_ERROR = "내부 서버 오류가 발생했습니다."
_PATH = re.compile(r"/main/agent/tasks(?:/(?P<task>[^/]+)/(?P<verb>start|progress|complete|fail))?")
_TASK_FIELDS: dict[str, type] = {"taskType": str, "userId": str, "tenantId": str, "description": str, "inputData": str}
_REQUIRED_FIELDS = ("taskType", "userId", "tenantId")
_PROGRESS_FIELDS: dict[str, type] = {"progress": int, "description": str}
_METHODS = {None: "POST", "start": "POST", "progress": "PATCH", "complete": "POST", "fail": "POST"}


@dataclass(slots=True)
class AgentTask:
    """A task of the Main Service; `status` is REQUESTED, IN_PROGRESS, COMPLETED or FAILED."""

    task_id: str
    request_body: dict[str, Any]
    status: str = "REQUESTED"
    progress: int = 0
    description: str = ""
    plan: list[dict[str, Any]] = field(default_factory=list)
    result: Any = None
    error_message: str | None = None

    @property
    def session_id(self) -> str:
        return str(json.loads(self.request_body["inputData"])["sessionId"])


def is_ended(task: AgentTask) -> bool:
    return task.status in ("COMPLETED", "FAILED")


class MainServiceStandIn(StandIn):
    """The server on a free port of 127.0.0.1; also an async context manager.

    `accepts_plan`: it knows the field `planSteps` of a progress update, which the deployed service does not. To a
    request whose verb (such as `progress`) is in `statuses`, it answers that status, and does not carry it out.
    `failure_rate` is the share of requests that fail (0–1): half of them before they are carried out, half after it,
    without a response. While `rejects_tokens` is set, every request is answered with 401.
    """

    def __init__(self, *, accepts_plan: bool = False, failure_rate: float = 0.0, seed: int = 0) -> None:
        self.accepts_plan = accepts_plan
        self.statuses: dict[str, int] = {}
        self.tasks: dict[str, AgentTask] = {}
        self.requests: list[Request] = []
        """Every request in the order of arrival."""
        self.failure_rate = failure_rate
        self.rejects_tokens = False
        self.unblocked = asyncio.Event()
        """Requests wait for this event; clear it to let the service hang."""
        self.unblocked.set()
        self._random = random.Random(seed)  # noqa: S311 - a script, not a secret
        self._by_key: dict[str, str] = {}
        self._changed = asyncio.Condition()
        super().__init__()

    @property
    def url(self) -> str:
        return self._http.origin

    async def wait_until_ended(self, timeout_seconds: float) -> None:
        """Wait until there is a task and every task has ended, at most `timeout_seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(lambda: bool(self.tasks) and all(map(is_ended, self.tasks.values())))

    async def _handle(self, request: Request, response: Response) -> None:
        self.requests.append(request)
        await self.unblocked.wait()
        fails = self._random.random() < self.failure_rate
        is_lost = fails and self._random.random() < 0.5
        if fails and not is_lost:
            await response.json(503, _error("E5003", "later"))
        elif self.rejects_tokens or not request.headers.get("authorization", "").startswith("Bearer "):
            await response.json(401, _error("E2002", "토큰이 만료되었습니다."))
        else:
            status, body = self._respond(request)
            async with self._changed:
                self._changed.notify_all()
            if not is_lost:
                await response.json(status, body)

    def _respond(self, request: Request) -> tuple[int, dict[str, Any]]:
        found = _PATH.fullmatch(request.path)
        if found is None or request.method != _METHODS[found["verb"]]:
            return 404, _error("E1004", request.path)
        try:
            body = request.json() if request.body else {}
        except ValueError:
            return 500, _error("E1000", _INTERNAL_ERROR)
        verb = found["verb"] or "create"
        if verb in self.statuses:
            return self.statuses[verb], _error("E1000", _INTERNAL_ERROR)
        fields = self._known_fields(verb)
        if fields is not None and not _can_be_read(body, fields):
            return 500, _error("E1000", _INTERNAL_ERROR)
        if found["task"] is None:
            return self._create_task(request, body)
        task = self.tasks.get(found["task"])
        if task is None:
            return 404, _error("E1004", "no such task")
        if is_ended(task) or (verb == "start" and task.status != "REQUESTED"):
            return 409, _error("E3001", f"the task is {task.status}")
        return self._apply(task, verb, request, body)

    def _known_fields(self, verb: str) -> dict[str, type] | None:
        """Return the fields of the body with their types; None where any body is accepted."""
        if verb == "create":
            return _TASK_FIELDS
        if verb == "progress":
            return {**_PROGRESS_FIELDS, "planSteps": str} if self.accepts_plan else _PROGRESS_FIELDS
        return None

    def _create_task(self, request: Request, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        missing = [name for name in _REQUIRED_FIELDS if not str(body.get(name) or "").strip()]
        if missing:
            return 400, _error("E4000", f"{missing[0]} is required")
        key = request.headers.get("idempotency-key", "")
        known = self._by_key.get(key)
        task = self.tasks[known] if known else AgentTask(f"task-{len(self.tasks) + 1}", body)
        self.tasks[task.task_id] = task
        if key:
            self._by_key[key] = task.task_id
        return 201, _success(task)

    def _apply(self, task: AgentTask, verb: str, request: Request, body: Any) -> tuple[int, dict[str, Any]]:
        match verb:
            case "start":
                task.status = "IN_PROGRESS"
            case "progress":
                if not 0 <= body.get("progress", -1) <= 100:
                    return 400, _error("E4000", "progress: 0 to 100 is required")
                task.progress, task.description = body["progress"], body.get("description", task.description)
                task.plan = json.loads(body.get("planSteps", "[]"))
            case "complete":
                task.status, task.progress, task.result = "COMPLETED", 100, body
            case _:
                if "errorMessage" not in request.query:
                    return 500, _error("E1000", _INTERNAL_ERROR)
                task.status, task.error_message = "FAILED", request.query["errorMessage"]
        return 200, _success(task)


def _can_be_read(body: Any, fields: dict[str, type]) -> bool:
    """Return whether the body has only these fields, with values of their types."""
    return isinstance(body, dict) and all(
        name in fields and (value is None or type(value) is fields[name]) for name, value in body.items()
    )


def _success(task: AgentTask) -> dict[str, Any]:
    data = {"taskId": task.task_id, "status": task.status, "progress": task.progress}
    return {"status": "SUCCESS", "message": "OK", "data": data, "success": True}


def _error(code: str, message: str) -> dict[str, Any]:
    return {"status": "ERROR", "message": message, "errorCode": code, "success": False}
