"""`DecisionBus`: no decision is lost, whenever it is made, and whatever becomes of the message that announces it."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec import structs

from app.errors import StorageUnavailable
from statemachine.checkpoint import SCHEMA_VERSION, Checkpoint
from statemachine.decisions import Decision, SignalIgnored
from statemachine.errors import CheckpointTooNew
from statemachine.messages import ApprovalGranted, ToolFinished
from tests.harness.waiting import eventually
from tests.journal_suite.conftest import Process, StartProcess
from tests.journal_suite.runs import StoredRun
from tests.journal_suite.store import Store
from tests.journal_suite.test_approval_requests import decide, stored, waiting


def accept(_: Checkpoint, __: Decision) -> None:
    """Accept every decision."""


async def until_decided(process: Process, run: StoredRun) -> Decision:
    """Take the decision as the engine does: whenever there is news, until there is one."""
    while True:
        await eventually(lambda: run.session_id in process.news)
        process.news.clear()
        taken = await process.decisions.take(run.session_id, accept)
        assert taken.checkpoint == run.checkpoint
        assert not taken.is_changed
        if taken.decision is not None:
            return taken.decision


class DeciderEnds(Exception):
    """The process of the decider ends at this point."""


async def decide_without_announcing(process: Process, run: StoredRun, decision: Decision) -> None:
    """Record a decision in a process that ends before it can publish it."""

    def end() -> None:
        raise DeciderEnds

    with pytest.raises(DeciderEnds):
        await process.requests.decide(await stored(process, run), decision, on_recorded=end)


async def test_a_decision_wakes_the_run_and_is_taken(process: Process, other: Process) -> None:
    run, _ = await waiting(process)
    nothing = await process.decisions.take(run.session_id, accept)
    assert (nothing.checkpoint, nothing.decision, nothing.is_changed) == (run.checkpoint, None, False)
    decision = run.decision()
    await decide(other, run, decision)
    assert await until_decided(process, run) == decision


async def test_a_decision_that_comes_before_the_commit_that_shows_the_request_is_not_lost(
    process: Process, other: Process
) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    run.request_approval()
    await process.decisions.open_request(run.checkpoint, run.approval, run.wait.deadline_at)
    decision = run.decision()
    await decide(other, run, decision)
    await run.commit(process.journal, lock)
    assert await until_decided(process, run) == decision


async def test_a_decision_that_nobody_watched_for_is_taken_by_the_next_process(
    start: StartProcess, process: Process
) -> None:
    gone = await start()
    run, _ = await waiting(gone)
    await gone.parts.cut_off()
    decision = run.decision()
    await decide(process, run, decision)
    heir = await start()
    await heir.decisions.watch(run.session_id, run.approval.request_id)
    assert (await heir.decisions.take(run.session_id, accept)).decision == decision


@pytest.mark.slow
async def test_a_decision_whose_message_is_lost_is_found_within_seconds(process: Process, other: Process) -> None:
    run, _ = await waiting(process)
    decision = run.decision("rejected")
    await decide_without_announcing(other, run, decision)
    assert await until_decided(process, run) == decision


async def test_a_decision_of_an_outage_is_not_lost(process: Process, other: Process, store: Store) -> None:
    """It was recorded before; nothing can be taken while it lasts."""
    run, _ = await waiting(process)
    decision = run.decision()
    await decide_without_announcing(other, run, decision)
    async with store.outage():
        taking = asyncio.create_task(process.decisions.take(run.session_id, accept))
        await asyncio.sleep(0.2)
    try:
        taken = (await taking).decision
    except StorageUnavailable:
        taken = await until_decided(process, run)
    assert taken == decision


async def test_of_many_decisions_at_once_none_is_lost(process: Process, other: Process) -> None:
    runs = [(await waiting(process, user_id=f"user{n}"))[0] for n in range(60)]
    decisions = [run.decision("approved" if n % 2 else "rejected") for n, run in enumerate(runs)]
    await asyncio.gather(*(decide(other, run, it) for run, it in zip(runs, decisions, strict=True)))
    await eventually(lambda: {run.session_id for run in runs} <= set(process.news))
    taken = await asyncio.gather(*(process.decisions.take(run.session_id, accept) for run in runs))
    assert [it.decision for it in taken] == decisions


async def test_a_decision_that_is_not_accepted_does_not_count(process: Process, other: Process) -> None:
    run, _ = await waiting(process)
    await decide(other, run, run.decision())

    def refuse(checkpoint: Checkpoint, decision: Decision) -> None:
        assert (checkpoint, decision.request_id) == (run.checkpoint, run.approval.request_id)
        raise SignalIgnored("its arguments do not fit")

    taken = await process.decisions.take(run.session_id, refuse)
    assert (taken.checkpoint, taken.decision) == (run.checkpoint, None)


async def test_a_decision_after_the_deadline_in_the_checkpoint_does_not_count(process: Process, other: Process) -> None:
    """The request may have another time: what counts is the checkpoint."""
    run = StoredRun(created_at=time.time() - 1000)
    lock = await run.create(process.journal)
    run.request_approval()
    run.checkpoint = structs.replace(run.checkpoint, deadline_at=time.time() - 1)
    await process.decisions.open_request(run.checkpoint, run.approval, time.time() + 60)
    await run.commit(process.journal, lock)
    await decide(other, run, run.decision())
    assert (await process.decisions.take(run.session_id, accept)).decision is None


async def test_the_decision_about_one_request_does_not_decide_the_next(process: Process, other: Process) -> None:
    run, lock = await waiting(process)
    first = run.decision()
    await decide(other, run, first)
    assert await until_decided(process, run) == first
    run.apply(ApprovalGranted(first.request_id, first.decided_at, "boss"))
    await run.commit(process.journal, lock)
    run.apply(ToolFinished("c1", answer="ok", result={}))
    await run.commit(process.journal, lock)
    run.request_approval("c2")
    await process.decisions.open_request(run.checkpoint, run.approval, run.wait.deadline_at)
    await run.commit(process.journal, lock)
    assert run.approval.request_id != first.request_id
    assert (await process.decisions.take(run.session_id, accept)).decision is None
    second = run.decision("rejected")
    await decide(other, run, second)
    process.news.clear()
    assert (await process.decisions.take(run.session_id, accept)).decision == second


async def test_a_session_that_is_not_watched_any_more_wakes_nobody(process: Process, other: Process) -> None:
    run, _ = await waiting(process)
    staying, _ = await waiting(process, user_id="lee")
    process.decisions.unwatch(run.session_id)
    process.decisions.unwatch(run.session_id)
    process.news.clear()
    await decide(other, run, run.decision())
    await decide(other, staying, staying.decision())
    await eventually(lambda: staying.session_id in process.news)
    assert run.session_id not in process.news


async def test_a_run_whose_data_is_gone_has_no_checkpoint(process: Process, other: Process) -> None:
    run = StoredRun()
    run.request_approval()
    await process.decisions.open_request(run.checkpoint, run.approval, run.wait.deadline_at)
    assert (await process.decisions.take(run.session_id, accept)).checkpoint is None
    await decide(other, run, run.decision())
    assert (await process.decisions.take(run.session_id, accept)).decision is None


async def test_a_decision_about_a_run_of_a_newer_release_is_left_to_it(process: Process, other: Process) -> None:
    run = StoredRun()
    lock = await run.create(process.journal)
    run.request_approval()
    await process.decisions.open_request(run.checkpoint, run.approval, run.wait.deadline_at)
    run.checkpoint = structs.replace(run.checkpoint, schema_version=SCHEMA_VERSION + 1)
    await run.commit(process.journal, lock)
    decision = run.decision()
    await decide(other, run, decision)
    with pytest.raises(CheckpointTooNew):
        await process.decisions.take(run.session_id, accept)
    assert (await stored(other, run)).decision == decision
