"""Decisions by HTTP (CONTRACT §5): by whom, with which arguments, and only once."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.approvals import ARGUMENTS, FINAL_ANSWER, MakeSettings, StartWaitingRun
from tests.harness.frames import types
from tests.harness.service import headers, running
from tests.harness.stored import read_json
from tests.harness.waiting import eventually

# --- what is stored while a run waits for an approval -----------------------------------------------------------------


async def test_an_approval_request_is_in_the_hitl_event_and_in_its_redis_keys(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        hitl = run.hitl
        assert hitl.raw.endswith("}")
        assert types(run.stream.seen)[-3:] == ["tool_execution", "timeline_step_update", "hitl"]
        assert run.stream.seen[-3]["status"] == "pending"
        assert hitl["message"] == "김에게 메모를 보내시겠습니까?"
        assert hitl["actionType"] == hitl["action"] == "send_note"
        assert hitl["context"] == hitl["params"] == ARGUMENTS
        assert hitl["requiresApproval"] is True
        assert run.request_id.startswith("req-")
        assert len(run.request_id) == 16
        assert hitl["timeoutSeconds"] == 300
        assert 295 <= hitl["expiresAt"] - time.time() <= 300
        assert not {"confidence", "confidenceSource"} & hitl.data.keys(), "the model has said nothing about it"

        # the subscription is there before the event is
        channels = run.redis.pubsub_channels("hitl:channel:*")
        assert channels == [f"hitl:channel:{run.session_id}"]

        request = run.stored_request()
        assert {name: request[name] for name in ("requestId", "sessionId", "userId", "tenantId", "actionType")} == {
            "requestId": run.request_id,
            "sessionId": run.session_id,
            "userId": "user1",
            "tenantId": "tenant1",
            "actionType": "send_note",
        }
        assert (request["context"], request["status"]) == (ARGUMENTS, "pending")
        assert request["expiresAt"] == hitl["expiresAt"]
        assert abs(request["createdAt"] / 1000 - time.time()) < 5
        session = read_json(run.redis, f"hitl:session:{run.session_id}")
        assert session == {
            "sessionId": run.session_id,
            "requestId": run.request_id,
            "userId": "user1",
            "tenantId": "tenant1",
        }
        for key, seconds in (
            (f"hitl:request:{run.request_id}", 30 * 60),
            (f"hitl:session:{run.session_id}", 60 * 60),
            *((key, 60 * 60) for key in run.redis.keys("checkpoint:*")),
        ):
            assert seconds - 5 <= run.redis.ttl(key) <= seconds, key
        assert run.redis.get(f"hitl:signal:{run.session_id}") is None

        keys = run.redis.keys("checkpoint:*")
        assert any(run.session_id in key for key in keys)
        for key in keys:  # GET works on every one of them
            assert run.redis.type(key) == "string"
            saved = read_json(run.redis, key)
            assert saved["state"] == "awaiting_approval"
            assert saved["pending_approvals"][0]["request_id"] == run.request_id
            assert saved["messages"][1]["content"] == "메모를 보내주세요"
            assert saved["deadline_at"] == pytest.approx(hitl["expiresAt"], abs=1)
        others = {key for key in run.redis.keys("*") if not key.startswith(("hitl:", "checkpoint:", "aura:"))}
        assert others == set()

        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()
        await eventually(lambda: run.redis.pubsub_channels("hitl:channel:*") == [])


async def test_get_requests_and_signals_answer_data_as_a_json_string(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        client, sent = run.aura.client, headers()
        shown = await client.get(f"/aura/hitl/requests/{run.request_id}", headers=sent)
        assert shown.status_code == 200
        assert isinstance(shown.json()["data"], str)
        assert json.loads(shown.json()["data"]) == run.stored_request()
        none_yet = await client.get(f"/aura/hitl/signals/{run.session_id}", headers=sent)
        assert none_yet.status_code == 200
        assert none_yet.json()["status"] == "SUCCESS"
        assert "data" not in none_yet.json()
        await run.aura.decide("approve", run.request_id)
        signal = (await client.get(f"/aura/hitl/signals/{run.session_id}", headers=sent)).json()["data"]
        assert isinstance(signal, str)
        parsed = json.loads(signal)
        assert abs(parsed.pop("timestamp") - time.time()) < 5
        assert parsed == {"type": "approval", "requestId": run.request_id, "status": "approved"}
        assert 295 <= run.redis.ttl(f"hitl:signal:{run.session_id}") <= 300
        await run.expect_completed()
        for path in (f"requests/{run.request_id}", f"signals/{run.session_id}"):
            assert (await client.get(f"/aura/hitl/{path}", headers=headers("user2"))).status_code == 403


async def test_a_session_without_an_approval_has_no_signal(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="네."))
    async with running(settings()) as aura, aura.stream("안녕") as stream:
        session = (await stream.rest())[0]["sessionId"]
        answered = await aura.client.get(f"/aura/hitl/signals/{session}", headers=headers())
        assert (answered.status_code, "data" in answered.json()) == (200, False)


# --- HTTP -------------------------------------------------------------------------------------------------------------


async def test_approved_by_http(waiting_run: StartWaitingRun, model: ScriptedModelServer) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        decided = await run.aura.decide("approve", run.request_id)
        assert decided.status_code == 200
        assert decided.json()["data"] == {
            "requestId": run.request_id,
            "sessionId": run.session_id,
            "status": "approved",
        }
        frames = await run.expect_completed()
        request = run.stored_request()
        assert (request["status"], request["approvedBy"]) == ("approved", "user1")
        assert abs(request["approvedAt"] / 1000 - time.time()) < 5
        assert 30 * 60 - 10 <= run.redis.ttl(f"hitl:request:{run.request_id}") <= 30 * 60
    moves = [frame["metadata"]["to"] for frame in frames if frame.type == "timeline_step_update"]
    assert moves == ["tool", "awaiting_approval", "tool", "planning", "content", "done"]
    statuses = [frame["status"] for frame in frames if frame.type == "tool_execution"]
    assert statuses == ["pending", "executing", "completed"]
    assert run.tool.ran == [ARGUMENTS]
    assert model.requests[1]["messages"][-1] == {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": '{"written":"안녕하세요"}',
    }


async def test_rejected_by_http_ends_the_run_with_the_reason(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        decided = await run.aura.decide("reject", run.request_id, reason="받는 사람이 틀렸습니다")
        assert decided.status_code == 200
        assert decided.json()["data"] == {
            "requestId": run.request_id,
            "sessionId": run.session_id,
            "status": "rejected",
            "reason": "받는 사람이 틀렸습니다",
        }
        await run.expect_rejected("받는 사람이 틀렸습니다")
        request = run.stored_request()
        assert (request["status"], request["rejectedBy"]) == ("rejected", "user1")
        assert request["reason"] == "받는 사람이 틀렸습니다"
        assert "rejectedAt" in request
        signal = read_json(run.redis, f"hitl:signal:{run.session_id}")
        assert (signal["type"], signal["status"], signal["reason"]) == ("rejection", "rejected", request["reason"])


@pytest.mark.parametrize("second", ["approve", "reject"])
@pytest.mark.parametrize("first", ["approve", "reject"])
async def test_second_decision_is_a_409_with_the_earlier_one(
    waiting_run: StartWaitingRun, first: str, second: str
) -> None:
    async with waiting_run(*([FINAL_ANSWER] if first == "approve" else [])) as run:
        one = await run.aura.decide(first, run.request_id, reason="처음")
        two = await run.aura.decide(second, run.request_id, reason="나중", as_=headers("boss", role="admin"))
        assert (one.status_code, two.status_code) == (200, 409)
        assert two.json()["status"] == "SUCCESS"
        assert two.json()["success"] is True
        assert "errorCode" not in two.json()
        assert two.json()["data"] == one.json()["data"]
        frames = await run.stream.rest()
        assert frames[-2]["status"] == ("completed" if first == "approve" else "rejected")
        assert (await run.aura.decide(second, run.request_id)).status_code == 409


async def test_two_decisions_at_the_same_time_are_one_decision(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        answers = await asyncio.gather(*(run.aura.decide("approve", run.request_id) for _ in range(10)))
        assert sorted(answered.status_code for answered in answers) == [200] + [409] * 9
        await run.expect_completed()


async def test_the_first_decision_counts_though_another_program_rewrote_the_request(
    waiting_run: StartWaitingRun,
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        deciding = [asyncio.create_task(run.aura.decide("approve", run.request_id)) for _ in range(3)]
        while not all(task.done() for task in deciding):
            if (now := run.stored_request())["status"] == "pending":
                touched = json.dumps({**now, "taskId": str(time.monotonic_ns())})
                run.redis.eval(  # as the Main Service does, which cannot know that a decision is being written
                    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') end",
                    1,
                    f"hitl:request:{run.request_id}",
                    json.dumps(now, ensure_ascii=False, separators=(",", ":")),
                    touched,
                )
            await asyncio.sleep(0)
        assert sorted(task.result().status_code for task in deciding) == [200, 409, 409]
        await run.expect_completed()


async def test_an_earlier_edit_wins_over_a_later_bare_signal(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        deciding = asyncio.create_task(run.aura.decide("approve", run.request_id, params={"to": "이"}))
        run.publish_signal({"action": "approve"})
        decided = await deciding
        await run.expect_completed()
        assert run.tool.ran[0]["to"] == ("이" if decided.status_code == 200 else "김")


async def test_concurrent_approval_and_rejection_have_one_outcome(
    waiting_run: StartWaitingRun, model: ScriptedModelServer
) -> None:
    async with waiting_run() as run:
        model.play(FINAL_ANSWER)
        yes, no = await asyncio.gather(
            run.aura.decide("approve", run.request_id), run.aura.decide("reject", run.request_id)
        )
        assert sorted([yes.status_code, no.status_code]) == [200, 409]
        assert yes.json()["data"]["status"] == no.json()["data"]["status"]
        frames = await run.stream.rest()
        verdict = yes.json()["data"]["status"]
        assert frames[-2]["status"] == {"approved": "completed", "rejected": "rejected"}[verdict]
        if verdict == "rejected":
            model.clear()


async def test_only_the_owner_and_approvers_of_the_tenant_may_decide(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        for other in (headers("colleague"), headers("colleague", role="viewer")):
            refused = await run.aura.decide("approve", run.request_id, as_=other)
            assert (refused.status_code, refused.json()["errorCode"]) == (403, "E2001")
        unknown = await run.aura.decide("approve", "req-000000000000")
        for other in (headers("user1", "tenant2"), headers("boss", "tenant2", role="admin")):
            refused = await run.aura.decide("approve", run.request_id, as_=other)
            assert (refused.status_code, refused.json()["errorCode"]) == (404, "E1004")
            same = unknown.json()["message"].replace("req-000000000000", run.request_id)
            assert refused.json()["message"] == same
        mismatch = await run.aura.client.post(
            f"/aura/hitl/approve/{run.request_id}", json={"userId": "user2"}, headers=headers()
        )
        assert (mismatch.status_code, mismatch.json()["errorCode"]) == (403, "E2001")
        assert run.stored_request()["status"] == "pending"
        decided = await run.aura.decide("approve", run.request_id, as_=headers("chief", role="approver"))
        assert decided.status_code == 200
        await run.expect_completed()
        assert run.stored_request()["approvedBy"] == "chief"


async def test_the_roles_that_may_decide_are_a_setting(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER, aura_approver_roles="chief") as run:
        refused = await run.aura.decide("approve", run.request_id, as_=headers("boss", role="admin"))
        assert refused.status_code == 403
        decided = await run.aura.decide("approve", run.request_id, as_=headers("boss", role="chief"))
        assert decided.status_code == 200
        await run.expect_completed()


async def test_a_decision_without_a_body_and_with_a_numeric_user_id(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER, sent=headers("7")) as run:
        wrong = await run.aura.client.post(
            f"/aura/hitl/approve/{run.request_id}", json={"userId": 8}, headers=headers("7")
        )
        assert wrong.status_code == 403
        right = await run.aura.client.post(f"/aura/hitl/approve/{run.request_id}", headers=headers("7"))
        assert right.status_code == 200
        again = await run.aura.client.post(
            f"/aura/hitl/approve/{run.request_id}", json={"userId": 7}, headers=headers("7")
        )
        assert again.status_code == 409
        await run.expect_completed()


# --- edited arguments -------------------------------------------------------------------------------------------------


async def test_an_edit_replaces_the_arguments_and_is_recorded(
    waiting_run: StartWaitingRun, model: ScriptedModelServer
) -> None:
    edited = {"to": "이", "text": "고친 글", "copies": 2}
    async with waiting_run(FINAL_ANSWER) as run:
        decided = await run.aura.decide("approve", run.request_id, params=edited)
        assert decided.status_code == 200
        frames = await run.expect_completed()
        assert run.tool.ran == [edited]
        assert run.stored_request()["params"] == edited
        (call,) = run.checkpoint()["calls"]
        assert (call["arguments"], call["grant"]["edited"], call["grant"]["decided_by"]) == (edited, True, "user1")
    done = next(frame for frame in frames if frame.type == "tool_execution" and frame["status"] == "completed")
    assert done["toolArgs"] == edited
    assert "고친 글" in model.requests[1]["messages"][-1]["content"]  # the model learns what really ran


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"to": ""}, "to"),
        ({"text": "받는 사람 없음"}, "to"),
        ({"to": "이", "copies": 99}, "copies"),
        ({"to": "이", "bcc": "x"}, "bcc"),
        ({"to": 5}, "to"),
    ],
)
async def test_an_invalid_edit_leaves_the_request_open(
    waiting_run: StartWaitingRun, params: dict[str, Any], field: str
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        refused = await run.aura.decide("approve", run.request_id, params=params)
        assert (refused.status_code, refused.json()["errorCode"]) == (400, "E4000")
        assert field in refused.json()["message"]
        assert run.stored_request()["status"] == "pending"
        assert run.tool.ran == []
        assert (await run.aura.decide("approve", run.request_id)).status_code == 200
        late = await run.aura.decide("approve", run.request_id, params=params)  # the earlier decision is the news
        assert (late.status_code, late.json()["data"]["status"]) == (409, "approved")
        await run.expect_completed()
        assert run.tool.ran == [ARGUMENTS]


async def test_params_on_a_rejection_run_nothing(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        assert (
            await run.aura.decide("reject", run.request_id, params={"to": "이"}, reason="아니요")
        ).status_code == 200
        await run.expect_rejected("아니요")


async def test_the_answers_have_the_messages_of_the_platform(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        client, sent = run.aura.client, headers()

        async def message(path: str) -> str:
            return str((await client.get(f"/aura/hitl/{path}", headers=sent)).json()["message"])

        assert await message(f"signals/{run.session_id}") == "No signal found for session"
        assert await message("signals/session_user1_1_abcd") == "No signal found for session"
        assert await message(f"requests/{run.request_id}") == "Approval request retrieved"
        approved = await run.aura.decide("approve", run.request_id)
        assert approved.json()["message"] == "Request approved successfully"
        again = await run.aura.decide("reject", run.request_id)
        assert again.json()["message"] == "Request was already processed (idempotent)"
        assert await message(f"signals/{run.session_id}") == "Signal retrieved"
        await run.expect_completed()


async def test_a_rejection_without_a_reason_has_that_of_the_platform(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        rejected = await run.aura.decide("reject", run.request_id)
        assert (rejected.json()["message"], rejected.json()["data"]["reason"]) == ("Request rejected", "User rejected")
        await run.expect_rejected("User rejected")
