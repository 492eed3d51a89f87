"""Deadlines (§4) on a frozen clock: 300 seconds in milliseconds, exact to the instant, across restarts."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.approvals import FINAL_ANSWER, MakeSettings, StartWaitingRun
from tests.harness.clock import START, FrozenClock, frozen_clock
from tests.harness.frames import DONE, Frame, answer, check, types
from tests.harness.service import headers, running
from tests.harness.stored import checkpoint, read_json
from tests.harness.tools import NoteArguments, NoteTool, calling, risky
from tests.harness.waiting import eventually

TIMED_OUT = "HITL 승인 요청이 300초 내에 응답되지 않아 작업이 중단되었습니다."
RISKY_CALL = calling(("send_note", {"to": "김"}))


def frozen(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Give the test its `clock`. A fixture would spoil pytest's own times."""

    @functools.wraps(test)
    async def on_a_frozen_clock(**kwargs: Any) -> None:
        with frozen_clock() as clock:
            await test(clock=clock, **kwargs)

    signature = inspect.signature(test)
    others = [parameter for name, parameter in signature.parameters.items() if name != "clock"]
    on_a_frozen_clock.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    return on_a_frozen_clock


def timed_out(frames: list[Frame], message: str = TIMED_OUT) -> None:
    check(frames)
    assert types(frames)[-3:] == ["error", "end", DONE]
    assert (frames[-3]["errorType"], frames[-3]["errorCode"]) == ("TimeoutError", "E5001")
    assert frames[-3]["message"] == message
    assert frames[-2]["status"] == "timed_out"
    assert [frame["status"] for frame in frames if frame.type == "tool_execution"] == ["pending", "rejected"]


@frozen
async def test_a_run_times_out_after_300_seconds(waiting_run: StartWaitingRun, clock: FrozenClock) -> None:
    async with waiting_run(clock=clock) as run:
        assert (run.hitl["expiresAt"], run.hitl["timeoutSeconds"]) == (int(START) + 300, 300)
        clock.advance(300)
        async with asyncio.timeout(10):
            timed_out(await run.stream.rest())
        late = await run.aura.decide("approve", run.request_id)
        assert (late.status_code, late.json()["data"]["status"], late.json()["status"]) == (409, "expired", "SUCCESS")
        assert run.stored_request()["status"] == "expired"
        assert run.tool.ran == []


@pytest.mark.parametrize("way", ["http", "publish"])
@frozen
async def test_at_299_999_seconds_it_can_still_be_approved(
    waiting_run: StartWaitingRun, clock: FrozenClock, way: str
) -> None:
    async with waiting_run(FINAL_ANSWER, clock=clock) as run:
        clock.advance(299.999)
        if way == "http":
            assert (await run.aura.decide("approve", run.request_id)).status_code == 200
        else:
            run.publish_signal({"action": "approve"})
        await run.expect_completed()


@pytest.mark.parametrize("way", ["http", "publish", "key"])
@frozen
async def test_at_300_seconds_it_can_no_longer_be_approved(
    waiting_run: StartWaitingRun, clock: FrozenClock, way: str
) -> None:
    async with waiting_run(clock=clock) as run:
        clock.advance(300)
        if way == "http":
            late = await run.aura.decide("approve", run.request_id)
            assert (late.status_code, late.json()["data"]["status"]) == (409, "expired")
        else:
            signal = {"type": "approval", "requestId": run.request_id, "timestamp": START + 300}
            if way == "key":
                run.store_signal(signal)
            run.publish_signal(signal)
        timed_out(await run.stream.rest())
        assert run.tool.ran == []


@frozen
async def test_a_decision_at_the_deadline_either_counts_or_is_expired(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, clock: FrozenClock
) -> None:
    """The deadline passes while the decision is being stored: the answer to the approver is what happens."""
    tool, outcomes = risky(), set()
    async with running(settings(), clock=clock, tools=[tool]) as aura:
        for number in range(12):
            model.play(RISKY_CALL)
            user = headers(f"user{number}")
            async with aura.stream("메모", headers=user) as stream:
                hitl = await stream.until("hitl")
                clock.advance(299.999)
                model.play(FINAL_ANSWER)
                deciding = asyncio.create_task(aura.decide("approve", hitl["requestId"], as_=user))
                for _ in range(number * 4):  # the deadline comes a little later each time
                    await asyncio.sleep(0)
                clock.advance(0.001)
                decided = await deciding
                frames = await stream.rest()
            status = decided.json()["data"]["status"]
            outcomes.add(status)
            if status == "approved":
                assert decided.status_code == 200
                assert frames[-2]["status"] == "completed"
            else:
                assert (decided.status_code, status) == (409, "expired")
                timed_out(frames)
                model.clear()
            assert read_json(redis_client, f"hitl:request:{hitl['requestId']}")["status"] == status
    settled = [read_json(redis_client, key)["status"] for key in redis_client.keys("hitl:request:*")]
    assert len(tool.ran) == settled.count("approved")
    assert outcomes <= {"approved", "expired"}


