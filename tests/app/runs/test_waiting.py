"""Waiting runs: one timer for all deadlines, and no stale deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.ports.journal import RunLock
from app.runs import waiting
from app.runs.waiting import WaitingRun, WaitingRuns
from tests.harness.clock import START, FrozenClock, frozen_clock
from tests.harness.waiting import eventually


@pytest.fixture
async def due() -> AsyncIterator[tuple[WaitingRuns, FrozenClock, list[str]]]:
    due_ids: list[str] = []
    with frozen_clock() as clock:
        waiting_runs = WaitingRuns(clock, due_ids.append)
        waiting_runs.start()
        yield waiting_runs, clock, due_ids
        waiting_runs.close()


def waiting_run(session_id: str, until: float) -> WaitingRun:
    return WaitingRun(RunLock(session_id, 1, START), "req-1", until)


async def test_each_run_is_due_at_its_deadline_and_not_before(due: tuple[WaitingRuns, FrozenClock, list[str]]) -> None:
    waiting_runs, clock, due_ids = due
    waiting_runs.add(waiting_run("late", START + 300))
    waiting_runs.add(waiting_run("soon", START + 100))
    await asyncio.sleep(0)
    clock.advance(100)
    await eventually(lambda: due_ids == ["soon"])
    clock.advance(200)
    await eventually(lambda: due_ids == ["soon", "late"])


async def test_a_removed_run_is_never_due_and_an_added_one_is_due_at_its_new_deadline(
    due: tuple[WaitingRuns, FrozenClock, list[str]],
) -> None:
    waiting_runs, clock, due_ids = due
    waiting_runs.add(waiting_run("gone", START + 100))
    waiting_runs.add(waiting_run("again", START + 100))
    assert waiting_runs.pop("gone") is not None
    assert waiting_runs.pop("gone") is None
    again = waiting_runs.pop("again")
    assert again is not None
    waiting_runs.add(waiting_run("again", START + 200))
    waiting_runs.add(waiting_run("other", START + 150))
    clock.advance(150)
    await eventually(lambda: due_ids == ["other"])
    clock.advance(50)
    await eventually(lambda: due_ids == ["other", "again"])


async def test_deadlines_of_decided_runs_are_removed_from_the_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_MAX_STALE_DEADLINES", 10)
    with frozen_clock() as clock:
        waiting_runs = WaitingRuns(clock, lambda _: None)
        for number in range(1000):
            waiting_runs.add(waiting_run(f"session-{number}", START + 300))
            if number % 100:
                waiting_runs.pop(f"session-{number}")
        assert len(waiting_runs) == 10
        assert waiting_runs.deadline_count <= 2 * 10 + 10 + 1
        assert len(waiting_runs.close()) == 10
        assert not waiting_runs
