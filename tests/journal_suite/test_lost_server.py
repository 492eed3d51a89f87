"""A store that has several servers may lose one: what was confirmed is still there, and everybody goes on."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.errors import RunDamaged, RunLost
from app.ports.journal import RunLock
from tests.harness.waiting import eventually
from tests.journal_suite.conftest import REPLICATED, Process, StartProcess
from tests.journal_suite.runs import Follower, StoredRun, bodies_of
from tests.journal_suite.store import Store
from tests.journal_suite.test_approval_requests import decide, waiting
from tests.journal_suite.test_decisions import accept

pytestmark = pytest.mark.parametrize("store", REPLICATED, indirect=True)


async def test_confirmed_decisions_are_taken_afterwards(process: Process, other: Process, store: Store) -> None:
    runs = [(await waiting(process, user_id=f"user{number}"))[0] for number in range(30)]
    decisions = [run.decision("approved" if number % 2 else "rejected") for number, run in enumerate(runs)]
    results = await asyncio.gather(*(decide(other, run, it) for run, it in zip(runs, decisions, strict=True)))
    assert all(is_first for _, is_first in results)
    await store.lose_server()
    taken = [await process.decisions.take(run.session_id, accept) for run in runs]
    assert [it.decision for it in taken] == decisions


async def test_a_run_that_was_taken_over_stays_with_its_new_owner(start: StartProcess, store: Store) -> None:
    leaving, heir = await start(), await start(claims=True)
    runs = [StoredRun(user_id=f"user{number}") for number in range(30)]
    locks = [await run.create(leaving.journal) for run in runs]
    await leaving.nodes.hand_over(locks)
    await eventually(lambda: len(heir.claimed) == len(runs))
    await store.lose_server()
    for run, former in zip(runs, locks, strict=True):
        run.answer()
        with pytest.raises(RunLost):
            await leaving.journal.commit(former, run.bodies, run.checkpoint, time.time())
        await run.commit(heir.journal, heir.claimed[run.session_id])
        assert await bodies_of(leaving.journal, run.session_id) == run.written


async def test_runs_and_their_readers_go_on(process: Process, other: Process, store: Store) -> None:
    """What no replica had yet may be lost: a commit, then its run is known to be damaged, or a run that has just begun.
    Nothing is there twice, and no writer takes for stored what is not."""
    runs = [StoredRun(user_id=f"user{number}") for number in range(12)]
    locks = [await run.create(process.journal) for run in runs]
    is_whole = asyncio.Event()

    async def write(run: StoredRun, lock: RunLock) -> None:
        number = 0
        while not is_whole.is_set():
            number += 1
            await run.write_text(process.journal, lock, number)
            await asyncio.sleep(0.05)

    writing = [asyncio.create_task(write(run, lock)) for run, lock in zip(runs, locks, strict=True)]
    readers = [Follower(other.journal, run.session_id) for run in runs]
    await asyncio.sleep(0.5)
    await store.lose_server()
    is_whole.set()
    results = await asyncio.gather(*writing, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), RunDamaged, RunLost}
    assert None in results
    for run, lock, reader, result in zip(runs, locks, readers, results, strict=True):
        if not isinstance(result, RunLost):
            run.finish()
            await run.commit(process.journal, lock)
            found = await bodies_of(other.journal, run.session_id)
            assert len(set(found)) == len(found)
            assert found[-1] == run.written[-1]
            if result is None:
                assert found == run.written == await reader.until(len(run.written))
        reader.tail.close()
