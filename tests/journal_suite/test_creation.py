"""`Journal.create`: atomic, once for each session id, once for each idempotency key."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import FieldInvalid, RunExists
from app.ports.journal import Idempotency, RunLock
from tests.harness.waiting import eventually
from tests.journal_suite.conftest import Process, StartProcess
from tests.journal_suite.runs import TENANT, USER, StoredRun, bodies_of, read

KEY = Idempotency("key-1", "digest-1")


async def test_a_created_run_has_its_checkpoint_its_record_and_its_events(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    assert lock == RunLock(run.session_id, 1, run.checkpoint.created_at)
    for journal in (process.journal, other.journal):
        assert await journal.load(run.session_id) == run.checkpoint
        assert await bodies_of(journal, run.session_id) == run.bodies
        record = await journal.get_record(run.session_id)
        assert record is not None
        assert (record.user_id, record.tenant_id, record.prompt_digest) == (USER, TENANT, run.prompt_digest)
        assert (record.owner, record.epoch, record.is_final) == (process.nodes.node_id, 1, False)
        assert await journal.end_id(run.session_id) is None


async def test_a_run_that_does_not_exist_is_none(process: Process) -> None:
    run = StoredRun()
    for session_id in (run.session_id, "no session id", ""):
        assert await process.journal.load(session_id) is None
        assert await process.journal.get_record(session_id) is None
    assert await process.journal.end_id(run.session_id) is None
    assert await process.journal.open_request_id(run.session_id) is None


async def test_a_session_id_is_created_once(process: Process, other: Process) -> None:
    runs = [StoredRun(session_id="session_kim_1795000000_abcd", prompt=f"{n}") for n in range(6)]
    journals = [process.journal, other.journal] * 3
    results = await asyncio.gather(
        *(run.create(journal) for run, journal in zip(runs, journals, strict=True)), return_exceptions=True
    )
    (first,) = [run for run, result in zip(runs, results, strict=True) if isinstance(result, RunLock)]
    assert [type(it) for it in results].count(RunExists) == 5
    assert await other.journal.load(first.session_id) == first.checkpoint
    assert await bodies_of(other.journal, first.session_id) == first.bodies


async def test_an_idempotency_key_creates_one_run_however_many_requests_come_at_once(
    process: Process, other: Process
) -> None:
    runs = [StoredRun() for _ in range(6)]
    journals = [process.journal, other.journal] * 3
    results = await asyncio.gather(
        *(run.try_to_create(journal, KEY) for run, journal in zip(runs, journals, strict=True))
    )
    (lock,) = [result for result in results if isinstance(result, RunLock)]
    assert {result for result in results if isinstance(result, str)} == {lock.session_id}
    assert await other.journal.find_by_idempotency_key(TENANT, USER, KEY) == lock.session_id
    existing = [run.session_id for run in runs if await other.journal.load(run.session_id) is not None]
    assert existing == [lock.session_id]
    for user_id in (USER, None):
        listed = await other.journal.list_runs(TENANT, user_id, 0, 10)
        assert [it.session_id for it in listed.runs] == [lock.session_id]


async def test_a_request_that_was_answered_with_an_earlier_run_is_not_taken_over(
    start: StartProcess, process: Process
) -> None:
    """Nothing of it is left with its node, although it was about to be created there."""
    leaving = await start()
    first, repeated = StoredRun(), StoredRun()
    await first.create(leaving.journal, KEY)
    assert await repeated.try_to_create(leaving.journal, KEY) == first.session_id
    await leaving.parts.stop()
    heir = await start(claims=True)
    await eventually(lambda: first.session_id in heir.claimed)
    assert repeated.session_id not in heir.claimed


async def test_an_idempotency_key_belongs_to_one_request(process: Process, other: Process) -> None:
    await StoredRun().create(process.journal, KEY)
    another = Idempotency(KEY.key, "digest-2")
    with pytest.raises(FieldInvalid):
        await StoredRun().try_to_create(other.journal, another)
    with pytest.raises(FieldInvalid):
        await other.journal.find_by_idempotency_key(TENANT, USER, another)


async def test_an_idempotency_key_belongs_to_one_user_of_one_tenant(process: Process) -> None:
    owners = [(TENANT, USER), (TENANT, "lee"), ("tenant2", USER)]
    assert await process.journal.find_by_idempotency_key(TENANT, USER, KEY) is None
    for tenant_id, user_id in owners:
        run = StoredRun(tenant_id=tenant_id, user_id=user_id)
        await run.create(process.journal, KEY)
        assert await process.journal.find_by_idempotency_key(tenant_id, user_id, KEY) == run.session_id


async def test_an_idempotency_key_counts_for_its_seconds(process: Process) -> None:
    short = Idempotency("key-1", "digest-1", seconds=1)
    first, second = StoredRun(), StoredRun()
    await first.create(process.journal, short)
    assert await second.try_to_create(process.journal, short) == first.session_id
    await asyncio.sleep(1.1)
    await second.create(process.journal, short)
    assert await process.journal.load(first.session_id) is not None


async def test_a_creation_that_was_prevented_fails_although_it_comes_late(process: Process, other: Process) -> None:
    late, existing = StoredRun(), StoredRun()
    await existing.create(process.journal)
    assert await other.journal.prevent_creation(late.session_id) is True
    assert await other.journal.prevent_creation(existing.session_id) is False
    with pytest.raises(RunExists):
        await late.create(process.journal)
    assert await process.journal.load(late.session_id) is None
    assert await process.journal.get_record(late.session_id) is None
    assert await process.journal.load(existing.session_id) == existing.checkpoint


async def test_a_reader_that_comes_before_the_creation_gets_all_events(process: Process) -> None:
    """The caller may read before it has the reply to its creation."""
    run = StoredRun()
    calls: list[None] = []
    tail = process.journal.tail(run.session_id, 0, lambda: calls.append(None))
    lock = await run.create(process.journal)
    assert calls
    calls.clear()
    run.answer()
    await run.commit(process.journal, lock)
    assert calls
    entries = tail.buffered()
    if entries is None:
        entries = await tail.fetch()
    tail.close()
    assert [entry.body for entry in entries] == run.written == await bodies_of(process.journal, run.session_id)


async def test_the_first_events_are_committed_together(process: Process, other: Process) -> None:
    """A reader on another process sees all of them or none."""
    run = StoredRun()
    assert len(run.bodies) > 1

    async def watch() -> int:
        record = None
        while record is None:
            record = await other.journal.get_record(run.session_id)
        return len(await read(other.journal, run.session_id))

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await run.create(process.journal)
    assert await watching == len(run.bodies)
    assert await other.journal.load(run.session_id) == run.checkpoint
