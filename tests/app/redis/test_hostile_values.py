"""Values of others in Redis that are no sensible ones: none stops a run from being decided, expiring or cancelled."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.redis import keys
from tests.harness.approvals import FINAL_ANSWER, MakeSettings, StartWaitingRun, WaitingRun
from tests.harness.frames import check
from tests.harness.service import headers, running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

HOSTILE: dict[str, Any] = {
    "a number of 400 digits": '{"expiresAtMillis": ' + "9" * 400 + "}",
    "a number of 5000 digits": '{"timestamp": ' + "9" * 5000 + "}",
    "infinity": '{"expiresAt": Infinity, "approvedAt": 1e999}',
    "half a character": '{"status": "pending", "text": "\\ud83d"}',
    "deep nesting": "[" * 200_000,
    "deep objects": '{"a":' * 900 + "1" + "}" * 900,
    "a huge text": json.dumps({"reason": "x" * 2_000_000}),
    "wrong types": '{"requestId": [], "status": {}, "expiresAt": "x", "context": 5, "tenantId": null}',
    "another encoding": '{"status": "approved"}'.encode("utf-16"),
    "no text": b"\xff\xfe\x00",
    "a list": ["another type"],
}


def put(client: redis.Redis, key: str, how: str) -> None:
    client.delete(key)
    if isinstance(HOSTILE[how], list):
        client.rpush(key, *HOSTILE[how])
    else:
        client.set(key, HOSTILE[how], ex=1800)


def put_everywhere(run: WaitingRun, how: str) -> None:
    for key in (f"hitl:request:{run.request_id}", f"hitl:session:{run.session_id}", f"hitl:signal:{run.session_id}"):
        put(run.redis, key, how)
    if not isinstance(HOSTILE[how], list):
        run.publish_signal(HOSTILE[how])


@pytest.mark.parametrize("how", HOSTILE)
async def test_a_run_expires_whatever_others_write(waiting_run: StartWaitingRun, how: str) -> None:
    async with waiting_run(hitl_timeout_seconds=0.7) as run:
        put_everywhere(run, how)
        frames = await run.stream.rest()
        check(frames)
        assert frames[-2]["status"] in ("timed_out", "failed")  # failed: what the request shows was changed
        assert run.tool.ran == []


@pytest.mark.parametrize("how", HOSTILE)
async def test_a_run_is_cancelled_whatever_others_write(waiting_run: StartWaitingRun, how: str) -> None:
    async with waiting_run() as run:
        put_everywhere(run, how)
        cancelled = await run.aura.client.post(f"/aura/runs/{run.session_id}/cancel", headers=headers())
        assert cancelled.status_code in (202, 409)  # 409: it has failed already, since the request was changed
        frames = await run.stream.rest()
        check(frames)
        assert frames[-2]["status"] in ("cancelled", "failed")
        assert run.tool.ran == []


@pytest.mark.parametrize("how", HOSTILE)
async def test_a_request_is_opened_and_decided_whatever_signal_others_have_stored(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, how: str
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})).model_copy(update={"hang_after": 0}), FINAL_ANSWER)
    async with running(settings(), tools=[tool]) as aura, aura.stream("메모") as stream:
        session_id = (await stream.until("start"))["sessionId"]
        put(redis_client, f"hitl:signal:{session_id}", how)
        put(redis_client, f"hitl:session:{session_id}", how)
        await eventually(lambda: model.requests)
        model.release()
        hitl = await stream.until("hitl")
        assert (await aura.decide("approve", hitl["requestId"])).status_code == 200
        assert (await stream.rest())[-2]["status"] == "completed"


async def test_a_bare_request_id_in_the_session_key_is_ignored(waiting_run: StartWaitingRun) -> None:
    """The Main Service stores it so for requests of its own."""
    async with waiting_run(FINAL_ANSWER) as run:
        run.redis.set(f"hitl:session:{run.session_id}", run.request_id)
        signal = await run.aura.client.get(f"/aura/hitl/signals/{run.session_id}", headers=headers())
        assert (signal.status_code, "data" in signal.json()) == (200, False)
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()


async def test_the_session_key_does_not_say_who_may_read_a_signal(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        owner = {"sessionId": run.session_id, "requestId": run.request_id, "userId": "thief", "tenantId": "tenant2"}
        run.redis.set(f"hitl:session:{run.session_id}", json.dumps(owner))
        run.store_signal({"type": "rejection", "requestId": "req-000000000000", "reason": "secret"})
        path = f"/aura/hitl/signals/{run.session_id}"
        assert "data" not in (await run.aura.client.get(path, headers=headers("thief", "tenant2"))).json()
        assert "data" in (await run.aura.client.get(path, headers=headers())).json()
        await run.aura.decide("reject", run.request_id)


@pytest.mark.parametrize("how", ["infinity", "deep nesting", "a huge text", "another encoding", "no text", "a list"])
async def test_a_signal_that_is_no_json_object_within_bounds_is_not_shown(
    waiting_run: StartWaitingRun, how: str
) -> None:
    async with waiting_run() as run:
        put(run.redis, f"hitl:signal:{run.session_id}", how)
        shown = await run.aura.client.get(f"/aura/hitl/signals/{run.session_id}", headers=headers())
        assert (shown.status_code, "data" in shown.json()) == (200, False)
        assert shown.json()["message"] == "No signal found for session"
        await run.aura.decide("reject", run.request_id)


async def test_an_approval_that_is_written_over_our_expiry_is_ignored(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(hitl_timeout_seconds=0.5) as run:
        assert (await run.stream.rest())[-2]["status"] == "timed_out"
        assert run.stored_request()["status"] == "expired"
        run.update_request(status="approved", approvedBy="boss", approvedAt=1)
        run.publish_signal({"type": "approval", "requestId": run.request_id, "status": "approved"})
        late = await run.aura.decide("approve", run.request_id)
        assert late.status_code == 409
        assert run.checkpoint()["state"] == "timed_out"
        assert run.tool.ran == []


async def test_a_message_to_a_node_cancels_nothing_by_itself(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        node = keys.node(run.aura.service.stores.nodes.node_id)
        forged = {"sessionId": run.session_id, "cancelledBy": "ceo"}
        for message in (json.dumps(forged), "[" * 200_000, b"\xff", '{"sessionId": []}', '{"sessionId": "x"}'):
            assert run.redis.publish(node, message) == 1
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()
        assert "cancelled_by" not in run.checkpoint()


async def test_one_checkpoint_of_another_type_does_not_keep_other_runs_from_being_taken_over(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(calling(("send_note", {"to": "김"})), calling(("send_note", {"to": "이"})))
    async with running(settings(), tools=[risky()]) as gone:
        sessions = []
        for user in ("user1", "user2"):
            async with gone.stream("메모", headers=headers(user)) as stream:
                sessions.append((await stream.until("hitl"))["sessionId"])
    put(redis_client, keys.checkpoint(sessions[0]), "a list")
    with capture_logs() as logs:
        async with running(settings(aura_takeover_limit=1), tools=[risky()]) as heir:
            await eventually(lambda: heir.service.runs.owns(sessions[1]))
            await eventually(lambda: redis_client.hget(keys.run(sessions[0]), "final") == "1")
    assert [line["sessionId"] for line in logs if line["event"] == "record.changed"] == [sessions[0]]
