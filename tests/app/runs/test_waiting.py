"""Where runs wait: one timer for all deadlines, and nothing kept of what was taken out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.ports.journal import RunLock
from app.runs import waiting
from app.runs.waiting import Run, WaitingRuns
from tests.harness.clock import START, FrozenClock, frozen_clock
from tests.harness.waiting import eventually


@pytest.fixture
async def due() -> AsyncIterator[tuple[WaitingRuns, FrozenClock, list[str]]]:
    called: list[str] = []
    with frozen_clock() as clock:
        parked = WaitingRuns(clock, called.append)
        parked.start()
        yield parked, clock, called
        parked.close()


def lock(session_id: str) -> RunLock:
    return RunLock(session_id, 1, START)


async def test_each_is_called_at_its_deadline_and_not_before(due: tuple[WaitingRuns, FrozenClock, list[str]]) -> None:
    parked, clock, called = due
    parked.put(lock("late"), "req-1", START + 300)
    parked.put(lock("soon"), "req-1", START + 100)
    await asyncio.sleep(0)
    clock.advance(100)
    await eventually(lambda: called == ["soon"])
    clock.advance(200)
    await eventually(lambda: called == ["soon", "late"])


async def test_what_was_taken_out_is_not_called_and_what_came_again_has_its_new_deadline(
    due: tuple[WaitingRuns, FrozenClock, list[str]],
) -> None:
    parked, clock, called = due
    parked.put(lock("gone"), "req-1", START + 100)
    parked.put(lock("again"), "req-1", START + 100)
    assert parked.take("gone") is not None
    assert parked.take("gone") is None
    again = parked.take("again")
    assert again is not None
    parked.put(again.lock, again.request_id, START + 200)
    parked.put(lock("other"), "req-1", START + 150)
    clock.advance(150)
    await eventually(lambda: called == ["other"])
    clock.advance(50)
    await eventually(lambda: called == ["other", "again"])


async def test_deadlines_of_runs_that_were_decided_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_SLACK", 10)
    with frozen_clock() as clock:
        parked = WaitingRuns(clock, lambda _: None)
        for number in range(1000):
            parked.put(lock(f"session-{number}"), "req-1", START + 300)
            if number % 100:
                parked.take(f"session-{number}")
        assert len(parked) == 10
        assert len(parked._deadlines) <= 2 * 10 + 10 + 1
        assert len(parked.close()) == 10
        assert not parked


def test_a_run_that_is_not_read_yet_has_no_checkpoint() -> None:
    run = Run(lock("session"), None)
    assert run.is_waiting
    with pytest.raises(RuntimeError, match="before it is read"):
        _ = run.checkpoint
