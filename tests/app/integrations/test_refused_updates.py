"""The deployed Main Service refuses what it does not know (§6): no refusal keeps a task from its end or others from
theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.dev.demo.http import HttpServer, Request, Response
from app.dev.demo.main_service import MainServiceStandIn, is_ended
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.scenarios import Scenario
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.integrations.agent_task import CompleteTask, CreateTask, ReportProgress, StartTask
from app.integrations.main_service import Caller, MainService, RequestFailed, RequestRejected, TokenRejected
from app.settings import Settings
from tests.harness.frames import check
from tests.harness.service import Aura, running
from tests.harness.waiting import eventually
from tests.statemachine.runs import request

MakeSettings = Callable[..., Settings]
CALLER = Caller("the-token", 2e9)
REPORT = ReportProgress(50, "읽기", '[{"id":"read"}]')
PLAN = {"steps": [{"id": "read", "title": "읽기", "status": "in_progress"}]}
WITH_A_PLAN = Scenario(
    description="",
    match=["계획"],
    turns=[
        ScriptedTurn(tool_calls=[ScriptedCall(name="update_plan", arguments=PLAN)]),
        ScriptedTurn(text="다 했습니다."),
    ],
)
PLAIN = Scenario(description="", match=["안녕"], turns=[ScriptedTurn(text="안녕하세요.")])
WITH_AN_ERROR = Scenario(
    description="",
    match=["실패"],
    turns=[ScriptedTurn(tool_calls=[ScriptedCall(name="update_plan", arguments=PLAN)]), ScriptedTurn(status=400)],
)


class Refusing(HttpServer):
    """Answers an update with `planSteps` with `with_plan`, and every other request with `without_plan`."""

    def __init__(self, with_plan: int, without_plan: int) -> None:
        super().__init__(self._answer)
        self.with_plan, self.without_plan = with_plan, without_plan
        self.bodies: list[Any] = []

    async def _answer(self, request: Request, answer: Response) -> None:
        body = request.json()
        self.bodies.append(body)
        await answer.json(self.with_plan if "planSteps" in body else self.without_plan, {})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("status", [400, 422, 500])
async def test_refused_plan_is_left_out_for_an_hour(status: int) -> None:
    clock = Clock()
    with_plan, without_plan = REPORT.body, REPORT.body_without_plan
    with capture_logs() as logged:
        async with Refusing(status, 200) as server:
            service = MainService(server.origin, timeout_seconds=5, now=clock)
            for _ in range(3):
                await service.send(REPORT, "t", request(), CALLER)
            assert server.bodies == [with_plan, *[without_plan] * 3]
            clock.now += 3600
            server.with_plan = 200
            await service.send(REPORT, "t", request(), CALLER)
            await service.close()
    assert server.bodies[4:] == [with_plan]
    (line,) = logged
    assert (line["event"], line["log_level"]) == ("main_service.plan_refused", "info")
    assert line["cause"] == f"HTTP {status}"


@pytest.mark.parametrize(("status", "error"), [(404, RequestRejected), (500, RequestFailed), (409, RequestRejected)])
async def test_update_that_is_refused_without_its_plan_too_says_nothing_of_the_plan(
    status: int, error: type[Exception]
) -> None:
    with capture_logs() as logged:
        async with Refusing(status, status) as server:
            service = MainService(server.origin, timeout_seconds=5)
            for _ in range(2):
                with pytest.raises(error):
                    await service.send(REPORT, "t", request(), CALLER)
            await service.close()
    assert server.bodies == [REPORT.body, REPORT.body_without_plan] * 2
    assert logged == []


async def test_refused_token_is_no_refusal_of_the_plan() -> None:
    async with Refusing(401, 200) as server:
        service = MainService(server.origin, timeout_seconds=5)
        with pytest.raises(TokenRejected):
            await service.send(REPORT, "t", request(), CALLER)
        assert await service.send(CompleteTask({"answer": "가"}), "t", request(), CALLER) is None
        await service.close()
    assert server.bodies == [REPORT.body, {"answer": "가"}]


# --- with runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def main() -> AsyncIterator[MainServiceStandIn]:
    async with MainServiceStandIn() as server:
        yield server


@pytest.fixture
def made(settings: MakeSettings, main: MainServiceStandIn, model: ScriptedModelServer) -> Callable[[], Settings]:
    model.add(WITH_A_PLAN, WITH_AN_ERROR, PLAIN)
    return lambda: settings(main_service_url=main.url)


async def run(aura: Aura, prompt: str) -> None:
    async with aura.stream(prompt) as stream:
        check(await stream.rest())


def has_ended(main: MainServiceStandIn, count: int) -> bool:
    return sum(map(is_ended, main.tasks.values())) == count


def verbs(main: MainServiceStandIn) -> list[str]:
    return [request.path.rpartition("/")[2] for request in main.requests]


def statuses(main: MainServiceStandIn) -> list[str]:
    return sorted(task.status for task in main.tasks.values())


async def test_task_of_a_run_with_a_plan_ends_in_the_deployed_service(
    made: Callable[[], Settings], main: MainServiceStandIn
) -> None:
    with capture_logs() as logged:
        async with running(made()) as aura:
            for number, prompt in enumerate(["계획", "계획", "실패"], start=1):
                await run(aura, prompt)
                await eventually(partial(has_ended, main, number))
    assert statuses(main) == ["COMPLETED", "COMPLETED", "FAILED"]
    assert [task.description for task in main.tasks.values()][:2] == ["완료", "완료"]
    refused = [it for it in main.requests if it.path.endswith("/progress") and "planSteps" in it.json()]
    assert len(refused) == 1
    assert [line["event"] for line in logged].count("main_service.plan_refused") == 1


@pytest.mark.slow
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 500, 501])
async def test_end_is_sent_whatever_the_answers_to_progress_are(
    status: int, made: Callable[[], Settings], main: MainServiceStandIn
) -> None:
    main.statuses["progress"] = status
    async with running(made()) as aura:
        await asyncio.gather(run(aura, "계획"), run(aura, "실패"))
        await eventually(lambda: statuses(main) == ["COMPLETED", "FAILED"])
    assert verbs(main).count("progress") <= 24  # 2 runs, at most 2 reports of each, 3 attempts, with and without a plan


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_end_is_sent_when_only_progress_is_never_available(
    status: int, made: Callable[[], Settings], main: MainServiceStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.integrations.task_reporter.MAX_BACKOFF_SECONDS", 0.02)
    main.statuses["progress"] = status
    async with running(made()) as aura:
        await run(aura, "계획")
        await eventually(lambda: statuses(main) == ["COMPLETED"])
    assert verbs(main).count("progress") >= 20


@pytest.mark.slow
async def test_refused_start_does_not_keep_a_task_from_its_end(
    made: Callable[[], Settings], main: MainServiceStandIn
) -> None:
    main.statuses["start"] = 500
    async with running(made()) as aura:
        await run(aura, "계획")
        await eventually(lambda: statuses(main) == ["COMPLETED"])
    assert verbs(main).count("start") == 3


@pytest.mark.parametrize("status", [500, 503])
async def test_one_tasks_refusals_hold_up_no_other_task(
    status: int, made: Callable[[], Settings], main: MainServiceStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The progress of one run is refused more often than the circuit breaker allows failures."""
    monkeypatch.setattr("app.integrations.task_reporter.MAX_BACKOFF_SECONDS", 0.02)
    monkeypatch.setattr("app.integrations.failed_attempts._MAX_UNAVAILABLE", 10**6)
    monkeypatch.setattr("app.integrations.failed_attempts._MAX_FAILED_OPTIONAL", 10**6)
    monkeypatch.setattr("app.integrations.task_reporter._MAX_BACKOFF_AFTER_ERROR_SECONDS", 0.02)
    main.statuses["progress"] = status
    with capture_logs() as logged:
        async with running(made()) as aura:
            await run(aura, "계획")
            await eventually(lambda: verbs(main).count("progress") >= 30)
            await asyncio.gather(*(run(aura, "안녕") for _ in range(3)))
            await eventually(lambda: statuses(main) == ["COMPLETED"] * 3 + ["IN_PROGRESS"])
            main.statuses.clear()
            await eventually(lambda: statuses(main) == ["COMPLETED"] * 4)
    assert "main_service.circuit_opened" not in [line["event"] for line in logged]


