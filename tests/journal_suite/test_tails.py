"""`RunReader`: readers begin anywhere, miss nothing, and cost nothing while they are slow."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import RunLost
from statemachine.frames import DONE_BODY
from tests.harness.waiting import eventually
from tests.journal_suite.conftest import Process
from tests.journal_suite.runs import Follower, StoredRun, bodies_of, next_entries, read, read_on, text_frame
from tests.journal_suite.store import Store


@pytest.mark.parametrize("is_ended", [False, True], ids=["running", "ended"])
async def test_a_reader_may_begin_after_any_event_also_inside_a_commit(
    process: Process, other: Process, *, is_ended: bool
) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    await run.write_text(process.journal, lock, *range(7))
    await run.write_text(process.journal, lock, 7)
    if is_ended:
        run.finish()
        await run.commit(process.journal, lock)
    entries = await read(other.journal, run.session_id)
    assert [entry.body for entry in entries] == run.written
    for reader in (process, other):
        for position, entry in enumerate(entries[:-1], 1):
            assert await read(reader.journal, run.session_id, after=entry.id) == entries[position:]
        assert await read(reader.journal, run.session_id, after=entries[0].id - 1) == entries


@pytest.mark.parametrize("reads_elsewhere", [False, True], ids=["own", "other"])
async def test_a_reader_is_notified_of_every_commit(process: Process, other: Process, *, reads_elsewhere: bool) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    reader = Follower((other if reads_elsewhere else process).journal, run.session_id)
    assert await reader.until(len(run.written)) == run.written
    for number in range(20):
        await run.write_text(process.journal, lock, number)
        assert await reader.until(len(run.written)) == run.written
    run.finish()
    await run.commit(process.journal, lock)
    assert await reader.until(len(run.written)) == run.written
    assert reader.bodies[-1] == DONE_BODY
    reader.tail.close()


@pytest.mark.parametrize("reads_elsewhere", [False, True], ids=["own", "other"])
async def test_a_slow_reader_gets_everything_in_order(
    process: Process, other: Process, *, reads_elsewhere: bool
) -> None:
    """More events come between its reads than any memory should hold for it; others read at the same time."""
    run = StoredRun()
    lock = await run.create(process.journal)
    journal = (other if reads_elsewhere else process).journal
    slow, fast = journal.tail(run.session_id, 0, lambda: None), Follower(journal, run.session_id)
    seen = await next_entries(slow)
    for number in range(0, 900, 30):
        await run.write_text(process.journal, lock, *range(number, number + 30))
        if number == 450:
            seen += await next_entries(slow)
    assert await fast.until(len(run.written)) == run.written
    seen += await read_on(slow)
    assert [entry.body for entry in seen] == run.written
    assert seen == fast.entries
    for tail in (slow, fast.tail):
        tail.close()


async def test_a_reader_stays_when_another_process_writes_on(process: Process, other: Process) -> None:
    """As after a takeover: readers of the former and of the new owner get all events."""
    run = StoredRun()
    lock = await run.create(process.journal)
    readers = [Follower(process.journal, run.session_id), Follower(other.journal, run.session_id)]
    for reader in readers:
        await reader.until(len(run.written))
    process.journal.release(run.session_id)
    other.journal.adopt(run.session_id)
    for number in range(5):
        await run.write_text(other.journal, lock, number)
        for reader in readers:
            assert await reader.until(len(run.written)) == run.written
    for reader in readers:
        reader.tail.close()


async def test_a_reader_gets_the_last_events_of_a_writer_that_was_taken_over(process: Process, other: Process) -> None:
    """They may have been written without a notification of this process."""
    run = StoredRun()
    lock = await run.create(process.journal)
    reader = Follower(other.journal, run.session_id)
    await reader.until(len(run.written))
    await run.write_text(process.journal, lock, 1)
    other.journal.adopt(run.session_id)
    assert await reader.until(len(run.written)) == run.written
    reader.tail.close()


async def test_a_reader_gets_what_others_wrote_before_its_own_process_has_the_run_again(
    process: Process, other: Process
) -> None:
    """As for a process that loses its lease, and takes the run over from the next owner."""
    run = StoredRun()
    lock = await run.create(process.journal)
    reader = Follower(process.journal, run.session_id)
    await reader.until(len(run.written))
    process.journal.release(run.session_id)
    other.journal.adopt(run.session_id)
    await run.write_text(other.journal, lock, 1, 2)
    other.journal.release(run.session_id)
    process.journal.adopt(run.session_id)
    await run.write_text(process.journal, lock, 3)
    assert await reader.until(len(run.written)) == run.written
    reader.tail.close()


async def test_after_its_end_a_run_has_the_end_marker_again_and_again(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    run.finish()
    await run.commit(process.journal, lock)
    for reader in (process, other):
        last = (await read(reader.journal, run.session_id))[-1]
        for after in (last.id - 1, last.id, last.id + 1000):
            tail = reader.journal.tail(run.session_id, after, lambda: None)
            assert await tail.fetch() == [last]
            assert await tail.fetch() == [last]
            tail.close()


async def test_there_is_nothing_after_the_last_event_of_a_run_under_way(process: Process, other: Process) -> None:
    run = StoredRun()
    await run.create(process.journal)
    for reader in (process, other):
        last = (await read(reader.journal, run.session_id))[-1]
        for after in (last.id, last.id + 1000):
            assert await read(reader.journal, run.session_id, after=after) == []


async def test_the_log_of_a_run_that_does_not_exist_is_lost(process: Process) -> None:
    tail = process.journal.tail(StoredRun().session_id, 0, lambda: None)
    with pytest.raises(RunLost):
        await tail.fetch()
    tail.close()


async def test_a_closed_reader_is_not_called_again(process: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    calls: list[None] = []
    closed = process.journal.tail(run.session_id, 0, lambda: calls.append(None))
    await next_entries(closed)
    closed.close()
    closed.close()
    calls.clear()
    staying = Follower(process.journal, run.session_id)
    await run.write_text(process.journal, lock, 1)
    await staying.until(len(run.written))
    assert calls == []
    staying.tail.close()


async def test_all_bodies_are_read_in_order(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    for number in range(0, 450, 3):  # more commits than one page has
        await run.write_text(process.journal, lock, *range(number, number + 3))
    assert [body async for body in other.journal.read_bodies(run.session_id)] == run.written
    assert await bodies_of(other.journal, run.session_id) == run.written


async def test_an_event_of_any_size_is_read_as_it_was_written(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    bodies = [b"event: content\ndata: " + text * 70_000 + b"\n\n" for text in ("긴".encode(), b"\x00\xff", b"x")]
    await process.journal.commit(lock, [text_frame(1), *bodies, text_frame(2)], None, 0.0)
    run.written += [text_frame(1), *bodies, text_frame(2)]
    assert await bodies_of(other.journal, run.session_id) == run.written


async def test_a_reader_goes_on_after_an_outage(process: Process, other: Process, store: Store) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    readers = [Follower(process.journal, run.session_id), Follower(other.journal, run.session_id)]
    for reader in readers:
        await reader.until(len(run.written))
    async with store.outage():
        writing = asyncio.create_task(run.write_text(process.journal, lock, 1, 2))
        await asyncio.sleep(0.2)
    await eventually(writing.done)
    for reader in readers:
        assert await reader.until(len(run.written)) == run.written
        reader.tail.close()
