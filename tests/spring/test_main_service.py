"""A Main Service in Java decides approvals through the same Redis and keeps the tasks of runs (CONTRACT §5, §6)."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

import httpx2
import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.mail import MAIL, mail_settings, mail_turn
from tests.harness.frames import Frame, answer, check
from tests.harness.spring import TENANT, Browser, JavaProgram, numbered
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually
from tests.spring.conftest import Start

pytestmark = pytest.mark.slow

TASKS = "/main/agent/tasks"


@pytest.fixture(params=["refuses planSteps", "accepts planSteps"])
def main(request: pytest.FixtureRequest) -> JavaProgram:
    """Both kinds of Main Service."""
    name = "accepting_main" if request.param.startswith("accepts") else "java_main"
    program: JavaProgram = request.getfixturevalue(name)
    return program


def through(smtp: SmtpSink, main: JavaProgram) -> dict[str, Any]:
    """The settings of a run that sends mail and has a task."""
    return {**{name.lower(): value for name, value in mail_settings(smtp).items()}, "main_service_url": main.url}


async def tasks_of(main: JavaProgram, user: str, count: int = 1) -> list[dict[str, Any]]:
    """The tasks of a user in the Main Service, once this many have ended."""
    async with httpx2.AsyncClient(base_url=main.url) as client:
        async with asyncio.timeout(30):
            while True:
                got = await client.get(TASKS, params={"userId": user, "tenantId": TENANT}, headers=numbered(user))
                tasks: list[dict[str, Any]] = got.json()["data"]
                if sum(task["status"] in ("COMPLETED", "FAILED") for task in tasks) == count:
                    return tasks
                await asyncio.sleep(0.1)


async def send_mail(browser: Browser, user: str) -> list[Frame]:
    """Ask for a mail, approve it in the Main Service, and read to the end."""
    sent = numbered(user)
    async with browser.stream("메일을 보내 주세요", headers=sent) as stream:
        hitl = await stream.until("hitl")
        answered = await browser.decide("approve", hitl["requestId"], as_=sent)
        assert answered.status_code == 200
        assert answered.json()["message"] == "Request approved successfully"
        return await stream.rest()


def check_completed(task: dict[str, Any], main: JavaProgram, user: str) -> None:
    assert (task["status"], task["progress"]) == ("COMPLETED", 100), task
    assert (task["userId"], task["tenantId"]) == (user, TENANT)
    assert task["taskType"]
    assert json.loads(task["resultData"])
    assert task["description"]
    assert task["errorMessage"] is None
    created, started, completed, updated = (
        datetime.fromisoformat(task[name]) for name in ("createdAt", "startedAt", "completedAt", "updatedAt")
    )
    assert created <= started <= completed <= updated
    if task.get("planSteps"):  # the deployed service never has them
        assert [step["status"] for step in json.loads(task["planSteps"])] == ["completed"]


async def test_mail_is_approved_in_java_and_sent_and_its_task_is_completed_with_its_plan(
    start: Start, main: JavaProgram, model: ScriptedModelServer, request: pytest.FixtureRequest
) -> None:
    user = f"mail-{main.port}"
    model.play(mail_turn(), ScriptedTurn(text="보냈습니다."))
    async with SmtpSink() as smtp, start(**through(smtp, main)) as (_, browser):
        frames = await send_mail(browser, user)
        check(frames)
        assert answer(frames) == "보냈습니다."
        (mail,) = await smtp.wait_for_messages(1)
        assert (mail.subject, list(mail.recipients)) == (MAIL["subject"], MAIL["to"])
        (task,) = await tasks_of(main, user)
        check_completed(task, main, user)
        accepts = "accepts" in request.node.callspec.id
        assert bool(task.get("planSteps")) == accepts


async def test_fields_of_a_task_are_those_that_the_java_classes_know(
    start: Start, accepting_main: JavaProgram, model: ScriptedModelServer
) -> None:
    """`AgentTaskRequest`, `TaskProgressUpdate` and `AgentStep`; the Java program answers 500 to any other field."""
    user = f"fields-{accepting_main.port}"
    model.play(mail_turn(), ScriptedTurn(text="보냈습니다."))
    async with SmtpSink() as smtp, start(**through(smtp, accepting_main)) as (_, browser):
        await send_mail(browser, user)
        (task,) = await tasks_of(accepting_main, user)
        check_completed(task, accepting_main, user)
        async with httpx2.AsyncClient(base_url=accepting_main.url, headers=numbered(user)) as client:
            got = (await client.get(f"{TASKS}/{task['taskId']}/input")).json()["data"]
    assert task["taskType"] == "AURA_RUN"
    assert json.loads(got)["prompt"] == "메일을 보내 주세요"
    (step,) = json.loads(task["planSteps"])
    assert set(step) <= {"id", "title", "description", "status", "confidence", "result", "startedAt", "completedAt"}
    assert (step["status"], type(step["result"]), step["confidence"]) == ("completed", dict, 0.5)
    assert int(step["startedAt"]) <= int(step["completedAt"])


async def test_ten_mails_at_once_complete_their_tasks(
    start: Start, main: JavaProgram, model: ScriptedModelServer
) -> None:
    """Refused progress of one task holds up no other task (§6)."""
    user = f"ten-{main.port}"
    async with SmtpSink() as smtp, start(**through(smtp, main)) as (_, browser):

        async def ask(number: int) -> Frame:
            async with browser.stream(f"메일 {number}", headers=numbered(user)) as stream:
                return await stream.until("hitl")

        model.play(*[mail_turn()] * 10)
        asked = await asyncio.gather(*map(ask, range(10)))
        model.play(*[ScriptedTurn(text="보냈습니다.")] * 10)
        for hitl in asked:
            answered = await browser.decide("approve", hitl["requestId"], as_=numbered(user))
            assert answered.status_code == 200
        assert len(await smtp.wait_for_messages(10)) == 10
        for task in await tasks_of(main, user, 10):
            check_completed(task, main, user)


async def test_second_decision_in_java_changes_nothing(start: Start, model: ScriptedModelServer) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), ScriptedTurn(text="보냈습니다."))
    async with start(tools=[tool]) as (_, browser):
        async with browser.stream("메모") as stream:
            hitl = await stream.until("hitl")
            first = await browser.decide("approve", hitl["requestId"])
            again = await browser.decide("reject", hitl["requestId"], reason="늦게")
            assert (first.status_code, again.status_code) == (200, 409)
            assert again.json()["message"] == "Request was already processed (idempotent)"
            assert again.json()["data"]["status"] == "approved"
            check(await stream.rest())
        assert len(tool.ran) == 1
        signal = (await browser.client.get(f"/aura/hitl/signals/{hitl['sessionId']}", headers=numbered())).json()
        assert json.loads(signal["data"])["status"] == "approved"


async def test_rejection_in_java_ends_the_run_with_its_reason_and_fails_the_task(
    start: Start, java_main: JavaProgram, model: ScriptedModelServer
) -> None:
    user = f"reject-{java_main.port}"
    model.play(mail_turn())
    async with SmtpSink() as smtp, start(**through(smtp, java_main)) as (_, browser):
        async with browser.stream("메일", headers=numbered(user)) as stream:
            hitl = await stream.until("hitl")
            answered = await browser.decide("reject", hitl["requestId"], as_=numbered(user), reason="받는 사람이 틀림")
            assert answered.json()["message"] == "Request rejected"
            frames = await stream.rest()
        check(frames)
        assert (frames[-3]["errorType"], frames[-2]["status"]) == ("RejectionError", "rejected")
        assert "받는 사람이 틀림" in frames[-3]["message"]
        (task,) = await tasks_of(java_main, user)
        assert task["status"] == "FAILED"
        assert task["errorMessage"]
        assert smtp.messages == []


async def test_approval_in_java_after_the_deadline_runs_nothing(
    start: Start, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    """The Main Service writes `approved` over `expired` (§5)."""
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})))
    async with start(tools=[tool], hitl_timeout_seconds=1) as (_, browser):
        async with browser.stream("메모") as stream:
            frames = await stream.rest()
        assert frames[-2]["status"] == "timed_out"
        (hitl,) = (frame for frame in frames if frame.type == "hitl")
        assert (await browser.decide("approve", hitl["requestId"])).status_code == 200
        key = f"hitl:request:{hitl['requestId']}"
        assert json.loads(str(redis_client.get(key)))["status"] == "approved"
        assert 1700 < redis_client.ttl(key) <= 1800
        run = (await browser.client.get(f"/aura/runs/{hitl['sessionId']}", headers=numbered())).json()["data"]
        assert run["state"] == "timed_out"
        assert tool.ran == []


async def test_sender_with_the_default_serializer_gives_a_hint_and_decides_nothing(
    start: Start, model: ScriptedModelServer
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), ScriptedTurn(text="보냈습니다."))
    async with start(tools=[tool]) as (aura, browser):
        async with browser.stream("메모") as stream:
            hitl = await stream.until("hitl")
            signal = json.dumps({"type": "approval", "requestId": hitl["requestId"], "status": "approved"})
            path = f"/aura/hitl/default-serializer/{hitl['sessionId']}"
            sent = {**numbered(), "Content-Type": "text/plain"}
            assert (await browser.client.post(path, content=signal, headers=sent)).status_code == 200
            (hint, *_) = await eventually(lambda: aura.service.stores.decisions.sender_hints)
            assert "StringRedisTemplate" in hint
            assert tool.ran == []
            assert (await browser.decide("approve", hitl["requestId"])).status_code == 200
            check(await stream.rest())


async def test_java_refuses_what_its_classes_do_not_know(java_main: JavaProgram, accepting_main: JavaProgram) -> None:
    """The bench itself: without these answers the tests of tasks would show nothing."""
    task = {"taskType": "T", "userId": "dto", "tenantId": TENANT, "description": "", "inputData": "{}"}
    progress = {"progress": 10, "description": "하나", "planSteps": "[]"}
    for main, status in ((java_main, 500), (accepting_main, 200)):
        async with httpx2.AsyncClient(base_url=main.url, headers=numbered("dto")) as client:
            created = await client.post(TASKS, json=task)
            assert created.status_code == 201
            path = f"{TASKS}/{created.json()['data']['taskId']}"
            refused = await client.post(TASKS, json={**task, "other": 1})
            assert (refused.status_code, refused.json()["errorCode"]) == (500, "E1000")
            assert (await client.post(TASKS, json={**task, "taskType": " "})).status_code == 400
            assert (await client.patch(f"{path}/progress", json=progress)).status_code == status
            del progress["planSteps"]
            assert (await client.patch(f"{path}/progress", json=progress)).status_code == 200
            got = (await client.get(path)).json()
            assert (got["data"]["progress"], got["data"]["description"]) == (10, "하나")
            assert got["message"] == "요청이 성공적으로 처리되었습니다."
            progress["planSteps"] = "[]"
