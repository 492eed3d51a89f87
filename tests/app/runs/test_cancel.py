"""Cancel: from any node, in any state, during a model turn and a tool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from tests.harness.approvals import StartWaitingRun
from tests.harness.frames import check, types
from tests.harness.service import Aura, headers, running
from tests.harness.tools import NoteTool, calling, risky


async def _cancel(aura: Aura, session_id: str, **as_: str) -> Any:
    return await aura.client.post(f"/aura/runs/{session_id}/cancel", headers=as_ or headers())


async def test_waiting_run_is_cancelled_and_its_request_can_no_longer_be_approved(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(calling(("send_note", {"to": "kim"})))
    tool = risky()
    async with running(settings(), tools=[tool]) as aura, aura.stream("메모") as stream:
        hitl = await stream.until("hitl")
        assert (await _cancel(aura, hitl["sessionId"])).status_code == 202
        frames = await stream.rest()
        late = await aura.decide("approve", hitl["requestId"])
    check(frames)
    assert types(frames)[-3:] == ["error", "end", "[DONE]"]
    assert (frames[-3]["errorType"], frames[-2]["status"]) == ("Cancelled", "cancelled")
    assert (late.status_code, late.json()["data"]["status"]) == (409, "cancelled")
    assert tool.ran == []


async def test_run_is_cancelled_from_another_node_in_the_middle_of_its_answer(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="가" * 400, chunk_chars=1, hang_after=200))
    async with running(settings()) as owner, running(settings()) as other, owner.stream("길게") as stream:
        first = await stream.until("content")
        response = await other.client.delete(f"/aura/runs/{first['sessionId']}", headers=headers())
        frames = await stream.rest()
        await model.wait_until_idle()  # the connection to the model was closed
    assert response.status_code == 202
    check(frames)
    assert frames[-2]["status"] == "cancelled"


async def test_a_waiting_run_that_is_being_loaded_is_cancelled_after_loading(
    waiting_run: StartWaitingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting_run() as run:
        decisions, reading, go_on = run.aura.service.stores.decisions, asyncio.Event(), asyncio.Event()
        take = decisions.take

        async def later(*args: Any) -> Any:
            reading.set()
            await go_on.wait()
            return await take(*args)

        monkeypatch.setattr(decisions, "take", later)
        run.publish_signal({"type": "wake up"})
        await reading.wait()
        assert (await _cancel(run.aura, run.session_id)).status_code == 202
        go_on.set()
        async with asyncio.timeout(10):
            frames = await run.stream.rest()
        check(frames)
        assert frames[-2]["status"] == "cancelled"
        assert run.stored_request()["status"] == "cancelled"
        assert run.tool.ran == []


async def test_a_running_tool_is_cancelled_and_its_outcome_is_unknown(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    stopped = asyncio.Event()

    async def work(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    model.play(calling(("write_note", {"to": "lee"})))
    async with running(settings(), tools=[NoteTool(work=work)]) as aura, aura.stream("메모") as stream:
        executing = await stream.until("tool_execution")
        await _cancel(aura, executing["sessionId"])
        frames = await stream.rest()
        await asyncio.wait_for(stopped.wait(), 30)
        run = (await aura.client.get(f"/aura/runs/{executing['sessionId']}", headers=headers())).json()["data"]
    check(frames)
    assert [f["status"] for f in frames if f.type == "tool_execution"] == ["executing", "failed"]
    assert (run["state"], run["ledger"][0]["outcomeUnknown"]) == ("cancelled", True)


async def test_ended_unknown_and_others_runs_cannot_be_cancelled(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="끝"))
    async with running(settings()) as aura:
        async with aura.stream("끝내") as stream:
            session_id = (await stream.rest())[0]["sessionId"]
        assert (await _cancel(aura, session_id)).json()["errorCode"] == "E1007"
        assert (await _cancel(aura, "session_user1_1700000000_ffff")).status_code == 404
        assert (await _cancel(aura, session_id, **headers("user2"))).status_code == 403
        assert (await _cancel(aura, session_id, **headers("boss", "tenant2", "admin"))).status_code == 404


async def test_cancel_is_executed_by_the_node_that_takes_the_run_over(
    settings: Callable[..., Settings], model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    """The request was made while no node was alive: it is stored in the run's record."""
    model.play(calling(("send_note", {"to": "kim"})))
    async with running(settings(), tools=[risky()]) as first, first.stream("메모") as stream:
        session_id = (await stream.until("hitl"))["sessionId"]
    (key,) = redis_client.keys("aura:*:run:*")
    redis_client.hset(key, "cancelled_by", "user1")
    async with running(settings(), tools=[risky()]) as second:
        async with second.stream(method="GET", params={"sessionId": session_id}) as stream:
            frames = await stream.rest()
    check(frames)
    assert frames[-2]["status"] == "cancelled"
