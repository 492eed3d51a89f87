"""A person's decision through Redis (§5): by a published signal, by a key alone, in every form; several at once."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.approvals import FINAL_ANSWER, MakeSettings, StartWaitingRun, WaitingRun
from tests.harness.frames import check, types
from tests.harness.service import headers, running
from tests.harness.stored import read_json
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

# --- Redis ------------------------------------------------------------------------------------------------------------

APPROVING: list[Callable[[str], Any]] = [
    lambda request: {"type": "approval", "requestId": request, "status": "approved", "timestamp": int(time.time())},
    lambda request: {"type": "approval", "requestId": request, "timestamp": 1706156400},
    lambda request: {"type": "approval"},
    lambda request: {"action": "approve"},
    lambda request: {"action": "approve", "requestId": request},
    lambda request: {"type": "approval", "approved": True},
    lambda request: {"approved": True, "requestId": request},
    lambda request: {"status": "APPROVED"},
    lambda request: json.dumps(json.dumps({"type": "approval", "requestId": request, "status": "approved"})),
]
REJECTING: list[Callable[[str], Any]] = [
    lambda request: {
        "type": "rejection",
        "requestId": request,
        "status": "rejected",
        "reason": "싫어요",
        "timestamp": 1,
    },
    lambda request: {"type": "rejection", "requestId": request, "reason": "싫어요"},
    lambda request: {"action": "reject", "reason": "싫어요"},
    lambda request: {"type": "approval", "approved": False, "reason": "싫어요"},
    lambda request: {"type": "approval", "requestId": request, "status": "rejected", "reason": "싫어요"},
]


@pytest.fixture
def only_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the keys: what is published must be heard."""
    monkeypatch.setattr("app.redis.decisions._POLL_SECONDS", 3600)


@pytest.mark.usefixtures("only_heard")
@pytest.mark.parametrize("form", range(len(APPROVING)))
async def test_publish_alone_approves_at_once(waiting_run: StartWaitingRun, form: int) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        assert run.publish_signal(APPROVING[form](run.request_id)) == 1
        await run.expect_completed()
        assert run.stored_request()["status"] == "approved"
        late = await run.aura.decide("reject", run.request_id)
        assert (late.status_code, late.json()["data"]["status"]) == (409, "approved")


@pytest.mark.usefixtures("only_heard")
@pytest.mark.parametrize("form", range(len(REJECTING)))
async def test_publish_alone_rejects_at_once(waiting_run: StartWaitingRun, form: int) -> None:
    async with waiting_run() as run:
        assert run.publish_signal(REJECTING[form](run.request_id)) == 1
        await run.expect_rejected("싫어요")
        assert (run.stored_request()["status"], run.stored_request()["reason"]) == ("rejected", "싫어요")


