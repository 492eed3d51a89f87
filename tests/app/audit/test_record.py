"""What the service records, and that a risky tool does not run without its entry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.redis import keys
from tests.app.audit.conftest import AuditCommand
from tests.harness.approvals import ARGUMENTS, FINAL_ANSWER, MakeSettings, StartWaitingRun
from tests.harness.audit import StoredRecord
from tests.harness.frames import types
from tests.harness.service import headers, running
from tests.harness.tools import NoteTool, calling
from tests.harness.waiting import eventually

APPROVED = ["policy", "request.opened", "decision", "decision.applied", "tool.started", "tool.ended"]


async def test_an_approved_call_leaves_its_entries_in_order(waiting_run: StartWaitingRun, record: StoredRecord) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        approver = headers("boss", role="approver", **{"X-DWP-Caller-Type": "USER", "X-Forwarded-For": "10.0.0.9"})
        assert (await run.aura.decide("approve", run.request_id, as_=approver)).status_code == 200
        await run.stream.rest()
    assert record.kinds() == APPROVED
    _, opened, decision, applied, started, ended = record.events()
    assert (opened["tool"], opened["user"], opened["request"]) == ("send_note", "user1", run.request_id)
    assert (decision["user"], decision["role"]) == ("boss", "approver")
    assert (decision["callerType"], decision["address"], decision["forwardedFor"]) == ("USER", "127.0.0.1", "10.0.0.9")
    assert decision["verdict"] == applied["verdict"] == "approved"
    assert decision["via"] == applied["via"] == "http"
    assert applied["user"] == started["decidedBy"] == "boss"
    assert ended["outcome"] == "completed"
    digests = {event["argumentsDigest"] for event in (opened, decision, applied, started)}
    assert len(digests) == 1
    raw = json.dumps(record.events(), ensure_ascii=False)
    assert not [text for text in map(str, ARGUMENTS.values()) if len(text) > 1 and text in raw], "it holds no content"


async def test_edited_arguments_are_recorded_by_their_digest(
    waiting_run: StartWaitingRun, record: StoredRecord
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        answer = await run.aura.decide("approve", run.request_id, params={**ARGUMENTS, "to": "박"})
        assert answer.status_code == 200
        await run.stream.rest()
    _, opened, decision, applied, started, _ = record.events()
    assert decision["edited"] is applied["edited"] is started["edited"] is True
    assert decision["argumentsDigest"] == applied["argumentsDigest"] == started["argumentsDigest"]
    assert opened["argumentsDigest"] != started["argumentsDigest"]


async def test_a_decision_through_redis_has_no_entry_of_an_authenticated_caller(
    waiting_run: StartWaitingRun, record: StoredRecord
) -> None:
    async with waiting_run() as run:
        run.publish_signal({"type": "rejection", "requestId": run.request_id, "rejectedBy": "ceo"})
        await run.stream.rest()
    assert record.kinds() == ["policy", "request.opened", "decision.applied"]
    applied = record.events()[-1]
    assert (applied["verdict"], applied["via"]) == ("rejected", "redis")


async def test_a_chat_without_tools_leaves_no_entry(
    settings: MakeSettings, model: ScriptedModelServer, record: StoredRecord
) -> None:
    model.play(ScriptedTurn(text="안녕하세요."))
    async with running(settings()) as aura:
        async with aura.stream("안녕하세요") as stream:
            await stream.rest()
    assert record.chain_names() == []
    assert record.kinds(tenant="") == ["policy"]


async def test_a_safe_tool_and_its_failure_are_recorded(
    settings: MakeSettings, model: ScriptedModelServer, record: StoredRecord
) -> None:
    async def fail(_: Any) -> None:
        raise RuntimeError

    model.play(calling(("write_note", {"to": "kim"})), ScriptedTurn(text="실패했습니다."))
    async with running(settings(), tools=[NoteTool(work=fail)]) as aura:
        async with aura.stream("메모") as stream:
            await stream.rest()
    assert record.kinds() == ["policy", "tool.started", "tool.ended"]
    assert record.events()[-1]["outcome"] == "failed"


async def test_a_refused_request_is_recorded_with_who_and_where(
    waiting_run: StartWaitingRun, record: StoredRecord
) -> None:
    async with waiting_run(ScriptedTurn(text="x")) as run:
        answer = await run.aura.decide("approve", run.request_id, as_=headers("mallory"))
        assert answer.status_code in (403, 404)
        await eventually(lambda: "refused" in record.kinds())
        await run.aura.decide("approve", run.request_id)
        await run.stream.rest()
    (refused,) = [event for event in record.events() if event["kind"] == "refused"]
    assert (refused["user"], refused["status"]) == ("mallory", answer.status_code)
    assert (refused["method"], refused["route"]) == ("POST", "/aura/hitl/approve/<request_id>")


async def test_many_refusals_of_one_user_leave_few_entries(settings: MakeSettings, record: StoredRecord) -> None:
    async with running(settings()) as aura:
        for _ in range(40):
            await aura.client.get("/aura/runs/none", headers=headers("mallory"))
    assert record.kinds().count("refused") == 20


async def test_failed_authentication_goes_to_its_own_bounded_record(
    settings: MakeSettings, record: StoredRecord
) -> None:
    secret_token = "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x"
    async with running(settings()) as aura:
        for _ in range(80):
            await aura.client.get("/aura/runs", headers={"Authorization": secret_token, "X-Tenant-ID": "tenant1"})
    stored = record.stored(keys.AUDIT_FAILURES)
    assert stored[0]["code"] == "E2003"
    assert stored[0]["address"] == "127.0.0.1"
    assert secret_token.split()[1] not in json.dumps(stored)
    assert record.chain_names() == [], "nothing of a token that is not valid is believed"
    counted = sum(event.get("count", 1) for event in stored)
    assert counted == 80


# --- a risky tool and its entry ---------------------------------------------------------------------------------------


@contextmanager
def refused_entries(redis_client: redis.Redis) -> Iterator[None]:
    """Redis refuses every entry of the record, and nothing else."""
    others = ("~hitl:*", "~checkpoint:*", "~aura:[^a]*")
    server: Any = redis_client
    server.execute_command("ACL", "SETUSER", "default", "resetkeys", *others)
    try:
        yield
    finally:
        server.execute_command("ACL", "SETUSER", "default", "allkeys")


async def test_a_risky_tool_does_not_run_while_its_entry_is_refused(
    waiting_run: StartWaitingRun, record: StoredRecord, redis_client: redis.Redis
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        await eventually(lambda: "request.opened" in record.kinds())
        with refused_entries(redis_client):
            assert (await run.aura.decide("approve", run.request_id)).status_code == 200
            await asyncio.sleep(0.7)
            assert run.tool.ran == []
        await run.stream.rest()
        assert len(run.tool.ran) == 1
    assert record.kinds() == APPROVED


async def test_a_run_can_be_cancelled_while_the_entry_of_its_tool_is_refused(
    waiting_run: StartWaitingRun, record: StoredRecord, redis_client: redis.Redis
) -> None:
    async with waiting_run() as run:
        await eventually(lambda: "request.opened" in record.kinds())
        with refused_entries(redis_client):
            await run.aura.decide("approve", run.request_id)
            await asyncio.sleep(0.3)
            await run.aura.client.post(f"/aura/runs/{run.session_id}/cancel", headers=headers())
            frames = await run.stream.rest()
            assert "end" in types(frames)
            assert run.tool.ran == []


@pytest.mark.parametrize("obstacle", ["a later entry", "another type"])
async def test_a_chain_that_somebody_blocks_is_continued_in_another_one(
    waiting_run: StartWaitingRun, record: StoredRecord, redis_client: redis.Redis, obstacle: str
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        await eventually(lambda: "request.opened" in record.kinds())
        if obstacle == "another type":
            key = record.key()
            redis_client.delete(key)
            redis_client.set(key, "x")
        else:
            redis_client.xadd(record.key(), {"b": "{}"}, id="99999999999999-1")
        await run.aura.decide("approve", run.request_id)
        await run.stream.rest()
        assert len(run.tool.ran) == 1
    second = next(name for name in record.chain_names() if name.endswith(".2"))
    stored = record.stored(keys.audit_chain("tenant1", second))
    assert [event["kind"] for event in stored][:2] == ["policy", "chain.continued"]
    assert [event["kind"] for event in stored][2:] == APPROVED[2:]
    assert stored[1]["sequence"] == 2


async def test_a_list_of_chains_of_another_type_blocks_no_tool_and_the_chain_is_continued(
    waiting_run: StartWaitingRun, record: StoredRecord, redis_client: redis.Redis, audit_command: AuditCommand
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        await eventually(lambda: "request.opened" in record.kinds())
        redis_client.set(keys.audit_chains("tenant1"), "not a sorted set")
        await run.aura.decide("approve", run.request_id)
        await run.stream.rest()
        assert len(run.tool.ran) == 1
    first, second = sorted(record.chain_names())
    assert second == f"{first}.2"
    stored = record.stored(keys.audit_chain("tenant1", second))
    assert [event["kind"] for event in stored] == ["policy", "chain.continued", *APPROVED[2:]]
    assert stored[1]["chain"] == first
    assert record.stored(keys.audit_chain("tenant1", first))[-1]["kind"] == "request.opened"
    result = await audit_command("verify")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("key", [keys.AUDIT_TENANTS, keys.AUDIT_FAILURES])
async def test_other_lists_of_another_type_block_no_tool_and_begin_anew(
    waiting_run: StartWaitingRun, record: StoredRecord, redis_client: redis.Redis, key: str
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        await eventually(lambda: "request.opened" in record.kinds())
        redis_client.set(key, "of another type")
        await run.aura.client.get("/aura/runs", headers={"Authorization": "Bearer x", "X-Tenant-ID": "tenant1"})
        await run.aura.decide("approve", run.request_id)
        await run.stream.rest()
        assert len(run.tool.ran) == 1
    assert record.kinds() == APPROVED
    assert redis_client.type(key) in ("zset", "stream")
