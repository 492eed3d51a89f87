"""A stand-in for the agent tasks of the Main Service (CONTRACT §6), which can fail as a real service does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from dataclasses import dataclass, field
from typing import Any

from app.dev.demo.http import Request, Response, StandIn

_PATH = re.compile(r"/main/agent/tasks(?:/(?P<task>[^/]+)/(?P<verb>start|progress|complete|fail))?")
_METHODS = {None: "POST", "start": "POST", "progress": "PATCH", "complete": "POST", "fail": "POST"}


@dataclass(slots=True)
class AgentTask:
    """A task of the Main Service; `status` is PENDING, RUNNING, COMPLETED or FAILED."""

    task_id: str
    request_body: dict[str, Any]
    status: str = "PENDING"
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

    `failure_rate` is the share of requests that fail (0–1): half of them before they are carried out, half after it,
    without a response. While `rejects_tokens` is set, every request is answered with 401.
    """

    def __init__(self, *, failure_rate: float = 0.0, seed: int = 0) -> None:
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
            return 400, _error("E1001", "not JSON")
        if found["task"] is None:
            return self._create_task(request, body)
        task = self.tasks.get(found["task"])
        if task is None:
            return 404, _error("E1004", "no such task")
        wanted = "PENDING" if found["verb"] == "start" else "RUNNING"
        if task.status != wanted:
            return 409, _error("E3001", f"the task is {task.status}")
        self._apply(task, found["verb"], request, body)
        return 200, _success(task)

    def _create_task(self, request: Request, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        missing = [name for name in ("taskType", "userId", "tenantId", "description", "inputData") if name not in body]
        if missing:
            return 400, _error("E4000", f"{missing[0]} is required")
        key = request.headers.get("idempotency-key", "")
        known = self._by_key.get(key)
        task = self.tasks[known] if known else AgentTask(f"task-{len(self.tasks) + 1}", body)
        self.tasks[task.task_id] = task
        if key:
            self._by_key[key] = task.task_id
        return 201, _success(task)

    def _apply(self, task: AgentTask, verb: str, request: Request, body: Any) -> None:
        match verb:
            case "start":
                task.status = "RUNNING"
            case "progress":
                task.progress, task.description = body["progress"], body["description"]
                task.plan = json.loads(body["planSteps"])
            case "complete":
                task.status, task.progress, task.result = "COMPLETED", 100, body
            case _:
                task.status, task.error_message = "FAILED", request.query.get("errorMessage")


def _success(task: AgentTask) -> dict[str, Any]:
    data = {"taskId": task.task_id, "status": task.status, "progress": task.progress}
    return {"status": "SUCCESS", "message": "OK", "data": data, "success": True}


def _error(code: str, message: str) -> dict[str, Any]:
    return {"status": "ERROR", "message": message, "errorCode": code, "success": False}
