"""A run is interrupted or cancelled in the moments in which that could be missed."""

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
from tests.harness.clock import START
from tests.harness.frames import StreamReader, answer, check
from tests.harness.raw import MakeSettings
from tests.harness.service import STREAM, Aura, headers, running
from tests.harness.stored import sealed
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually


@asynccontextmanager
async def waiting_run(
    settings: MakeSettings, model: ScriptedModelServer
) -> AsyncIterator[tuple[Aura, StreamReader, str]]:
    """A run that waits for a decision, its stream and its session id."""
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})))
    async with running(settings(aura_lease_seconds=60), tools=[tool]) as aura, aura.stream("메모") as stream:
        session_id = (await stream.until("hitl"))["sessionId"]
        await eventually(lambda: aura.service.stats().waiting_runs == 1)
        yield aura, stream, session_id


async def released(aura: Aura, session_id: str) -> RunLock:
    """Release the waiting run; the lock with which its node may take it over again."""
    aura.service.runs.release_all()
    record, sequence = await aura.service.stores.journal.get_record(session_id), await _sequence(aura, session_id)
    assert record is not None
    return RunLock(session_id, record.epoch, START, sequence)


async def _sequence(aura: Aura, session_id: str) -> int:
    """The number of commits of the run."""
    return int(await aura.service.stores.connection.execute("HGET", keys.run(session_id), "seq"))


async def test_a_run_that_is_released_before_its_task_begins_is_released(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    async with waiting_run(settings, model) as (aura, _, session_id):
        runs = aura.service.runs
        runs.wake(session_id)
        runs.release_all()  # at the same moment the lease is lost
        await eventually(lambda: not runs.owns(session_id))
        assert not aura.service.stores.decisions.is_watched(session_id)


async def test_a_run_that_is_cancelled_before_its_task_begins_is_cancelled(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    async with waiting_run(settings, model) as (aura, stream, session_id):
        runs, lock = aura.service.runs, await released(aura, session_id)

        async def claim() -> RunLock:
            return lock

        await runs.take_over(session_id, claim)
        runs.cancel_local(session_id, "user1")
        frames = await stream.rest()
    check(frames)
    assert frames[-2]["status"] == "cancelled"


async def test_a_run_that_is_cancelled_while_it_is_taken_over_is_cancelled(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    async with waiting_run(settings, model) as (aura, stream, session_id):
        runs, lock = aura.service.runs, await released(aura, session_id)

        async def claim() -> RunLock:
            runs.cancel_local(session_id, "user1")
            return lock

        await runs.take_over(session_id, claim)
        frames = await stream.rest()
    check(frames)
    assert frames[-2]["status"] == "cancelled"


async def test_a_waiting_run_with_an_unreadable_checkpoint_is_handed_over(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with waiting_run(settings, model) as (aura, _, session_id):
        redis_client.set(keys.checkpoint(session_id), sealed({"what": "an earlier release wrote there"}))
        aura.service.runs.wake(session_id)
        await eventually(lambda: not aura.service.runs.owns(session_id))
        assert redis_client.hget(keys.run(session_id), "owner") == keys.released_by(aura.service.stores.nodes.node_id)


async def test_a_client_that_disconnects_during_creation_still_has_a_run(
    settings: MakeSettings, model: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.play(ScriptedTurn(text="네."))
    is_created, may_return = asyncio.Event(), asyncio.Event()
    async with running(settings()) as aura:
        create = aura.service.stores.journal.create

        async def slowly(*args: Any, **kwargs: Any) -> Any:
            opened = await create(*args, **kwargs)
            is_created.set()
            await may_return.wait()
            return opened

        monkeypatch.setattr(aura.service.stores.journal, "create", slowly)
        leaving = asyncio.create_task(aura.client.post(STREAM, json={"prompt": "안녕"}, headers=headers()))
        await is_created.wait()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        may_return.set()
        async with aura.stream(method="GET") as stream:
            frames = await stream.rest()
    check(frames)
    assert answer(frames) == "네."
