"""A run is interrupted, cancelled or asked for in the one moment in which that could be overheard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.ports.journal import RunLock
from app.redis import keys
from app.runs.waiting import Run, WaitingRun
from statemachine.checkpoint import Checkpoint
from statemachine.messages import RunRecovered
from tests.harness.frames import StreamReader, answer, check
from tests.harness.raw import MakeSettings
from tests.harness.service import STREAM, Aura, headers, running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually


@asynccontextmanager
async def waiting_run(
    settings: MakeSettings, model: ScriptedModelServer
) -> AsyncIterator[tuple[Aura, StreamReader, str]]:
    """A run that is parked, its stream and its session id."""
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})))
    async with running(settings(aura_lease_seconds=60), tools=[tool]) as aura, aura.stream("메모") as stream:
        session_id = (await stream.until("hitl"))["sessionId"]
        await eventually(lambda: session_id in aura.service.runs._waiting)
        yield aura, stream, session_id


async def taken(aura: Aura, session_id: str) -> tuple[WaitingRun, Checkpoint]:
    """The run as whoever takes it over finds it."""
    parked, saved = aura.service.runs._waiting.take(session_id), await aura.service.journal.load(session_id)
    assert parked is not None
    assert saved is not None
    return parked, saved


async def test_a_run_that_is_let_go_of_before_it_could_begin_is_let_go_of(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    async with waiting_run(settings, model) as (aura, _, session_id):
        runs = aura.service.runs
        runs._call(session_id)  # there is news …
        runs._let_all_go()  # … and in the same moment the lease is lost
        await eventually(lambda: not runs.carries(session_id))
        assert session_id not in aura.service.decisions._watches


async def test_a_run_that_is_cancelled_before_it_could_begin_is_cancelled(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    async with waiting_run(settings, model) as (aura, stream, session_id):
        runs = aura.service.runs
        parked, saved = await taken(aura, session_id)
        runs._spawn(Run(parked.lock, saved), None, None, RunRecovered(""))
        runs._cancel_here(session_id, "user1")
        frames = await stream.rest()
    check(frames)
    assert frames[-2]["status"] == "cancelled"


async def test_a_run_that_is_cancelled_while_it_is_taken_over_is_cancelled(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    async with waiting_run(settings, model) as (aura, stream, session_id):
        runs = aura.service.runs
        parked, _ = await taken(aura, session_id)

        async def claim() -> RunLock:
            runs._cancel_here(session_id, "user1")
            return parked.lock

        await runs._adopt(session_id, claim)
        frames = await stream.rest()
    check(frames)
    assert frames[-2]["status"] == "cancelled"


async def test_a_waiting_run_that_can_no_longer_be_read_is_left_to_others(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with waiting_run(settings, model) as (aura, _, session_id):
        redis_client.set(keys.checkpoint(session_id), "what somebody wrote there")
        aura.service.runs._call(session_id)
        await eventually(lambda: not aura.service.runs.carries(session_id))
        assert redis_client.hget(keys.run(session_id), "owner") == keys.left_by(aura.service.nodes.node_id)


async def test_a_client_who_leaves_while_his_run_is_opened_has_a_run(
    settings: MakeSettings, model: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.play(ScriptedTurn(text="네."))
    asked, may_go_on = asyncio.Event(), asyncio.Event()
    async with running(settings()) as aura:
        create = aura.service.journal.create

        async def slowly(*args: Any, **kwargs: Any) -> Any:
            opened = await create(*args, **kwargs)
            asked.set()
            await may_go_on.wait()
            return opened

        monkeypatch.setattr(aura.service.journal, "create", slowly)
        leaving = asyncio.create_task(aura.client.post(STREAM, json={"prompt": "안녕"}, headers=headers()))
        await asked.wait()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        may_go_on.set()
        async with aura.stream(method="GET") as stream:
            frames = await stream.rest()
    check(frames)
    assert answer(frames) == "네."
