"""What belongs to another tenant does not exist (§1.4): every path answers as it does for an id that nobody has."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.approvals import FINAL_ANSWER, StartWaitingRun
from tests.harness.raw import MakeSettings, read_stream
from tests.harness.service import headers, running

FOREIGN = [headers("user1", "tenant2"), headers("boss", "tenant2", role="admin")]
"""The same user id in another tenant, and a role that decides everything there."""

PATHS = [
    ("GET", "/aura/runs/{session}"),
    ("GET", "/aura/runs/{session}/timeline"),
    ("GET", "/aura/runs/{session}/timeline?format=trace"),
    ("POST", "/aura/runs/{session}/cancel"),
    ("DELETE", "/aura/runs/{session}"),
    ("GET", "/aura/fsm/diagram?sessionId={session}"),
    ("GET", "/aura/fsm/diagram?sessionId={session}&format=json"),
    ("GET", "/aura/test/stream?sessionId={session}"),
    ("GET", "/aura/hitl/requests/{request}"),
    ("POST", "/aura/hitl/approve/{request}"),
    ("POST", "/aura/hitl/reject/{request}"),
    ("GET", "/aura/hitl/signals/{session}"),
]


def comparable(response: Any, *ids: str) -> tuple[int, dict[str, Any]]:
    """Return status and body without what differs between any two requests: the id itself, time and trace id."""
    text = response.text
    for id in ids:
        text = text.replace(id, "ID")
    body = json.loads(text)
    message = str(body.get("message", "")).partition(" (trace id:")[0]
    return response.status_code, {**body, "timestamp": "", "traceId": "", "message": message}


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_another_tenants_thing_answers_like_one_that_does_not_exist(
    waiting_run: StartWaitingRun, method: str, path: str
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        real = {"session": run.session_id, "request": run.request_id}
        unknown = {"session": "session_user1_1700000000_ffff", "request": "req-ffffffffffff"}
        for other in FOREIGN:
            sent = {**other, "Accept": "application/json"}
            found, missing = [
                comparable(await run.aura.client.request(method, path.format(**ids), headers=sent), *ids.values())
                for ids in (real, unknown)
            ]
            assert found == missing
            if "signals" in path:
                assert (found[0], "data" in found[1]) == (200, False)
            else:
                assert (found[0], found[1]["errorCode"]) == (404, "E1004")
        assert run.stored_request()["status"] == "pending"
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()


async def test_another_tenants_session_resumes_as_an_expired_one(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="비밀"))
    async with running(settings()) as aura:
        _, frames = await read_stream(aura, "질문")
        for sent in FOREIGN:
            for where in ({"params": {"sessionId": frames[0]["sessionId"]}}, {}):
                more = {"Last-Event-ID": str(frames[1].id), "X-Session-ID": frames[0]["sessionId"]}
                stream, rejected = await read_stream(aura, "질문", headers={**sent, **more}, **where)
                assert stream.response.status_code == 200
                assert (rejected[0]["errorType"], rejected[0]["errorCode"]) == ("ResumeExpired", "E1004")
                assert "비밀" not in str(rejected)


async def test_another_tenants_idempotency_key_and_thread_are_not_found(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="첫째"), ScriptedTurn(text="둘째"))
    key = {"Idempotency-Key": "key-1"}
    async with running(settings()) as aura:
        body = {"prompt": "내 비밀 번호는 4711", "thread_id": "t-1"}
        _, first = await read_stream(aura, body=body, headers=headers(**key))
        other = {"prompt": "무엇을 아니?", "thread_id": "t-1"}
        _, second = await read_stream(aura, body=other, headers={**FOREIGN[0], **key})
    assert first[0]["sessionId"] != second[0]["sessionId"]
    assert "4711" not in json.dumps(model.requests[1], ensure_ascii=False)


async def test_a_session_that_another_service_wrote_over_keeps_its_owner(
    waiting_run: StartWaitingRun, redis_client: redis.Redis
) -> None:
    """Java writes a bare request id; and a program that writes another tenant there learns nothing."""
    async with waiting_run(FINAL_ANSWER) as run:
        await run.aura.decide("approve", run.request_id)
        key, path = f"hitl:session:{run.session_id}", f"/aura/hitl/signals/{run.session_id}"
        for written in (run.request_id, json.dumps({"tenantId": "tenant2", "userId": "user1"})):
            redis_client.set(key, written)
            assert "data" not in (await run.aura.client.get(path, headers=FOREIGN[0])).json()
            assert "data" in (await run.aura.client.get(path, headers=headers())).json()
        await run.expect_completed()
