"""`Nodes`: each run has one writer, and where that is gone exactly one other: leases, takeovers, cancelling."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import structs

from app.errors import RunLost
from app.ports.journal import RunLock
from statemachine.checkpoint import SCHEMA_VERSION
from tests.harness.waiting import eventually
from tests.journal_suite.conftest import Process, StartProcess
from tests.journal_suite.runs import StoredRun, bodies_of, copy_of
from tests.journal_suite.store import SHORT_LEASE_SECONDS, Store

SHORT = {"lease_seconds": SHORT_LEASE_SECONDS}


async def epoch(process: Process, run: StoredRun) -> tuple[str, int]:
    """Return who owns a run, and the number of its owners so far."""
    record = await process.journal.get_record(run.session_id)
    assert record is not None
    return record.owner, record.epoch


async def test_every_process_is_a_node_of_its_own_with_a_lease(process: Process, other: Process) -> None:
    assert process.nodes.has_lease
    assert other.nodes.has_lease
    assert process.nodes.node_id != other.nodes.node_id


@pytest.mark.slow
async def test_a_lease_is_kept_while_the_process_lives(start: StartProcess, process: Process) -> None:
    living = await start(lease_seconds=2.0)
    run = StoredRun()
    await run.create(living.journal)
    node_id = living.nodes.node_id
    await asyncio.sleep(2.5)
    assert (living.nodes.has_lease, living.nodes.node_id, living.releases) == (True, node_id, 0)
    assert process.offered == []
    assert await epoch(process, run) == (node_id, 1)


async def test_a_process_that_is_cut_off_releases_its_runs_before_others_claim_them(start: StartProcess) -> None:
    heir, cut = await start(claims=True), await start(**SHORT)
    run = StoredRun()
    lock = await run.create(cut.journal)
    node_id = cut.nodes.node_id
    await cut.parts.cut_off()
    await eventually(lambda: cut.releases == 1 or heir.claimed)
    assert cut.releases == 1, "another node was faster"
    assert not cut.nodes.has_lease
    assert cut.nodes.node_id != node_id
    await eventually(lambda: heir.claimed)
    assert heir.claimed[run.session_id].epoch == lock.epoch + 1


async def test_the_run_of_a_lost_process_goes_on_where_it_stands(start: StartProcess, process: Process) -> None:
    cut = await start(**SHORT)
    heir = await start(claims=True)
    run, other_run = StoredRun(), StoredRun(user_id="lee")
    lock = await run.create(cut.journal)
    await other_run.create(process.journal)
    run.answer()
    await run.commit(cut.journal, lock)
    await cut.parts.cut_off()
    await eventually(lambda: heir.claimed)
    claimed = heir.claimed[run.session_id]
    assert (claimed.epoch, claimed.sequence, claimed.cancelled_by) == (2, 1, None)
    assert claimed.created_at == pytest.approx(lock.created_at, abs=0.001)
    assert await epoch(process, run) == (heir.nodes.node_id, 2)
    with pytest.raises(RunLost):  # the former owner, if it should still be writing
        await process.journal.commit(lock, [], run.checkpoint, 0.0)
    run.finish()
    await run.commit(heir.journal, claimed)
    assert await bodies_of(process.journal, run.session_id) == run.written
    assert set(heir.claimed) == {run.session_id}, "the run of a living process was taken over"
    assert await epoch(process, other_run) == (process.nodes.node_id, 1)


async def test_each_run_is_taken_over_by_exactly_one_process(start: StartProcess) -> None:
    heirs = [await start(claims=True) for _ in range(4)]
    gone = await start()
    runs = [StoredRun(user_id=f"user{number % 9}") for number in range(80)]
    await asyncio.gather(*(run.create(gone.journal) for run in runs))
    await gone.parts.stop()
    await eventually(lambda: sum(len(heir.claimed) for heir in heirs) >= len(runs))
    await asyncio.sleep(1.2)  # two further rounds of every heir
    taken = [session_id for heir in heirs for session_id in heir.claimed]
    assert sorted(taken) == sorted(run.session_id for run in runs)
    for heir in heirs:
        for session_id, lock in heir.claimed.items():
            record = await heir.journal.get_record(session_id)
            assert record is not None
            assert (record.owner, record.epoch, lock.epoch) == (heir.nodes.node_id, 2, 2)


async def test_a_process_that_stops_gives_its_runs_away_at_once(start: StartProcess) -> None:
    heir, leaving = await start(claims=True), await start()
    run = StoredRun()
    await run.create(leaving.journal)
    await leaving.parts.stop()
    await eventually(lambda: run.session_id in heir.claimed, seconds=10)


@pytest.mark.slow
async def test_a_run_that_nobody_claims_is_offered_again(start: StartProcess) -> None:
    leaving, full = await start(), await start()
    run = StoredRun()
    await run.create(leaving.journal)
    await leaving.parts.stop()
    await eventually(lambda: full.offered.count(run.session_id) >= 2)
    assert (await epoch(full, run))[1] == 1
    full.claims = True
    await eventually(lambda: run.session_id in full.claimed)


@pytest.mark.slow
async def test_a_run_of_a_newer_release_is_left_to_a_process_that_can_read_it(start: StartProcess) -> None:
    """It is offered, and hides no other run."""
    leaving = await start()
    newer, older = StoredRun(), StoredRun()
    lock = await newer.create(leaving.journal)
    await older.create(leaving.journal)
    newer.checkpoint = structs.replace(newer.checkpoint, schema_version=SCHEMA_VERSION + 1)
    await newer.commit(leaving.journal, lock)
    await leaving.parts.stop()
    heir = await start(cannot_read={newer.session_id}, claims=True)
    await eventually(lambda: older.session_id in heir.claimed)
    await eventually(lambda: heir.offered.count(newer.session_id) >= 2)
    assert (await epoch(heir, newer))[1] == 1
    upgraded = await start(claims=True)
    await eventually(lambda: newer.session_id in upgraded.claimed)


@pytest.mark.slow
async def test_a_run_that_has_ended_or_expired_is_not_claimed(start: StartProcess) -> None:
    leaving = await start()
    ended, waiting = StoredRun(), StoredRun()
    lock = await ended.create(leaving.journal)
    await waiting.create(leaving.journal)
    ended.finish()
    await ended.commit(leaving.journal, lock)
    await leaving.parts.stop()
    heir = await start(claims=True)
    await eventually(lambda: waiting.session_id in heir.claimed)
    await asyncio.sleep(0.6)  # another round
    assert ended.session_id not in heir.claimed
    assert await bodies_of(heir.journal, ended.session_id) == ended.written


@pytest.mark.slow
async def test_a_run_that_is_handed_over_is_taken_over_at_once(start: StartProcess) -> None:
    heir, full = await start(claims=True), await start()
    given, kept = StoredRun(), StoredRun()
    lock = await given.create(full.journal)
    await kept.create(full.journal)
    given.answer()
    await given.commit(full.journal, lock)
    await full.nodes.hand_over([lock])
    await eventually(lambda: given.session_id in heir.claimed, seconds=10)
    claimed = heir.claimed[given.session_id]
    assert (claimed.epoch, claimed.sequence) == (2, 1)
    given.answer()
    with pytest.raises(RunLost):
        await full.journal.commit(lock, given.bodies, given.checkpoint, 0.0)
    await given.commit(heir.journal, claimed)
    await asyncio.sleep(0.6)
    assert set(heir.claimed) == {given.session_id}
    assert await epoch(full, kept) == (full.nodes.node_id, 1)


async def test_a_commit_comes_before_the_takeover_or_is_fenced(start: StartProcess) -> None:
    """The next owner has everything that was confirmed to the former one."""
    heir, full = await start(claims=True), await start()
    runs = [StoredRun(user_id=f"user{number}") for number in range(20)]
    locks = [await run.create(full.journal) for run in runs]

    async def write(run: StoredRun, lock: RunLock) -> None:
        for number in range(100_000):
            await run.write_text(full.journal, lock, number)

    writing = [asyncio.create_task(write(run, lock)) for run, lock in zip(runs, locks, strict=True)]
    await eventually(lambda: all(lock.sequence for lock in locks))
    await full.nodes.hand_over([copy_of(lock) for lock in locks])
    results = await asyncio.gather(*writing, return_exceptions=True)
    assert {type(result) for result in results} == {RunLost}
    await eventually(lambda: len(heir.claimed) == len(runs))
    for run, lock in zip(runs, locks, strict=True):
        assert heir.claimed[run.session_id].sequence == lock.sequence
        assert await bodies_of(heir.journal, run.session_id) == run.written


@pytest.mark.slow
async def test_a_run_that_another_process_has_taken_over_is_not_handed_over(start: StartProcess) -> None:
    """The former owner does not know yet that it has lost the run."""
    former, heir = await start(**SHORT), await start(claims=True)
    run = StoredRun()
    lock = await run.create(former.journal)
    await former.nodes.hand_over([lock])
    await eventually(lambda: run.session_id in heir.claimed)
    await former.nodes.hand_over([lock])
    await asyncio.sleep(1.2)
    assert await epoch(heir, run) == (heir.nodes.node_id, 2)


# --- cancelling -------------------------------------------------------------------------------------------------------


async def test_a_request_to_cancel_reaches_the_owner_on_another_process(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    assert await other.nodes.request_cancel(run.session_id, "boss") is True
    await eventually(lambda: process.cancelled)
    assert set(process.cancelled) == {(run.session_id, "boss")}
    assert other.cancelled == []
    run.answer()
    await run.commit(process.journal, lock)  # the owner knows it by its next commit at the latest
    assert lock.cancelled_by == "boss"


@pytest.mark.slow
async def test_a_request_to_cancel_is_known_to_the_next_owner(start: StartProcess, process: Process) -> None:
    gone = await start(**SHORT)
    run = StoredRun()
    await run.create(gone.journal)
    await gone.parts.cut_off()
    assert await process.nodes.request_cancel(run.session_id, "boss") is True
    heir = await start(claims=True)
    await eventually(lambda: heir.claimed)
    assert heir.claimed[run.session_id].cancelled_by == "boss"


async def test_what_has_ended_or_does_not_exist_cannot_be_cancelled(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    run.finish()
    await run.commit(process.journal, lock)
    assert await other.nodes.request_cancel(run.session_id, "boss") is False
    assert await other.nodes.request_cancel(StoredRun().session_id, "boss") is False
    assert process.cancelled == []


async def test_a_request_to_cancel_of_an_outage_of_the_messages_is_found(
    process: Process, other: Process, store: Store
) -> None:
    """A waiting run writes nothing by itself, so nothing else would notify its owner."""
    run = StoredRun()
    await run.create(process.journal)
    async with store.lost_messages(process.parts):
        assert await other.nodes.request_cancel(run.session_id, "boss") is True
        assert process.cancelled == []
    await eventually(lambda: process.cancelled)
    assert set(process.cancelled) == {(run.session_id, "boss")}


@pytest.mark.slow
async def test_a_process_goes_on_under_a_new_id_after_an_outage_that_its_lease_did_not_outlive(
    start: StartProcess, store: Store
) -> None:
    process = await start(claims=True, **SHORT)
    run = StoredRun()
    lock = await run.create(process.journal)
    node_id = process.nodes.node_id
    async with store.outage():
        await eventually(lambda: process.releases)
    assert process.nodes.node_id != node_id
    await eventually(lambda: process.nodes.has_lease)
    await eventually(lambda: run.session_id in process.claimed)
    assert process.claimed[run.session_id].epoch == lock.epoch + 1
