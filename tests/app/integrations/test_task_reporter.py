"""Each run is a task in the Main Service (§6). Failures of the Main Service do not affect runs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from itertools import groupby
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from app.clock import SystemClock
from app.dev.demo.main_service import AgentTask, MainServiceStandIn, is_ended
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.scenarios import Scenario
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.redis.checkpoints import Checkpoints
from app.redis.tasks import RedisTaskOutbox
from app.redis.wire.connection import Connection
from app.settings import Settings
from app.testing.clock import ClockAhead
from app.web.auth import issue_token
from tests.harness.frames import Frame, check, types
from tests.harness.service import NO_LIMITS, SECRET, Aura, headers, running
from tests.harness.stored import sealed, seals
from tests.harness.tools import NoteTool, calling, risky
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
NOTE = {"to": "김", "text": "안녕하세요"}
PLAN = {
    "steps": [
        {"id": "read", "title": "읽기", "status": "in_progress", "confidence": 0.9},
        {"id": "write", "title": "쓰기", "status": "pending"},
    ]
}
WRITING = {
    "steps": [
        {"id": "read", "title": "읽기", "status": "completed"},
        {"id": "write", "title": "쓰기", "status": "in_progress"},
    ]
}


def scenario(match: str, *turns: ScriptedTurn) -> Scenario:
    return Scenario(description="", match=[match], turns=list(turns))


def plan_turn(plan: dict[str, Any], *calls: ScriptedCall) -> ScriptedTurn:
    return ScriptedTurn(tool_calls=[ScriptedCall(name="update_plan", arguments=plan), *calls])


SCENARIOS = (
    scenario(
        "계획",
        plan_turn(PLAN),
        plan_turn(WRITING, ScriptedCall(name="write_note", arguments=NOTE)),
        ScriptedTurn(text="다 했습니다."),
    ),
    scenario("보내", calling(("send_note", NOTE)), ScriptedTurn(text="보냈습니다.")),
    scenario("실패", ScriptedTurn(status=400)),
    scenario(".", ScriptedTurn(text="안녕하세요.")),
)
KINDS = ("인사", "계획", "보내 승인", "보내 거절", "실패")


@pytest.fixture
async def main() -> AsyncIterator[MainServiceStandIn]:
    async with MainServiceStandIn(accepts_plan=True) as server:
        yield server


@pytest.fixture
def made(settings: MakeSettings, main: MainServiceStandIn, model: ScriptedModelServer) -> Callable[..., Settings]:
    model.add(*SCENARIOS)
    return lambda **more: settings(main_service_url=main.url, **more)


def tools() -> list[Any]:
    return [NoteTool(), risky()]


async def run_prompt(aura: Aura, prompt: str, sent: dict[str, str] | None = None) -> list[Frame]:
    """Run a prompt to its end. The prompt determines how an approval is decided."""
    async with aura.stream(prompt, headers=sent or headers()) as stream:
        while not stream.seen or not stream.seen[-1].is_done:
            frame = await stream.next()
            if frame.type == "hitl":
                verdict = "approve" if "승인" in prompt else "reject"
                assert (await aura.decide(verdict, frame["requestId"], as_=sent)).status_code == 200
    check(stream.seen)
    return stream.seen


def ended(main: MainServiceStandIn, count: int) -> bool:
    return sum(map(is_ended, main.tasks.values())) == count


def steps(task: AgentTask) -> list[tuple[str, str]]:
    return [(step["title"], step["status"]) for step in task.plan]


def check_task(task: AgentTask, prompt: str) -> None:
    sent = "제목 send_note"
    expected: dict[str, tuple[str, list[tuple[str, str]]]] = {
        "인사": ("COMPLETED", []),
        "계획": ("COMPLETED", [("읽기", "completed"), ("쓰기", "completed")]),
        "보내 승인": ("COMPLETED", [(sent, "completed")]),
        "보내 거절": ("FAILED", [(sent, "pending")]),
        "실패": ("FAILED", []),
    }
    assert (task.status, steps(task)) == expected[prompt]
    if task.status == "COMPLETED":
        assert task.result["answer"]
        assert task.progress == 100
    else:
        assert str(task.error_message).startswith("RejectionError" if "거절" in prompt else "ModelError")


@pytest.mark.slow
async def test_two_hundred_runs_while_half_of_all_requests_fail(
    made: MakeSettings, main: MainServiceStandIn, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some requests fail ten times in a row.
    for name in ("task_reporter.MAX_BACKOFF_SECONDS", "circuit_breaker.MAX_OPEN_SECONDS"):
        monkeypatch.setattr(f"app.integrations.{name}", 0.2)
    main.failure_rate = 0.5
    prompts: dict[str, str] = {}
    gate = asyncio.Semaphore(20)

    async def run(aura: Aura, prompt: str) -> None:
        async with gate:
            frames = await run_prompt(aura, prompt)
        assert frames[0].type == "start"
        prompts[str(frames[0]["sessionId"])] = prompt

    async with running(
        made(aura_lease_seconds=60, **NO_LIMITS), tools=tools()
    ) as aura:  # a slow machine keeps its lease
        await asyncio.gather(*(run(aura, KINDS[number % len(KINDS)]) for number in range(200)))
        await eventually(lambda: ended(main, 200), 120)
        await eventually(lambda: redis_client.zcard("aura:tasks") == 0)
    assert len(main.tasks) == 200
    assert {task.session_id for task in main.tasks.values()} == set(prompts)
    for task in main.tasks.values():
        check_task(task, prompts[task.session_id])
    assert redis_client.keys("aura:*ticket*") == []


async def test_headers_of_the_caller_are_forwarded(made: MakeSettings, main: MainServiceStandIn) -> None:
    sent = headers("kim", "7", **{"X-Correlation-ID": "corr-1"})
    async with running(made(), tools=tools()) as aura:
        session_id = (await run_prompt(aura, "인사", sent))[0]["sessionId"]
        await eventually(lambda: ended(main, 1))
        shown = (await aura.client.get(f"/aura/runs/{session_id}", headers=sent)).json()["data"]
        assert shown["taskId"] == "task-1"
    (task,) = main.tasks.values()
    assert (task.request_body["userId"], task.request_body["tenantId"], task.session_id) == ("kim", "7", session_id)
    assert [request.path.rpartition("/")[2] for request in main.requests] == ["tasks", "start", "complete"]
    for request in main.requests:
        assert request.headers["authorization"] == sent["Authorization"]
        assert request.headers["x-correlation-id"] == "corr-1"


def type_sequence(frames: list[Frame]) -> list[str]:
    """Return the types of the frames without repetitions: the number of pieces of an answer depends on timing."""
    return [type for type, _ in groupby(types(frames))]


async def test_hanging_main_service_does_not_affect_runs(
    made: MakeSettings, main: MainServiceStandIn, redis_client: redis.Redis
) -> None:
    """The Main Service sends no response, and every run ends as it does without a Main Service."""
    main.unblocked.clear()
    async with running(made(), tools=tools()) as aura:
        runs = await asyncio.gather(*(run_prompt(aura, kind) for kind in KINDS * 2))
        assert main.requests != []
        assert main.tasks == {}
        async with running(made().model_copy(update={"main_service_url": None}), tools=tools()) as without:
            for frames, kind in zip(runs, KINDS, strict=False):
                assert type_sequence(frames) == type_sequence(await run_prompt(without, kind))
        assert len(redis_client.keys("aura:*ticket*")) == len(runs)
        main.unblocked.set()
        await eventually(lambda: ended(main, len(runs)))


async def test_approval_request_opened_before_its_task_is_linked_later(
    made: MakeSettings, main: MainServiceStandIn, redis_client: redis.Redis
) -> None:
    main.unblocked.clear()

    def stored(request_id: str) -> dict[str, Any]:
        return dict(json.loads(str(redis_client.get(f"hitl:request:{request_id}"))))

    async with running(made(), tools=tools()) as aura, aura.stream("보내 승인") as stream:
        hitl = await stream.until("hitl")
        before = stored(hitl["requestId"])
        assert "taskId" not in before
        main.unblocked.set()
        await eventually(lambda: "taskId" in stored(hitl["requestId"]))
        assert stored(hitl["requestId"]) == before | {"taskId": "task-1"}
        assert redis_client.get("hitl:task:task-1") == hitl["requestId"]
        assert 3500 < redis_client.ttl("hitl:task:task-1") <= 3600
        assert 1700 < redis_client.ttl(f"hitl:request:{hitl['requestId']}") <= 1800
        assert (await aura.decide("approve", hitl["requestId"])).status_code == 200
        check(await stream.rest())
        await eventually(lambda: ended(main, 1))
    check_task(main.tasks["task-1"], "보내 승인")


async def test_approval_request_has_the_task_id_if_it_is_known(
    made: MakeSettings, main: MainServiceStandIn, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(calling(("send_note", NOTE)).model_copy(update={"hang_after": 0}), ScriptedTurn(text="보냈습니다."))
    async with running(made(), tools=tools()) as aura, aura.stream("보내 승인") as stream:
        session_id = str((await stream.next())["sessionId"])
        task_reporter = aura.service.task_reporter
        assert task_reporter is not None
        await eventually(lambda: task_reporter.task_id(session_id) == "task-1")
        model.release()
        hitl = await stream.until("hitl")
        assert json.loads(str(redis_client.get(f"hitl:request:{hitl['requestId']}")))["taskId"] == "task-1"
        assert redis_client.get("hitl:task:task-1") == hitl["requestId"]
        await aura.decide("approve", hitl["requestId"])
        await stream.rest()


async def test_linking_does_not_change_a_decision(redis_client: redis.Redis, redis_server: Any) -> None:
    connection = Connection(redis_server.url, timeout_seconds=3)
    outbox = RedisTaskOutbox(
        connection, Checkpoints(connection, seals().checkpoints, SystemClock(), [], retention_seconds=60)
    )
    decided = '{"requestId": "req-1", "status": "approved", "approvedBy": "boss"}'
    redis_client.set("hitl:request:req-1", decided, ex=60)
    redis_client.set("hitl:request:req-2", "not json", ex=60)
    redis_client.lpush("hitl:request:req-4", "another type")
    redis_client.set("hitl:request:req-5", '{"status": "pending", "text": "\\ud800"}', ex=60)
    for request_id in ("req-1", "req-2", "req-3", "req-4", "req-5"):
        await outbox.link_request("task-1", request_id)
    assert redis_client.get("hitl:request:req-1") == decided
    assert redis_client.get("hitl:request:req-2") == "not json"
    assert redis_client.get("hitl:request:req-3") is None
    assert json.loads(str(redis_client.get("hitl:request:req-5")))["taskId"] == "task-1"
    await connection.close()


@pytest.mark.slow
async def test_undelivered_task_is_reported_after_a_restart(
    made: MakeSettings, main: MainServiceStandIn, redis_client: redis.Redis
) -> None:
    main.failure_rate = 1.0
    async with running(made(aura_lease_seconds=2), tools=tools()) as aura:
        await run_prompt(aura, "계획")
        await eventually(lambda: len(main.requests) > 1)
    main.failure_rate = 0.0
    async with running(made(aura_lease_seconds=2), tools=tools()) as aura:
        await eventually(lambda: ended(main, 1))
        await eventually(lambda: redis_client.zcard("aura:tasks") == 0)
    (task,) = main.tasks.values()
    check_task(task, "계획")


@pytest.mark.slow
async def test_deleted_run_is_removed_and_run_of_a_newer_release_is_kept(
    made: MakeSettings, main: MainServiceStandIn, redis_client: redis.Redis
) -> None:
    gone, newer = "session_user1_1700000000_aaaa", "session_user1_1700000000_bbbb"
    redis_client.zadd("aura:tasks", {gone: 0, newer: 0})
    redis_client.hset(f"aura:{{user1}}:run:{newer}", "final", 1)
    redis_client.set(f"checkpoint:{{user1}}:{newer}", sealed({"schema_version": 99}))
    redis_client.set(f"aura:{{user1}}:ticket:{newer}", "sealed")
    async with running(made(), tools=tools()):
        await eventually(lambda: redis_client.zrange("aura:tasks", 0, -1) == [newer])
        await eventually(lambda: float(redis_client.zscore("aura:tasks", newer) or 0) > 0)
    assert redis_client.get(f"aura:{{user1}}:ticket:{newer}") == "sealed"
    assert main.requests == []


async def test_rejected_token_causes_one_warning_and_one_request_per_run(
    made: MakeSettings, main: MainServiceStandIn
) -> None:
    main.rejects_tokens = True
    with capture_logs() as logged:
        async with running(made(), tools=tools()) as aura:
            await asyncio.gather(*(run_prompt(aura, kind) for kind in KINDS))
            await eventually(lambda: len(_abandoned(logged)) == len(KINDS))
    assert len(main.requests) == len(KINDS)
    assert {line["log_level"] for line in _abandoned(logged)} == {"warning"}
    assert "Bearer" not in json.dumps(logged, default=str)


async def test_expired_token_causes_one_warning(
    made: MakeSettings, main: MainServiceStandIn, redis_client: redis.Redis
) -> None:
    main.failure_rate, clock = 1.0, ClockAhead()
    with capture_logs() as logged:
        async with running(made(), tools=tools(), clock=clock) as aura:
            await run_prompt(aura, "인사")
            await eventually(lambda: len(main.requests) > 1)
            clock.ahead = 3600.0
            await eventually(lambda: _abandoned(logged))
    (line,) = _abandoned(logged)
    assert "expired" in line["cause"]
    assert redis_client.zcard("aura:tasks") == 0


async def test_token_is_stored_encrypted_and_expires_with_its_lifetime(
    made: MakeSettings, main: MainServiceStandIn, redis_client: redis.Redis
) -> None:
    main.unblocked.clear()
    token = issue_token(SECRET, user_id="user1", tenant_id="tenant1", role=None, now=time.time(), lifetime_seconds=600)
    async with running(made(), tools=tools()) as aura:
        await run_prompt(aura, "계획", headers() | {"Authorization": f"Bearer {token}"})
        (ticket,) = redis_client.keys("aura:*ticket*")
        assert 590 < redis_client.ttl(ticket) <= 600
        for key in redis_client.keys("*"):
            assert token.encode() not in (redis_client.dump(key) or b""), key
        main.unblocked.set()
        await eventually(lambda: ended(main, 1))
        await eventually(lambda: redis_client.keys("aura:*ticket*") == [])


async def test_without_a_main_service_nothing_is_stored_for_it(
    made: MakeSettings, main: MainServiceStandIn, redis_client: redis.Redis
) -> None:
    async with running(made().model_copy(update={"main_service_url": None}), tools=tools()) as aura:
        session_id = (await run_prompt(aura, "보내 승인"))[0]["sessionId"]
        shown = (await aura.client.get(f"/aura/runs/{session_id}", headers=headers())).json()["data"]
        assert shown["taskId"] is None
    assert main.requests == []
    assert redis_client.keys("aura:*ticket*") == redis_client.keys("aura:tasks") == redis_client.keys("hitl:task:*")


def _abandoned(logged: list[Any]) -> list[Any]:
    return [line for line in logged if line["event"] == "task.abandoned"]
