"""Every method raises `StorageUnavailable` where the store cannot be reached, but those that must write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.errors import StorageUnavailable
from app.ports.decisions import RequestStatus
from app.ports.journal import Idempotency, RunLock
from tests.journal_suite.conftest import Process, StartProcess
from tests.journal_suite.runs import TENANT, USER, StoredRun
from tests.journal_suite.store import Store
from tests.journal_suite.test_approval_requests import stored, waiting
from tests.journal_suite.test_decisions import accept

Call = Callable[[Process, StoredRun, RunLock], Awaitable[object]]

CALLS: dict[str, Call] = {
    "ping": lambda it, run, lock: it.journal.ping(),
    "create": lambda it, run, lock: StoredRun().create(it.journal),
    "load": lambda it, run, lock: it.journal.load(run.session_id),
    "get_record": lambda it, run, lock: it.journal.get_record(run.session_id),
    "end_id": lambda it, run, lock: it.journal.end_id(run.session_id),
    "open_request_id": lambda it, run, lock: it.journal.open_request_id(run.session_id),
    "find_newest": lambda it, run, lock: it.journal.find_newest(TENANT, USER),
    "find_by_event_id": lambda it, run, lock: it.journal.find_by_event_id(TENANT, USER, 1),
    "find_by_idempotency_key": lambda it, run, lock: it.journal.find_by_idempotency_key(
        TENANT, USER, Idempotency("k", "d")
    ),
    "load_thread": lambda it, run, lock: it.journal.load_thread(TENANT, USER, "t-1"),
    "list_runs": lambda it, run, lock: it.journal.list_runs(TENANT, None, 0, 10),
    "list_end": lambda it, run, lock: it.journal.list_end(TENANT, USER),
    "read_bodies": lambda it, run, lock: anext(aiter(it.journal.read_bodies(run.session_id))),
    "get": lambda it, run, lock: it.requests.get(run.approval.request_id),
    "get_many": lambda it, run, lock: it.requests.get_many([run.approval.request_id]),
    "close": lambda it, run, lock: it.requests.close(run.approval.request_id, RequestStatus.CANCELLED),
    "get_signal": lambda it, run, lock: it.requests.get_signal(run.session_id),
    "open_request": lambda it, run, lock: it.decisions.open_request(run.checkpoint, run.approval, run.wait.deadline_at),
    "take": lambda it, run, lock: it.decisions.take(run.session_id, accept),
    "request_cancel": lambda it, run, lock: it.nodes.request_cancel(run.session_id, "boss"),
    "hand_over": lambda it, run, lock: it.nodes.hand_over([lock]),
    "active_runs": lambda it, run, lock: it.personal_runs.active_runs(TENANT, USER),
    "count": lambda it, run, lock: it.personal_runs.count(TENANT, USER),
    "erase": lambda it, run, lock: it.personal_runs.erase(TENANT, USER),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_every_method_reports_that_the_store_cannot_be_reached(
    start: StartProcess, process: Process, call: Call
) -> None:
    cut = await start()
    run, lock = await waiting(cut)
    await cut.parts.cut_off()
    async with asyncio.timeout(10):
        with pytest.raises(StorageUnavailable):
            await call(cut, run, lock)
    assert await process.journal.load(run.session_id) == run.checkpoint


async def test_a_decision_that_may_not_count_is_not_confirmed(start: StartProcess, process: Process) -> None:
    cut = await start()
    run, _ = await waiting(cut)
    request = await stored(cut, run)
    await cut.parts.cut_off()
    with pytest.raises(StorageUnavailable):
        await cut.requests.decide(request, run.decision())
    assert (await stored(process, run)).status is RequestStatus.PENDING


@pytest.mark.slow
async def test_a_reader_gets_nothing_and_is_called_again_later(process: Process, start: StartProcess) -> None:
    """A stream stays open during an outage: it raises nothing."""
    cut = await start()
    run = StoredRun()
    await run.create(process.journal)
    is_called = asyncio.Event()
    tail = cut.journal.tail(run.session_id, 0, is_called.set)
    await cut.parts.cut_off()
    is_called.clear()
    assert await tail.fetch() == []
    async with asyncio.timeout(10):
        await is_called.wait()
    tail.close()


@pytest.mark.parametrize("write", ["commit", "prevent_creation"])
async def test_what_must_be_written_is_not_given_up(start: StartProcess, process: Process, write: str) -> None:
    cut = await start()
    run = StoredRun()
    lock = await run.create(cut.journal)
    await cut.parts.cut_off()
    late = StoredRun()
    pending: Awaitable[object] = (
        run.write_text(cut.journal, lock, 1) if write == "commit" else cut.journal.prevent_creation(late.session_id)
    )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await pending
    assert lock.sequence == 0
    await late.create(process.journal)


@pytest.mark.slow
async def test_a_store_that_does_not_answer_cannot_be_reached(process: Process, store: Store) -> None:
    """Connections that stay open and silent are the dear case: the answer comes within seconds all the same."""
    async with store.outage(), asyncio.timeout(15):
        with pytest.raises(StorageUnavailable):
            await process.journal.ping()
    async with asyncio.timeout(30):
        while True:
            try:
                return await process.journal.ping()
            except StorageUnavailable:
                await asyncio.sleep(0.1)