async def test_a_rejection_without_a_reason_has_a_default_reason(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        run.publish_signal({"type": "rejection", "requestId": run.request_id})
        await run.expect_rejected("User rejected")


@pytest.mark.slow
async def test_the_signal_key_alone_is_seen_within_seconds(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        run.store_signal(
            {"type": "approval", "requestId": run.request_id, "status": "approved", "timestamp": time.time()}
        )
        await run.expect_completed()
        assert run.stored_request()["status"] == "approved"


async def test_the_requests_status_alone_is_seen_within_seconds(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        run.update_request(status="approved", approvedBy="user1", approvedAt=int(time.time() * 1000))
        await run.expect_completed()


@pytest.mark.slow
async def test_the_requests_status_alone_is_seen_whatever_words_stand_in_the_arguments(
    waiting_run: StartWaitingRun,
) -> None:
    async with waiting_run(FINAL_ANSWER, arguments={"to": "pending", "text": '"status":"pending"'}) as run:
        run.update_request(status="approved", approvedBy="user1", approvedAt=int(time.time() * 1000))
        await run.expect_completed()


@pytest.mark.slow
async def test_the_requests_rejection_alone_is_seen_within_seconds(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as run:
        run.update_request(status="rejected", rejectedBy="user1", reason="안 됩니다")
        await run.expect_rejected("안 됩니다")


async def test_the_main_services_way_keys_then_publish(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        signal = {"type": "approval", "requestId": run.request_id, "status": "approved", "timestamp": time.time()}
        run.update_request(status="approved", approvedBy="user1", approvedAt=int(time.time() * 1000))
        run.store_signal(signal)
        run.publish_signal(signal)
        await run.expect_completed()


async def test_ignored_signals_are_counted_and_hurt_nobody(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        decisions = run.aura.service.stores.decisions

        def ignored(count: int) -> bool:
            return bool(decisions.ignored_signals == count)

        bad: list[Any] = [
            {"type": "approval", "requestId": "req-somebodyelse", "status": "approved"},
            {"type": "approval", "requestId": 5, "status": "approved"},
            "not json",
            "[1]",
            "5",
            "",
            b"\xff\xfe",
            b"\xac\xed\x00\x05t\x00\x10",
            "[" * 5000,
            {},
            {"type": "hello"},
            {"requestId": run.request_id},
            {"type": "approval", "status": "pending"},
            {"type": "approval", "status": "rejected", "action": "approve"},
            {"type": "rejection", "status": "approved"},
            {"type": "approval", "approved": "yes"},
            '{"status": "approved", "status": "rejected"}',
        ]
        for count, signal in enumerate(bad, start=1):
            assert run.publish_signal(signal) == 1
            await eventually(functools.partial(ignored, count))
        assert run.stored_request()["status"] == "pending"
        assert run.tool.ran == []
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()


async def test_a_stored_signal_for_another_request_decides_nothing(waiting_run: StartWaitingRun) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        run.store_signal({"type": "rejection", "requestId": "req-somebodyelse", "status": "rejected"})
        run.publish_signal({"type": "wake up"})
        await eventually(lambda: run.aura.service.stores.decisions.ignored_signals == 1)
        assert run.stored_request()["status"] == "pending"
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()


STORED_IN_VAIN = [
    (b'\xac\xed\x00\x05t\x00\x10{"status":"approved"}', "StringRedisSerializer"),
    (b"not json", "not JSON"),
    (b'{"type":"approval","status":"approved","timestamp":1e999}', "too large a number"),
]


@pytest.mark.parametrize(("raw", "reason"), STORED_IN_VAIN)
async def test_a_stored_signal_that_decides_nothing_is_logged_once(
    waiting_run: StartWaitingRun, raw: bytes, reason: str
) -> None:
    with capture_logs() as logs:
        async with waiting_run(FINAL_ANSWER) as run:
            decisions = run.aura.service.stores.decisions
            run.redis.set(f"hitl:signal:{run.session_id}", raw, ex=300)
            for count in (2, 3):  # what is heard makes the stored one be looked at again
                run.publish_signal({"type": "wake up"})
                await eventually(functools.partial(lambda least: decisions.ignored_signals >= least, count))
            assert decisions.ignored_signals == 3
            await run.aura.decide("approve", run.request_id)
            await run.expect_completed()
    reasons = [line["reason"] for line in logs if line["event"] == "signal.ignored"]
    assert sum(reason in told for told in reasons) == 1


async def _unreadable(run: WaitingRun, how: str) -> None:
    name = f"hitl:request:{run.request_id}"
    run.redis.delete(name)
    if how == "hash":
        run.redis.hset(name, "status", "approved")
    else:
        run.redis.set(name, {"java": b"\xac\xed\x00\x05t\x00\x05hello", "list": b"[]", "text": b"{"}[how])


@pytest.mark.parametrize("how", ["java", "list", "text", "hash"])
async def test_an_unreadable_request_leaves_the_decision_to_signals(waiting_run: StartWaitingRun, how: str) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        await _unreadable(run, how)
        assert (await run.aura.decide("reject", run.request_id)).status_code == 404
        run.publish_signal({"type": "approval", "requestId": run.request_id, "status": "approved"})
        await run.expect_completed()


@pytest.mark.parametrize("spelled", [lambda request: json.dumps(json.dumps(request)), json.dumps])
async def test_a_decided_request_counts_however_its_decider_spells_it(
    waiting_run: StartWaitingRun, spelled: Callable[[dict[str, Any]], str]
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        decided = {**run.stored_request(), "status": "APPROVED", "approvedBy": "user1"}
        run.redis.set(f"hitl:request:{run.request_id}", spelled(decided), keepttl=True)
        run.publish_signal({"type": "wake up"})
        await run.expect_completed()


# --- after a no -------------------------------------------------------------------------------------------------------


async def test_with_replan_a_no_goes_to_the_model(waiting_run: StartWaitingRun, model: ScriptedModelServer) -> None:
    async with waiting_run(ScriptedTurn(text="알겠습니다."), aura_on_reject="replan") as run:
        await run.aura.decide("reject", run.request_id, reason="너무 늦었어요")
        frames = await run.stream.rest()
    check(frames)
    assert frames[-2]["status"] == "completed"
    assert "error" not in types(frames)
    assert [frame["status"] for frame in frames if frame.type == "tool_execution"] == ["pending", "rejected"]
    told = model.requests[1]["messages"][-1]
    assert told["role"] == "tool"
    assert "너무 늦었어요" in told["content"]
    assert run.tool.ran == []


# --- several at once --------------------------------------------------------------------------------------------------


async def test_risky_calls_of_one_turn_are_asked_one_by_one(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    tool = risky()
    model.play(calling(*((tool.name, {"to": name}) for name in ("김", "이", "박"))), FINAL_ANSWER)
    async with running(settings(), tools=[tool]) as aura, aura.stream("모두에게") as stream:
        asked_ids = []
        for left, name in ((3, "김"), (2, "이"), (1, "박")):
            hitl = await stream.until("hitl")
            run = WaitingRun(aura, stream, hitl, tool, redis_client)
            assert hitl["params"]["to"] == name
            pending = run.checkpoint()["pending_approvals"]
            assert len(pending) == left
            assert pending[0]["request_id"] == run.request_id
            open_now = [
                key
                for key in redis_client.keys("hitl:request:*")
                if read_json(redis_client, key)["status"] == "pending"
            ]
            assert open_now == [f"hitl:request:{run.request_id}"]
            asked_ids.append(run.request_id)
            assert (await aura.decide("approve", run.request_id)).status_code == 200
        frames = await stream.rest()
    check(frames)
    assert len(set(asked_ids)) == 3
    assert [ran["to"] for ran in tool.ran] == ["김", "이", "박"]
    results = [message for message in model.requests[1]["messages"] if message["role"] == "tool"]
    assert [result["tool_call_id"] for result in results] == ["call_1", "call_2", "call_3"]


async def test_a_no_to_the_first_ends_the_run_and_gives_every_call_its_outcome(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"}), (tool.name, {"to": "이"})))
    async with running(settings(), tools=[tool]) as aura, aura.stream("모두에게") as stream:
        hitl = await stream.until("hitl")
        await aura.decide("reject", hitl["requestId"], reason="아니요")
        frames = await stream.rest()
    check(frames)
    outcomes = [
        frame["toolCallId"] for frame in frames if frame.type == "tool_execution" and frame["status"] == "rejected"
    ]
    assert sorted(outcomes) == ["call_1", "call_2"]
    assert types(frames).count("hitl") == 1
    assert tool.ran == []


async def test_a_stale_signal_without_a_request_id_does_not_decide_the_next_request(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"}), (tool.name, {"to": "이"})))
    async with running(settings(), tools=[tool]) as aura, aura.stream("모두에게") as stream:
        first = WaitingRun(aura, stream, await stream.until("hitl"), tool, redis_client)
        first.store_signal({"action": "approve"})
        first.publish_signal({"action": "approve"})
        second = WaitingRun(aura, stream, await stream.until("hitl"), tool, redis_client)
        assert second.request_id != first.request_id
        # The keys are looked at when something is heard; the old signal is all they could show.
        second.publish_signal({"type": "wake up"})
        await eventually(lambda: aura.service.stores.decisions.ignored_signals == 1)
        assert second.stored_request()["status"] == "pending"
        late = await aura.decide("reject", first.request_id)
        assert (late.status_code, late.json()["data"]["status"]) == (409, "approved")
        second.publish_signal(
            {"type": "approval", "requestId": first.request_id, "status": "approved"}
        )  # a second decision
        await eventually(lambda: aura.service.stores.decisions.ignored_signals == 2)
        assert (await aura.decide("reject", second.request_id, reason="그만")).status_code == 200
        frames = await stream.rest()
    assert frames[-2]["status"] == "rejected"
    assert [ran["to"] for ran in tool.ran] == ["김"]


@pytest.mark.slow
async def test_many_runs_wait_on_one_connection(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    tool, count = risky(), 30
    model.play(*(calling((tool.name, {"to": str(number)})) for number in range(count)))
    async with running(settings(), tools=[tool]) as aura:

        async def one(user: str) -> str:
            async with aura.stream("메모", headers=headers(user)) as stream:
                hitl = await stream.until("hitl")
                await aura.decide("reject", hitl["requestId"], as_=headers(user))
                return str((await stream.rest())[-2]["status"])

        before = len(redis_client.client_list(_type="pubsub"))
        ended = await asyncio.gather(*(one(f"user{number}") for number in range(count)))
        assert len(redis_client.client_list(_type="pubsub")) == before
    assert ended == ["rejected"] * count


@pytest.mark.slow
async def test_a_request_that_a_failover_has_lost_is_stored_again(
    waiting_run: StartWaitingRun, redis_client: redis.Redis
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        before = run.stored_request()
        session = redis_client.get(f"hitl:session:{run.session_id}")
        redis_client.delete(f"hitl:request:{run.request_id}", f"hitl:session:{run.session_id}")
        await eventually(lambda: redis_client.exists(f"hitl:session:{run.session_id}"), 10)
        assert run.stored_request() == before
        assert redis_client.get(f"hitl:session:{run.session_id}") == session
        assert (await run.aura.decide("approve", run.request_id)).status_code == 200
        await run.expect_completed()


async def test_a_request_that_is_lost_together_with_its_node_is_stored_again_by_the_next_one(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), FINAL_ANSWER)
    async with running(settings(), tools=[tool]) as aura, aura.stream("메모를 보내줘") as stream:
        hitl = await stream.until("hitl")
    redis_client.delete(f"hitl:request:{hitl['requestId']}", f"hitl:session:{hitl['sessionId']}")
    async with running(settings(), tools=[tool]) as heir:
        await eventually(lambda: redis_client.exists(f"hitl:session:{hitl['sessionId']}"), 15)
        assert (await heir.decide("approve", hitl["requestId"])).status_code == 200
        async with heir.stream(method="GET", params={"sessionId": hitl["sessionId"]}) as stream:
            assert (await stream.rest())[-2]["status"] == "completed"
