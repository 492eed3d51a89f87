"""What was not written for the retention time is gone, and what is erased is gone at once; nothing else is."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.errors import RunLost
from app.ports.journal import Idempotency
from tests.harness.waiting import eventually
from tests.journal_suite.conftest import Process, StartProcess
from tests.journal_suite.runs import TENANT, USER, StoredRun, bodies_of, read, text_frame
from tests.journal_suite.store import SHORT_RETENTION_SECONDS
from tests.journal_suite.test_approval_requests import decide, stored, waiting

KEY = Idempotency("key-1", "digest-1")


async def expect_gone(process: Process, run: StoredRun) -> None:
    journal, session_id = process.journal, run.session_id
    assert await journal.load(session_id) is None
    assert await journal.get_record(session_id) is None
    assert await journal.end_id(session_id) is None
    assert await journal.open_request_id(session_id) is None
    with pytest.raises(RunLost):
        await read(journal, session_id)
    assert [body async for body in journal.read_bodies(session_id)] == []
    for found in (
        await journal.find_newest(TENANT, USER),
        await journal.find_newest(TENANT, USER, [run.prompt_digest]),
        await journal.find_by_idempotency_key(TENANT, USER, KEY),
    ):
        assert found is None
    for user_id in (USER, None):
        listed = await journal.list_runs(TENANT, user_id, 0, 10)
        assert [it for it in listed.runs if it.summary is not None] == []
    assert (await journal.load_thread(TENANT, USER, "t-1")).newest == []


async def test_a_run_without_writes_expires(start: StartProcess) -> None:
    process = await start(retention_seconds=SHORT_RETENTION_SECONDS)
    run = StoredRun(thread_id="t-1")
    lock = await run.create(process.journal, KEY)
    await asyncio.sleep(SHORT_RETENTION_SECONDS + 0.2)
    await expect_gone(process, run)
    run.answer()
    with pytest.raises(RunLost):
        await run.commit(process.journal, lock)
    assert await process.nodes.request_cancel(run.session_id, "boss") is False
    again = StoredRun(thread_id="t-1")
    await again.create(process.journal, KEY)
    assert await process.journal.find_by_idempotency_key(TENANT, USER, KEY) == again.session_id
    assert (await process.journal.load_thread(TENANT, USER, "t-1")).newest == [again.checkpoint]


@pytest.mark.slow
async def test_every_commit_keeps_the_whole_run(start: StartProcess) -> None:
    """Also one without a checkpoint, and one without events."""
    process = await start(retention_seconds=2)
    run = StoredRun()
    lock = await run.create(process.journal)
    for number in range(5):
        await asyncio.sleep(0.5)
        if number % 2:
            await run.write_text(process.journal, lock, number)
        else:
            await process.journal.commit(lock, (), None, time.time())
    assert await process.journal.load(run.session_id) == run.checkpoint
    assert await bodies_of(process.journal, run.session_id) == run.written
    listed = await process.journal.list_runs(TENANT, USER, 0, 10)
    assert [it.summary is not None for it in listed.runs] == [True]


@pytest.mark.slow
async def test_reading_a_thread_keeps_its_checkpoints(start: StartProcess) -> None:
    process = await start(retention_seconds=2)
    run = StoredRun(thread_id="t-1")
    await run.create(process.journal)
    for _ in range(5):
        await asyncio.sleep(0.5)
        assert (await process.journal.load_thread(TENANT, USER, "t-1")).newest == [run.checkpoint]


@pytest.mark.slow
async def test_an_expired_run_of_a_lost_process_is_not_claimed(start: StartProcess) -> None:
    leaving, other = await start(retention_seconds=SHORT_RETENTION_SECONDS), await start()
    run, living = StoredRun(), StoredRun(user_id="lee")
    await run.create(leaving.journal)
    await living.create(other.journal)
    await asyncio.sleep(SHORT_RETENTION_SECONDS + 0.2)
    for process in (leaving, other):
        await process.parts.stop()
    heir = await start(claims=True)
    await eventually(lambda: heir.claimed)
    await asyncio.sleep(0.6)  # another round
    assert set(heir.claimed) == {living.session_id}


# --- erased -----------------------------------------------------------------------------------------------------------


async def test_what_is_erased_of_a_person_is_found_no_more(process: Process, other: Process) -> None:
    run, lock = await waiting(process, thread_id="t-1")
    await decide(other, run, run.decision())
    started = StoredRun(thread_id="t-1")
    await started.create(process.journal, KEY)
    assert set(await other.personal_runs.active_runs(TENANT, USER)) == {run.session_id, started.session_id}
    counts = await other.personal_runs.count(TENANT, USER)
    assert counts
    assert await other.personal_runs.erase(TENANT, USER) == counts
    for erased in (run, started):
        await expect_gone(process, erased)
    assert await process.requests.get(run.approval.request_id) is None
    assert await process.requests.get_signal(run.session_id) is None
    with pytest.raises(RunLost):
        await process.journal.commit(lock, run.bodies, run.checkpoint, time.time())
    await expect_gone(process, run)
    assert await other.personal_runs.active_runs(TENANT, USER) == []
    assert await other.personal_runs.count(TENANT, USER) == {}
    assert await other.personal_runs.erase(TENANT, USER) == {}


@pytest.mark.parametrize("owner", [{"user_id": "lee"}, {"tenant_id": "tenant2"}], ids=["another user", "a namesake"])
async def test_what_is_stored_of_others_stays(process: Process, other: Process, owner: dict[str, str]) -> None:
    await StoredRun(thread_id="t-1").create(process.journal, KEY)
    run, lock = await waiting(process, thread_id="t-1", **owner)  # type: ignore[arg-type]
    tenant_id, user_id = run.checkpoint.request.tenant_id, run.checkpoint.request.user_id
    run.bodies = [text_frame(1)]
    await run.commit(process.journal, lock, at=time.time() + 60)  # so that later ids follow from this one alone
    await other.personal_runs.erase(TENANT, USER)
    assert await process.journal.load(run.session_id) == run.checkpoint
    assert await bodies_of(process.journal, run.session_id) == run.written
    assert (await stored(process, run)).shows(run.approval)
    assert (await process.journal.list_end(tenant_id, user_id)).count == 1
    assert (await process.journal.load_thread(tenant_id, user_id, "t-1")).newest == [run.checkpoint]
    run.cancel("boss")
    await run.commit(process.journal, lock)
    later = StoredRun(**owner)  # type: ignore[arg-type]
    await later.create(process.journal)
    ids = [
        entry.id
        for session_id in (run.session_id, later.session_id)
        for entry in await read(process.journal, session_id)
    ]
    assert ids == sorted(set(ids))
