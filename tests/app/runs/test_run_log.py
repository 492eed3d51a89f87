"""What the log says of requests and runs (§8): one line each, with the run's identity and without content."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ToolError
from app.settings import Settings
from tests.harness.frames import check
from tests.harness.logged import Written, entries
from tests.harness.service import headers, running
from tests.harness.tools import NoteTool, calling, risky
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
NOTE = {"to": "비밀-수신자", "text": "비밀-내용"}
PROMPT = "비밀-질문을 보내 줘"
IDENTITY = ("sessionId", "traceId", "tenantId", "nodeId")


def lines_of(written: Written, session_id: str) -> list[dict[str, Any]]:
    return [line for line in entries(written, "") if line.get("sessionId") == session_id]


async def run_with_approval(
    settings: Settings, model: ScriptedModelServer, decide: Callable[[Any, Any], Any], *following: ScriptedTurn
) -> tuple[str, str]:
    """Run a prompt whose tool needs an approval; `decide` gets the service and the `hitl` frame."""
    model.play(calling(("send_note", NOTE)), *following)
    sent = headers(**{"X-Correlation-ID": "trace-of-the-run"})
    async with running(settings, tools=[NoteTool(), risky()]) as aura:
        async with aura.stream(PROMPT, headers=sent) as stream:
            hitl = await stream.until("hitl")
            await decide(aura, hitl)
            check(await stream.rest())
        session_id = str(stream.seen[0]["sessionId"])
        await eventually(lambda: not aura.service.stats().active_runs)
    return session_id, str(hitl["requestId"])


def check_identity(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        assert all(line.get(name) for name in IDENTITY), line
        assert (line["tenantId"], line["traceId"]) == ("tenant1", "trace-of-the-run"), line


async def test_every_step_of_an_approved_run_is_one_line(
    settings: MakeSettings, model: ScriptedModelServer, written: Written
) -> None:
    async def approve(aura: Any, hitl: Any) -> None:
        role = headers("boss", role="approver", **{"X-Correlation-ID": "another-trace"})
        assert (await aura.decide("approve", hitl["requestId"], as_=role)).status_code == 200

    session_id, request_id = await run_with_approval(settings(), model, approve, ScriptedTurn(text="보냈습니다."))
    lines = lines_of(written, session_id)
    check_identity(lines)
    assert [line["event"] for line in lines if line["level"] == "info"] == [
        "run.started",
        "HITL Interrupt",
        "approval.decided",
        "tool.started",
        "tool.ended",
        "run.ended",
    ]
    interrupt, decided, started, ended = [line for line in lines if line["level"] == "info"][1:5]
    assert (interrupt["requestId"], interrupt["tool"]) == (request_id, "send_note")
    assert isinstance(interrupt["deadline"], int)
    wanted = {"verdict": "approved", "userId": "boss", "role": "approver", "via": "http", "edited": False}
    assert {name: decided[name] for name in wanted} == wanted
    assert decided["requestId"] == request_id
    assert (started["tool"], ended["outcome"]) == ("send_note", "completed")
    saved = [line for line in lines if line["event"] == "checkpoint saved"]
    assert len(saved) >= 3
    assert {line["level"] for line in saved} == {"debug"}
    assert "비밀" not in written()


async def test_decision_through_redis_is_logged_with_the_way_it_came(
    settings: MakeSettings, model: ScriptedModelServer, written: Written, redis_client: redis.Redis
) -> None:
    async def publish(_: Any, hitl: Any) -> None:
        signal = {"type": "rejection", "requestId": hitl["requestId"], "status": "rejected", "reason": "비밀-이유"}
        channel = f"hitl:channel:{hitl['sessionId']}"
        redis_client.publish(channel, '{"type": "approval", "requestId": "req-other"')
        redis_client.publish(channel, json.dumps(signal))

    session_id, request_id = await run_with_approval(settings(), model, publish)
    lines = lines_of(written, session_id)
    check_identity(lines)
    (decided,) = [line for line in lines if line["event"] == "approval.decided"]
    assert (decided["requestId"], decided["verdict"], decided["via"]) == (request_id, "rejected", "redis")
    (ignored,) = entries(written, "signal.ignored")
    assert ignored["sessionId"] == session_id
    assert "비밀" not in written()


async def test_end_of_the_time_for_a_decision_is_logged(
    settings: MakeSettings, model: ScriptedModelServer, written: Written
) -> None:
    async def wait(_: Any, __: Any) -> None:
        await asyncio.sleep(0)

    session_id, request_id = await run_with_approval(settings(hitl_timeout_seconds=0.3), model, wait)
    lines = lines_of(written, session_id)
    check_identity(lines)
    (expired,) = [line for line in lines if line["event"] == "approval.expired"]
    assert (expired["requestId"], expired["tool"], expired["level"]) == (request_id, "send_note", "info")
    assert [line["state"] for line in lines if line["event"] == "run.ended"] == ["timed_out"]


async def test_failed_attempts_of_model_and_tool_are_warnings_with_their_cause(
    settings: MakeSettings, model: ScriptedModelServer, written: Written
) -> None:
    class FailingTool(NoteTool):
        async def run(self, arguments: Any, context: Any) -> Any:
            raise ToolError("the printer is out of paper")

    failed = ScriptedTurn(status=500, headers={"Retry-After": "0"})
    model.play(failed, calling(("write_note", NOTE)), ScriptedTurn(text="못 했습니다."))
    sent = headers(**{"X-Correlation-ID": "trace-of-the-run"})
    async with running(settings(), tools=[FailingTool()]) as aura, aura.stream(PROMPT, headers=sent) as stream:
        await stream.rest()
        session_id = str(stream.seen[0]["sessionId"])
        await eventually(lambda: not aura.service.stats().active_runs)
    lines = lines_of(written, session_id)
    check_identity(lines)
    warnings = [line for line in lines if line["level"] == "warning"]
    assert [line["event"].split()[0] for line in warnings] == ["model.failed", "tool"]
    assert warnings[0]["cause"]
    assert "out of paper" in warnings[1]["event"]
    (ended,) = [line for line in lines if line["event"] == "tool.ended"]
    assert ended["outcome"] == "failed"


@pytest.mark.parametrize(
    ("path", "sent", "expected"),
    [
        ("/aura/runs", {}, {"status": 401, "code": "E2000", "route": "/aura/runs"}),
        (
            "/aura/runs",
            {**headers(), "X-Tenant-ID": "tenant2"},
            {"status": 403, "code": "E2001", "route": "/aura/runs", "tenantId": "tenant1", "userId": "user1"},
        ),
        (
            "/aura/approvals/req-0123456789ab",
            headers(),
            {"status": 404, "route": "/aura/approvals/<request_id>", "tenantId": "tenant1", "userId": "user1"},
        ),
        ("/nowhere/secret", headers(), {"status": 404, "code": "E1004"}),
    ],
)
async def test_refused_request_is_one_line_without_what_was_sent(
    path: str, sent: dict[str, str], expected: dict[str, Any], settings: MakeSettings, written: Written
) -> None:
    async with running(settings()) as aura:
        answer = await aura.client.get(path, headers=sent)
        assert answer.status_code == expected["status"]
    (line,) = entries(written, "request.refused")
    assert line["level"] == "info"
    assert {name: line.get(name) for name in expected} == expected
    assert line["traceId"] == answer.headers["X-Correlation-ID"]
    assert "userId" in line or "userId" not in expected
    assert "secret" not in json.dumps(line)


async def test_success_is_not_logged_as_a_refusal(settings: MakeSettings, written: Written) -> None:
    async with running(settings()) as aura:
        assert (await aura.client.get("/aura/runs", headers=headers())).status_code == 200
    assert entries(written, "request.refused") == []