@frozen
async def test_a_decision_recorded_in_time_counts_though_the_run_wakes_up_late(
    waiting_run: StartWaitingRun, clock: FrozenClock
) -> None:
    async with waiting_run(FINAL_ANSWER, clock=clock) as run:
        run.update_request(status="approved", approvedBy="user1", approvedAt=int((START + 299.5) * 1000))
        clock.advance(301)
        await run.expect_completed()


@frozen
async def test_a_decision_received_in_time_counts_though_redis_stores_it_later(
    waiting_run: StartWaitingRun, clock: FrozenClock
) -> None:
    with capture_logs() as logs:
        async with waiting_run(FINAL_ANSWER, clock=clock) as run:
            run.redis.config_set("maxmemory", 1)
            try:
                run.publish_signal({"action": "approve"})
                await eventually(lambda: [line for line in logs if line["event"] == "run.paused"])
                clock.advance(301)
            finally:
                run.redis.config_set("maxmemory", 0)
            await run.expect_completed()


@frozen
async def test_a_decision_recorded_too_late_does_not_count(waiting_run: StartWaitingRun, clock: FrozenClock) -> None:
    async with waiting_run(clock=clock) as run:
        clock.advance(299)
        run.update_request(status="approved", approvedBy="user1", approvedAt=int((START + 300) * 1000))
        clock.advance(2)
        timed_out(await run.stream.rest())
        assert run.tool.ran == []


@pytest.mark.parametrize("past", [True, False], ids=["passed meanwhile", "not yet passed"])
@frozen
async def test_the_deadline_survives_a_restart_and_is_not_restarted(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, clock: FrozenClock, past: bool
) -> None:
    tool = risky()
    model.play(RISKY_CALL)
    async with running(settings(), clock=clock, tools=[tool]) as first, first.stream("메모") as stream:
        hitl = await stream.until("hitl")
    clock.advance(400 if past else 200)
    async with running(settings(), clock=clock, tools=[tool]) as second:
        if not past:
            await eventually(lambda: redis_client.pubsub_channels("hitl:channel:*"))
            assert checkpoint(redis_client)["deadline_at"] == START + 300
            clock.advance(99.999)
            shown = await second.client.get(f"/aura/hitl/requests/{hitl['requestId']}", headers=headers())
            assert json.loads(shown.json()["data"])["status"] == "pending"
            clock.advance(0.001)
        async with asyncio.timeout(30), second.stream(method="GET") as resumed:
            frames = await resumed.rest()
    timed_out(frames)
    assert types(frames).count("hitl") == 1
    assert tool.ran == []
    assert len(model.requests) == 1


@frozen
async def test_an_approval_after_a_restart_continues_the_run(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, clock: FrozenClock
) -> None:
    tool = risky()
    model.play(RISKY_CALL, FINAL_ANSWER)
    async with running(settings(), clock=clock, tools=[tool]) as first, first.stream("메모") as stream:
        hitl = await stream.until("hitl")
        last = stream.seen[-1].id
    clock.advance(299.999)
    # The message is lost: there is no subscriber.
    redis_client.publish(f"hitl:channel:{hitl['sessionId']}", '{"action":"approve"}')
    async with running(settings(), clock=clock, tools=[tool]) as second:
        assert (await second.decide("approve", hitl["requestId"])).status_code == 200
        sent = headers(**{"Last-Event-ID": str(last)})
        async with asyncio.timeout(30), second.stream("메모", headers=sent) as resumed:
            frames = await resumed.rest()
    assert types(frames)[-2:] == ["end", DONE]
    assert frames[-2]["status"] == "completed"
    assert answer(frames) == FINAL_ANSWER.text
    assert len(tool.ran) == 1


@pytest.mark.parametrize(("seconds", "words"), [(45, "45초"), (1700, "1700초"), (0.5, "0.5초")])
@frozen
async def test_the_setting_is_in_the_message(
    waiting_run: StartWaitingRun, clock: FrozenClock, seconds: float, words: str
) -> None:
    async with waiting_run(clock=clock, hitl_timeout_seconds=seconds) as run:
        assert run.hitl["timeoutSeconds"] == max(1, round(seconds))
        clock.advance(seconds)
        timed_out(await run.stream.rest(), TIMED_OUT.replace("300초", words))


@frozen
async def test_each_approval_of_a_run_has_its_own_deadline(
    settings: MakeSettings, model: ScriptedModelServer, clock: FrozenClock
) -> None:
    tool = risky()
    model.play(calling(("send_note", {"to": "김"}), ("send_note", {"to": "이"})), FINAL_ANSWER)
    async with running(settings(), clock=clock, tools=[tool]) as aura, aura.stream("메모") as stream:
        for number in (1, 2):
            hitl = await stream.until("hitl")
            assert hitl["expiresAt"] == int(START) + 200 * (number - 1) + 300
            clock.advance(200)
            await aura.decide("approve", hitl["requestId"])
        assert (await stream.rest())[-2]["status"] == "completed"


