"""`RunIndex`: a run is found by its user, tenant, prompt, thread and event ids, and by nobody else."""

from __future__ import annotations

import pytest
from msgspec import structs

from app.ports.journal import ListedRun, ListEnd
from statemachine.checkpoint import SCHEMA_VERSION
from statemachine.errors import CheckpointTooNew
from statemachine.states import State
from statemachine.views.summary import Summary
from tests.journal_suite.conftest import Process
from tests.journal_suite.runs import TENANT, USER, StoredRun, read

NAMESAKE = "tenant2"


async def create(process: Process, count: int, **options: str) -> list[StoredRun]:
    """Create runs, the oldest first."""
    runs = [StoredRun(**options) for _ in range(count)]  # type: ignore[arg-type]
    for run in runs:
        await run.create(process.journal)
    return runs


async def test_the_runs_of_a_user_are_listed_in_parts_the_newest_first(process: Process, other: Process) -> None:
    runs = await create(process, 7)
    await create(process, 2, user_id="lee")
    await create(process, 2, tenant_id=NAMESAKE)
    expected = [ListedRun(run.session_id, Summary.of(run.checkpoint)) for run in reversed(runs)]
    whole = await other.journal.list_runs(TENANT, USER, 0, 10)
    assert (whole.runs, whole.has_more) == (expected, False)
    for offset, has_more in ((0, True), (3, True), (4, False), (6, False)):
        part = await other.journal.list_runs(TENANT, USER, offset, 3)
        assert (part.runs, part.has_more) == (expected[offset : offset + 3], has_more)
    end = await other.journal.list_end(TENANT, USER)
    first = (await read(other.journal, runs[0].session_id))[0].id
    assert end == ListEnd(7, (first, runs[0].session_id))


async def test_the_runs_of_a_tenant_are_those_of_all_its_users(process: Process, other: Process) -> None:
    runs = [*await create(process, 2), *await create(other, 2, user_id="lee")]
    await create(process, 2, tenant_id=NAMESAKE)
    listed = await process.journal.list_runs(TENANT, None, 0, 10)
    assert {it.session_id for it in listed.runs} == {run.session_id for run in runs}
    assert (await other.journal.list_end(TENANT, None)).count == 4


async def test_lists_without_runs_are_empty(process: Process) -> None:
    for user_id in (USER, None):
        listed = await process.journal.list_runs(TENANT, user_id, 0, 10)
        assert (listed.runs, listed.has_more) == ([], False)
        assert await process.journal.list_end(TENANT, user_id) == ListEnd(0, None)
    assert await process.journal.find_newest(TENANT, USER) is None
    assert await process.journal.find_by_event_id(TENANT, USER, 1) is None
    thread = await process.journal.load_thread(TENANT, USER, "t-1")
    assert (thread.newest, thread.not_loaded) == ([], 0)


async def test_a_list_shows_the_last_commit_of_each_run(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    run.request_approval()
    await run.commit(process.journal, lock)
    (waiting,) = (await other.journal.list_runs(TENANT, USER, 0, 10)).runs
    assert waiting.summary is not None
    assert waiting.summary.request_id == await other.journal.open_request_id(run.session_id) == run.approval.request_id
    run.cancel("boss")
    await run.commit(process.journal, lock)
    (ended,) = (await other.journal.list_runs(TENANT, USER, 0, 10)).runs
    assert ended.summary is not None
    assert (ended.summary.state, ended.summary.request_id) == (State.CANCELLED, None)
    assert await other.journal.open_request_id(run.session_id) is None


async def test_the_newest_run_is_found_also_by_its_prompt(process: Process, other: Process) -> None:
    first, second = StoredRun(prompt="하나"), StoredRun(prompt="둘")
    for run in (first, second):
        await run.create(process.journal)
    await create(process, 1, user_id="lee", prompt="하나")
    await create(process, 1, tenant_id=NAMESAKE, prompt="하나")
    for digests, expected in (
        (None, second),
        ([first.prompt_digest], first),
        ([first.prompt_digest, second.prompt_digest], second),
    ):
        found = await other.journal.find_newest(TENANT, USER, digests)
        assert found is not None
        assert found.session_id == expected.session_id
    assert await other.journal.find_newest(TENANT, USER, ["another"]) is None
    assert await other.journal.find_newest(TENANT, "park") is None


async def test_a_run_is_found_by_exactly_its_own_event_ids(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    await run.write_text(process.journal, lock, *range(5))
    (later,) = await create(process, 1)
    ids = [entry.id for entry in await read(process.journal, run.session_id)]
    for id in ids:
        found = await other.journal.find_by_event_id(TENANT, USER, id)
        assert found is not None
        assert found.session_id == run.session_id
    last = (await read(process.journal, later.session_id))[-1].id
    for id in (0, ids[0] - 1, last + 1):
        assert await other.journal.find_by_event_id(TENANT, USER, id) is None
    for tenant_id, user_id in ((TENANT, "lee"), (NAMESAKE, USER)):
        assert await other.journal.find_by_event_id(tenant_id, user_id, ids[0]) is None


async def test_a_thread_has_its_runs_the_oldest_first(process: Process, other: Process) -> None:
    runs = await create(process, 3, thread_id="t-1")
    await create(process, 1, thread_id="t-2")
    await create(process, 1)
    await create(process, 1, thread_id="t-1", user_id="lee")
    await create(process, 1, thread_id="t-1", tenant_id=NAMESAKE)
    thread = await other.journal.load_thread(TENANT, USER, "t-1")
    assert (thread.newest, thread.not_loaded) == ([run.checkpoint for run in runs], 0)


async def test_a_checkpoint_of_a_newer_release_is_left_alone(process: Process, other: Process) -> None:
    """It differs from one that does not exist, and hides no other run."""
    newer, older = StoredRun(thread_id="t-1"), StoredRun(thread_id="t-1")
    lock = await newer.create(process.journal)
    await older.create(process.journal)
    newer.checkpoint = structs.replace(newer.checkpoint, schema_version=SCHEMA_VERSION + 1)
    await newer.commit(process.journal, lock)
    for _ in range(2):
        with pytest.raises(CheckpointTooNew):
            await other.journal.load(newer.session_id)
    thread = await other.journal.load_thread(TENANT, USER, "t-1")
    assert (thread.newest, thread.not_loaded) == ([older.checkpoint], 1)
    listed = await other.journal.list_runs(TENANT, USER, 0, 10)
    assert [it.session_id for it in listed.runs] == [older.session_id, newer.session_id]
    assert await other.journal.get_record(newer.session_id) is not None
