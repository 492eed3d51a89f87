"""`Journal.commit`: atomic, fenced, stored once, in order; and the ids of the events (CONTRACT §3)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from msgspec import structs

from app.errors import RunDamaged, RunLost
from app.ports.journal import RunLock, RunRecord
from statemachine.checkpoint import Checkpoint
from statemachine.frames import DONE_BODY
from tests.harness.waiting import eventually
from tests.journal_suite.conftest import Process
from tests.journal_suite.runs import TENANT, USER, StoredRun, bodies_of, copy_of, read, text_frame
from tests.journal_suite.store import Store


async def expect_unchanged(process: Process, run: StoredRun, checkpoint: Checkpoint) -> None:
    assert await process.journal.load(run.session_id) == checkpoint
    assert await bodies_of(process.journal, run.session_id) == run.written


async def test_a_commit_appends_its_events_and_saves_its_checkpoint(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    for sequence, step in enumerate((run.answer, run.answer, run.finish), 1):
        step()
        await run.commit(process.journal, lock)
        assert lock.sequence == sequence
        await expect_unchanged(other, run, run.checkpoint)


async def test_without_a_checkpoint_the_saved_one_stays(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    await run.write_text(process.journal, lock, 1, 2)
    await process.journal.commit(lock, (), None, time.time())  # nothing at all
    await expect_unchanged(other, run, run.checkpoint)
    assert lock.sequence == 2


async def test_a_commit_without_events_saves_its_checkpoint(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    run.answer()
    await process.journal.commit(lock, (), run.checkpoint, time.time())
    await expect_unchanged(other, run, run.checkpoint)


async def test_a_repeated_commit_is_stored_once(process: Process, other: Process) -> None:
    """Its reply was lost, so the process sends it again; the answer must be that of the first one."""
    run = StoredRun()
    lock = await run.create(process.journal)
    run.answer()
    repeats = [copy_of(lock) for _ in range(4)]
    await run.commit(process.journal, lock)
    for journal, repeat in zip([process.journal, other.journal] * 2, repeats, strict=True):
        await journal.commit(repeat, run.bodies, run.checkpoint, time.time())
        assert repeat == lock
    await expect_unchanged(other, run, run.checkpoint)


async def test_commits_with_the_same_number_at_the_same_time_are_stored_once(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    run.answer()
    journals = [process.journal, other.journal] * 4
    await asyncio.gather(
        *(journal.commit(copy_of(lock), run.bodies, run.checkpoint, time.time()) for journal in journals)
    )
    run.written += run.bodies
    await expect_unchanged(other, run, run.checkpoint)


async def test_a_writer_of_another_epoch_is_fenced(process: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    saved = run.checkpoint
    run.answer()
    for epoch in (0, 2):
        with pytest.raises(RunLost):
            await process.journal.commit(replace(lock, epoch=epoch), run.bodies, run.checkpoint, time.time())
    await expect_unchanged(process, run, saved)
    await run.commit(process.journal, lock)  # the owner is not disturbed
    await expect_unchanged(process, run, run.checkpoint)


async def test_a_writer_that_missed_commits_is_fenced(process: Process, other: Process) -> None:
    """As after a process was suspended, while another one with the same right went on."""
    run = StoredRun()
    lock = await run.create(process.journal)
    suspended = copy_of(lock)
    for _ in range(2):
        run.answer()
        await run.commit(other.journal, lock)
    with pytest.raises(RunLost):
        await process.journal.commit(suspended, run.bodies, run.checkpoint, time.time())
    await expect_unchanged(other, run, run.checkpoint)


async def test_a_run_whose_last_commits_were_lost_is_damaged_and_can_still_be_ended(process: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    saved, ahead = run.checkpoint, replace(lock, sequence=3)
    run.answer()
    with pytest.raises(RunDamaged):
        await process.journal.commit(ahead, run.bodies, run.checkpoint, time.time())
    await expect_unchanged(process, run, saved)
    run.finish()
    await run.commit(process.journal, ahead)
    record = await process.journal.get_record(run.session_id)
    assert record is not None
    assert record.is_final


async def test_a_run_that_does_not_exist_is_lost_to_its_writer(process: Process) -> None:
    run = StoredRun()
    with pytest.raises(RunLost):
        await process.journal.commit(RunLock(run.session_id, 1, time.time()), run.bodies, run.checkpoint, time.time())
    assert await process.journal.load(run.session_id) is None
    assert await process.journal.get_record(run.session_id) is None


async def test_the_end_marker_ends_the_run(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    assert not (await run_record(other, run)).is_final
    run.finish()
    await run.commit(process.journal, lock)
    assert (await run_record(other, run)).is_final
    entries = await read(other.journal, run.session_id)
    assert entries[-1].body == DONE_BODY
    assert await other.journal.end_id(run.session_id) == entries[-1].id


async def run_record(process: Process, run: StoredRun) -> RunRecord:
    record = await process.journal.get_record(run.session_id)
    assert record is not None
    return record


async def test_events_and_checkpoint_become_visible_together(process: Process, other: Process) -> None:
    """A reader that reads the checkpoint first finds its events; one that reads the log first, its checkpoint."""
    run = StoredRun()
    lock = await run.create(process.journal)
    counts = {run.checkpoint.turn: len(run.bodies)}  # the number of events of each checkpoint
    is_done = asyncio.Event()

    async def write() -> None:
        for turn in range(2, 32):
            run.checkpoint, run.bodies = structs.replace(run.checkpoint, turn=turn), [text_frame(turn)] * 3
            counts[turn] = len(run.written) + len(run.bodies)
            await run.commit(process.journal, lock)
        is_done.set()

    async def check() -> None:
        while not is_done.is_set():
            before = await other.journal.load(run.session_id)
            events = len(await read(other.journal, run.session_id))
            after = await other.journal.load(run.session_id)
            assert before is not None
            assert after is not None
            assert counts[before.turn] <= events <= counts[after.turn]

    await asyncio.gather(write(), check(), check())


async def test_commits_of_many_runs_at_once_are_all_stored(process: Process) -> None:
    runs = [StoredRun(user_id=f"user{number % 7}") for number in range(60)]
    locks = await asyncio.gather(*(run.create(process.journal) for run in runs))
    for _ in range(3):
        for run in runs:
            run.answer()
        await asyncio.gather(*(run.commit(process.journal, lock) for run, lock in zip(runs, locks, strict=True)))
    for run in runs:
        await expect_unchanged(process, run, run.checkpoint)


# --- ids --------------------------------------------------------------------------------------------------------------


async def test_an_id_is_the_time_in_milliseconds(process: Process) -> None:
    before = int(time.time() * 1000)
    run = StoredRun()
    lock = await run.create(process.journal)
    run.answer()
    await run.commit(process.journal, lock)
    ids = [entry.id for entry in await read(process.journal, run.session_id)]
    assert before <= ids[0] < ids[-1] <= int(time.time() * 1000) + len(ids)


async def test_ids_rise_and_are_unique_in_all_runs_of_a_user(process: Process, other: Process) -> None:
    """Whatever process writes, however many commits there are in one millisecond, and if a clock is set back."""
    now = time.time()
    runs = [StoredRun(created_at=now) for _ in range(4)]
    journals = [process.journal, other.journal] * 2

    async def write(run: StoredRun, number: int) -> None:
        lock = await run.create(journals[number])
        for _ in range(10):
            run.answer()
            await run.commit(journals[number], lock, at=now - 3600 * number)

    await asyncio.gather(*(write(run, number) for number, run in enumerate(runs)))
    found = [[entry.id for entry in await read(other.journal, run.session_id)] for run in runs]
    for ids, run in zip(found, runs, strict=True):
        assert ids == sorted(ids)
        assert len(ids) == len(run.written)
    every = [id for ids in found for id in ids]
    assert len(set(every)) == len(every)
    for run, ids in zip(runs, found, strict=True):
        for id in (ids[0], ids[len(ids) // 2], ids[-1]):
            held = await other.journal.find_by_event_id(TENANT, USER, id)
            assert held is not None
            assert held.session_id == run.session_id


async def test_a_later_run_of_a_user_has_later_ids(process: Process, other: Process) -> None:
    earlier, later = StoredRun(), StoredRun(created_at=time.time() - 60)
    await earlier.create(process.journal)
    await later.create(other.journal)
    last = (await read(process.journal, earlier.session_id))[-1]
    assert (await read(process.journal, later.session_id))[0].id > last.id


# --- an outage --------------------------------------------------------------------------------------------------------


async def test_commits_of_an_outage_are_stored_once_and_in_order_afterwards(process: Process, store: Store) -> None:
    runs = [StoredRun(user_id=f"user{number}") for number in range(5)]
    locks = [await run.create(process.journal) for run in runs]

    async def write(run: StoredRun, lock: RunLock) -> None:
        for _ in range(3):
            run.answer()
            await run.commit(process.journal, lock)

    async with store.outage():
        writing = [asyncio.create_task(write(run, lock)) for run, lock in zip(runs, locks, strict=True)]
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in writing)
    await eventually(lambda: all(task.done() for task in writing))
    await asyncio.gather(*writing)
    for run in runs:
        await expect_unchanged(process, run, run.checkpoint)