def limit_reached(frames: list[Frame], seconds: int) -> None:
    check(frames)
    assert types(frames)[-3:] == ["error", "end", DONE]
    assert frames[-3]["errorType"] == "LimitExceeded"
    assert f"{seconds}초" in frames[-3]["message"]
    assert frames[-2]["status"] == "failed"


@frozen
async def test_the_run_time_ends_a_run_whose_model_hangs(
    settings: MakeSettings, model: ScriptedModelServer, clock: FrozenClock
) -> None:
    model.play(ScriptedTurn(text="네.", hang_after=0))
    async with running(settings(aura_run_timeout_seconds=100), clock=clock) as aura, aura.stream("질문") as stream:
        await stream.until("thought")
        await model.wait_for_requests(1)
        clock.advance(100)
        limit_reached(await stream.rest(), 100)
        await model.wait_until_idle()  # the model's response is no longer read


@frozen
async def test_the_run_time_ends_a_run_whose_tool_hangs(
    settings: MakeSettings, model: ScriptedModelServer, clock: FrozenClock
) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def work(_: NoteArguments) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    model.play(calling(("write_note", {"to": "김"})))
    tools = [NoteTool(work=work)]
    async with (
        running(settings(aura_run_timeout_seconds=100, aura_lease_seconds=60), clock=clock, tools=tools) as aura,
        aura.stream("질문") as stream,
    ):
        await started.wait()
        clock.advance(100)
        frames = await stream.rest()
    limit_reached(frames, 100)
    assert stopped.is_set()
    assert [frame["status"] for frame in frames if frame.type == "tool_execution"] == ["executing", "failed"]


@frozen
async def test_the_wait_for_a_person_does_not_count_against_the_run_time(
    settings: MakeSettings, model: ScriptedModelServer, clock: FrozenClock
) -> None:
    model.play(RISKY_CALL, FINAL_ANSWER)
    async with (
        running(settings(aura_run_timeout_seconds=100), clock=clock, tools=[risky()]) as aura,
        aura.stream("메모") as stream,
    ):
        hitl = await stream.until("hitl")
        assert hitl["timeoutSeconds"] == 300
        clock.advance(250)
        assert (await aura.decide("approve", hitl["requestId"])).status_code == 200
        assert (await stream.rest())[-2]["status"] == "completed"


@frozen
async def test_the_run_time_goes_on_after_the_wait_for_a_person(
    settings: MakeSettings, model: ScriptedModelServer, clock: FrozenClock
) -> None:
    model.play(RISKY_CALL, ScriptedTurn(text="네.", hang_after=0))
    async with (
        running(settings(aura_run_timeout_seconds=100), clock=clock, tools=[risky()]) as aura,
        aura.stream("메모") as stream,
    ):
        hitl = await stream.until("hitl")
        clock.advance(250)
        await aura.decide("approve", hitl["requestId"])
        await model.wait_for_requests(2)
        clock.advance(100)
        limit_reached(await stream.rest(), 100)


@frozen
async def test_an_open_stream_continues_after_its_token_expires(
    settings: MakeSettings, model: ScriptedModelServer, clock: FrozenClock
) -> None:
    model.play(RISKY_CALL, FINAL_ANSWER)
    sent = headers()  # for an hour
    async with running(settings(hitl_timeout_seconds=1700), clock=clock, tools=[risky()]) as aura:
        clock.advance(3000)
        async with aura.stream("메모", headers=sent) as stream:
            hitl = await stream.until("hitl")
            clock.advance(700)
            refused = await aura.decide("approve", hitl["requestId"], as_=sent)
            assert (refused.status_code, refused.json()["errorCode"]) == (401, "E2002")
            assert (await aura.decide("approve", hitl["requestId"])).status_code == 200
            assert (await stream.rest())[-2]["status"] == "completed"


@frozen
@pytest.mark.slow
async def test_sixty_runs_time_out_at_once(
    settings: MakeSettings, model: ScriptedModelServer, clock: FrozenClock
) -> None:
    count = 60
    model.play(*([RISKY_CALL] * count))
    async with running(settings(), clock=clock, tools=[risky()]) as aura:
        waiting, all_wait = 0, asyncio.Event()

        async def one(number: int) -> list[Frame]:
            nonlocal waiting
            async with aura.stream("메모", headers=headers(f"user{number}")) as stream:
                await stream.until("hitl")
                waiting += 1
                if waiting == count:
                    all_wait.set()
                return await stream.rest()

        running_all = [asyncio.create_task(one(number)) for number in range(count)]
        await all_wait.wait()
        clock.advance(300)
        for frames in await asyncio.gather(*running_all):
            timed_out(frames)