async def test_end_that_always_gets_an_error_is_given_up_with_a_warning(
    made: Callable[[], Settings], main: MainServiceStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.integrations.task_reporter._MAX_BACKOFF_AFTER_ERROR_SECONDS", 0.01)
    main.statuses["complete"] = 500
    with capture_logs() as logged:
        async with running(made()) as aura:
            await run(aura, "계획")
            await eventually(lambda: "task.abandoned" in [line["event"] for line in logged])
    assert verbs(main).count("complete") == 20
    assert statuses(main) == ["IN_PROGRESS"]


# --- the stand-in -----------------------------------------------------------------------------------------------------


async def test_unknown_fields_are_an_internal_error_of_the_deployed_service(main: MainServiceStandIn) -> None:
    service = MainService(main.url, timeout_seconds=5, now=lambda: -1.0)  # at this time the plan is left out
    body = {"taskType": "AURA_RUN", "userId": "kim", "tenantId": "7", "description": "", "inputData": "{}"}
    with pytest.raises(RequestFailed, match="HTTP 500"):
        await service.send(CreateTask({**body, "priority": 1}), None, request(), CALLER)
    with pytest.raises(RequestRejected, match="HTTP 400"):
        await service.send(CreateTask({**body, "userId": " "}), None, request(), CALLER)
    task_id = await service.send(CreateTask(body), None, request(), CALLER)
    await service.send(StartTask(), task_id, request(), CALLER)
    with pytest.raises(RequestRejected, match="HTTP 400"):
        await service.send(ReportProgress(101, "", "[]"), task_id, request(), CALLER)
    await service.close()
    sent = [it.json() for it in main.requests if it.path.endswith("/progress")]
    assert sent == [{"progress": 101, "description": ""}]
