"""`ApprovalRequests`: a request is decided once, and everybody gets that decision (CONTRACT §5)."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest

from app.ports.decisions import ApprovalRequest, RequestStatus
from app.ports.journal import RunLock
from statemachine.decisions import Decision
from tests.journal_suite.conftest import Process
from tests.journal_suite.runs import ARGUMENTS, TENANT, USER, StoredRun


async def waiting(process: Process, *, deadline_at: float | None = None, **options: str) -> tuple[StoredRun, RunLock]:
    """Create a run that waits for an approval, as the engine does: the request first, then the commit that shows it."""
    run = StoredRun(**options)  # type: ignore[arg-type]
    lock = await run.create(process.journal)
    run.request_approval()
    await process.decisions.open_request(run.checkpoint, run.approval, deadline_at or run.wait.deadline_at)
    await run.commit(process.journal, lock)
    return run, lock


async def stored(process: Process, run: StoredRun) -> ApprovalRequest:
    found = await process.requests.get(run.approval.request_id)
    assert found is not None
    return found


async def decide(process: Process, run: StoredRun, decision: Decision) -> tuple[ApprovalRequest, bool]:
    return await process.requests.decide(await stored(process, run), decision)


async def test_an_open_request_shows_what_would_run(process: Process, other: Process) -> None:
    run, _ = await waiting(process)
    request = await stored(other, run)
    assert request.shows(run.approval)
    assert (request.session_id, request.user_id, request.tenant_id) == (run.session_id, USER, TENANT)
    assert (request.action_type, request.arguments) == ("send_email", ARGUMENTS)
    assert (request.status, request.decision, request.is_decided) == (RequestStatus.PENDING, None, False)
    assert request.expires_at == pytest.approx(run.wait.deadline_at, abs=0.001)
    assert request.place == (1, 1)


async def test_several_requests_are_returned_in_order(process: Process, other: Process) -> None:
    runs = [(await waiting(process, user_id=f"user{n}"))[0] for n in range(3)]
    ids = [run.approval.request_id for run in runs]
    found = await other.requests.get_many([ids[2], "req-000000000000", ids[0]])
    assert [it and it.session_id for it in found] == [runs[2].session_id, None, runs[0].session_id]
    assert await other.requests.get("req-000000000000") is None
    assert await other.requests.get_many([]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"arguments": {**ARGUMENTS, "subject": "다른 회의"}},
        {"verdict": "rejected", "reason": "아니요"},
        {"verdict": "rejected", "skip": True},
    ],
    ids=["approved", "edited", "rejected", "skipped"],
)
async def test_a_decision_is_stored_with_everything_that_it_says(
    process: Process, other: Process, changes: dict[str, object]
) -> None:
    run, _ = await waiting(process)
    decision = replace(run.decision(), **changes)  # type: ignore[arg-type]
    recorded: list[None] = []
    request, is_first = await other.requests.decide(
        await stored(other, run), decision, on_recorded=lambda: recorded.append(None)
    )
    assert (is_first, request.decision, recorded) == (True, decision, [None])
    for process_ in (process, other):
        found = await stored(process_, run)
        assert (found.decision, found.status) == (decision, RequestStatus(decision.verdict))
        assert found.is_decided
        assert found.is_intact


async def test_the_first_decision_counts(process: Process, other: Process) -> None:
    run, _ = await waiting(process)
    outdated = await stored(process, run)
    first, second = run.decision("rejected", "boss"), run.decision("approved", "owner")
    assert (await decide(other, run, first))[1] is True
    recorded: list[None] = []
    for request in (outdated, await stored(process, run)):
        found, is_this = await process.requests.decide(request, second, on_recorded=lambda: recorded.append(None))
        assert (found.decision, is_this, recorded) == (first, False, [])
    assert (await stored(other, run)).decision == first


async def test_of_decisions_at_the_same_time_one_counts_and_all_get_it(process: Process, other: Process) -> None:
    """Also where they are equal to the millisecond."""
    run, _ = await waiting(process)
    decisions = [run.decision("approved" if n % 2 else "rejected", f"boss{n // 4}") for n in range(8)]
    decisions[4:] = decisions[:4]
    requests = [process.requests, other.requests] * 4
    request = await stored(process, run)
    results = await asyncio.gather(
        *(port.decide(request, decision) for port, decision in zip(requests, decisions, strict=True))
    )
    assert [is_first for _, is_first in results].count(True) == 1
    (counts,) = [decision for decision, (_, is_first) in zip(decisions, results, strict=True) if is_first]
    assert {repr(found.decision) for found, _ in results} == {repr(counts)}
    assert (await stored(other, run)).decision == counts


async def test_after_the_deadline_nothing_is_recorded(process: Process, other: Process) -> None:
    deadline_at = time.time() + 60
    run, _ = await waiting(process, deadline_at=deadline_at)
    late, in_time = run.decision(at=deadline_at), run.decision(at=deadline_at - 1)
    request, is_first = await decide(other, run, late)
    assert (request.status, request.is_decided, is_first) == (RequestStatus.EXPIRED, False, False)
    assert (await stored(process, run)).status is RequestStatus.PENDING
    assert (await decide(process, run, in_time))[1] is True


@pytest.mark.parametrize("status", [RequestStatus.EXPIRED, RequestStatus.CANCELLED])
async def test_a_closed_request_cannot_be_decided(process: Process, other: Process, status: RequestStatus) -> None:
    run, _ = await waiting(process)
    outdated = await stored(other, run)
    assert await process.requests.close(run.approval.request_id, status) is None
    for request in (outdated, await stored(other, run)):
        found, is_first = await other.requests.decide(request, run.decision())
        assert (found.status, found.decision, is_first) == (status, None, False)
    closed = await other.requests.close(run.approval.request_id, RequestStatus.CANCELLED)
    assert closed is not None
    assert closed.status is status


async def test_a_decided_request_cannot_be_closed(process: Process, other: Process) -> None:
    run, _ = await waiting(process)
    decision = run.decision()
    await decide(other, run, decision)
    found = await process.requests.close(run.approval.request_id, RequestStatus.EXPIRED)
    assert found is not None
    assert (found.status, found.decision) == (RequestStatus.APPROVED, decision)
    assert (await stored(other, run)).decision == decision


async def test_a_request_is_either_decided_or_closed(process: Process, other: Process) -> None:
    for number in range(10):
        run, _ = await waiting(process, user_id=f"user{number}")
        request = await stored(other, run)
        (found, is_first), closed = await asyncio.gather(
            other.requests.decide(request, run.decision()),
            process.requests.close(run.approval.request_id, RequestStatus.EXPIRED),
        )
        assert is_first == (closed is not None) == found.is_decided
        assert (await stored(process, run)).status is found.status


async def test_closing_a_request_that_does_not_exist_changes_nothing(process: Process) -> None:
    assert await process.requests.close("req-000000000000", RequestStatus.EXPIRED) is None
    assert await process.requests.get("req-000000000000") is None


async def test_the_last_signal_of_a_session_is_its_decision(process: Process, other: Process) -> None:
    run, _ = await waiting(process)
    assert await other.requests.get_signal(run.session_id) is None
    await decide(other, run, replace(run.decision("rejected"), reason="아니요"))
    signal = json.loads(await process.requests.get_signal(run.session_id) or "")
    assert signal.pop("timestamp") == pytest.approx(time.time(), abs=5)
    assert signal == {
        "type": "rejection",
        "requestId": run.approval.request_id,
        "status": "rejected",
        "reason": "아니요",
    }
