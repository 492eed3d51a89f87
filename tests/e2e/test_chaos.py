"""`aura chaos`: the plan, the verdict, the measured takeovers, and a short experiment with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import pytest

from app.dev.chaos import plan, takeover
from app.dev.chaos.clients import DONE_BODY, ClientDecision, Frame, RunRecord, Verdict
from app.dev.chaos.cluster import InjectedFault
from app.dev.chaos.plan import Fault, FaultKind, RunKind, RunPlan
from app.dev.chaos.takeover import Takeovers
from app.dev.chaos.verdict import Evidence, judge
from tests.harness.fork_server import ROOT
from tests.harness.waiting import eventually

# --- the plan ---------------------------------------------------------------------------------------------------------


def first_faults(seed: int, count: int = 200, *, nodes: int = 3, lease_seconds: float = 10) -> list[Fault]:
    return list(islice(plan.faults(seed, nodes=nodes, every_seconds=2, lease_seconds=lease_seconds), count))


def test_seed_determines_the_plan() -> None:
    assert plan.runs(7, 50) == plan.runs(7, 50)
    assert plan.runs(7, 50)[:20] == plan.runs(7, 20)
    assert plan.runs(7, 50) != plan.runs(8, 50)
    assert first_faults(7) == first_faults(7)
    assert first_faults(7) != first_faults(8)


def test_plan_contains_every_kind_of_run_and_decision() -> None:
    runs = plan.runs(1, 300)
    assert {run.kind for run in runs} == set(RunKind)
    assert {run.decision_path for run in runs} == set(plan.DecisionPath)
    assert any(run.rejects for run in runs)
    assert any(run.cancels_after for run in runs)
    assert {run.skips_unknown for run in runs} == {True, False}
    assert len({run.prompt for run in runs}) == len({run.text for run in runs}) == 300


def test_faults_are_regular_and_one_node_at_a_time_is_away_longer_than_its_lease() -> None:
    faults = first_faults(3)
    assert {fault.kind for fault in faults} == set(FaultKind)
    assert {fault.node for fault in faults} == {0, 1, 2}
    assert all(later.at_seconds - earlier.at_seconds == 2 for earlier, later in pairwise(faults))
    away = [fault for fault in faults if fault.duration_seconds > 10 and not fault.kind.affects_redis]
    assert all(earlier.at_seconds + earlier.duration_seconds <= later.at_seconds for earlier, later in pairwise(away))
    for long in away:
        meanwhile = [f for f in faults if long.at_seconds < f.at_seconds < long.at_seconds + long.duration_seconds]
        assert all(fault.node != long.node for fault in meanwhile)


# --- the verdict ------------------------------------------------------------------------------------------------------

SESSION = "session_chaos1_1795000000_abcd"


def frame(id: int, type: str, **fields: Any) -> Frame:
    return id, f"event: {type}\ndata: {json.dumps({'type': type, **fields})}\n\n".encode()


def ended(id: int, status: str = "completed") -> list[Frame]:
    return [frame(id, "end", status=status), (id + 1, DONE_BODY)]


LOG = [frame(1, "start"), frame(2, "content", content="하나 "), frame(3, "content", content="둘"), *ended(4)]


def run_plan(kind: RunKind = RunKind.ANSWER) -> RunPlan:
    return replace(plan.runs(1, 1)[0], kind=kind, text="하나 둘")


def count_findings(
    seen: Sequence[Frame] = LOG,
    log: Sequence[Frame] = LOG,
    *,
    kind: RunKind = RunKind.ANSWER,
    decisions: Sequence[tuple[str, Verdict]] = (),
    cancelled: bool = False,
    mails: int = 0,
    pulls: int = 0,
    **evidence: Any,
) -> dict[str, int]:
    """Judge one run; returns the counts that are not zero."""
    run = run_plan(kind)
    client_decisions = [
        ClientDecision(f"req-{i}", tool, verdict, i > 0, verdict) for i, (tool, verdict) in enumerate(decisions)
    ]
    record = RunRecord(run, SESSION, list(seen), client_decisions, cancelled)
    given: dict[str, Any] = {
        "records": [record],
        "logs": {SESSION: log},
        "mails": {run.subject: mails},
        "pulls": {run.branch: pulls},
        "stored_runs": frozenset({SESSION}),
        "planned": 1,
        "node_problems": (),
        "takeovers": Takeovers(),
    }
    verdict = judge(Evidence(**{**given, **evidence}))
    counts = {name: getattr(verdict.counts, name) for name in type(verdict.counts).__slots__}
    assert verdict.is_good == (not any(counts.values())) == (not verdict.findings)
    return {name: count for name, count in counts.items() if count}


def test_client_that_received_the_log_has_no_findings() -> None:
    assert count_findings() == {}


def test_missing_events_are_lost_and_each_series_is_a_gap() -> None:
    assert count_findings([LOG[0], *LOG[2:]]) == {"lost_events": 1, "gaps": 1, "wrong_answers": 1}
    assert count_findings([LOG[1], LOG[3], LOG[4]]) == {"lost_events": 2, "gaps": 2, "wrong_answers": 1}


def test_repeated_or_reordered_events_are_duplicates() -> None:
    assert count_findings([*LOG[:2], LOG[1], *LOG[2:]]) == {"duplicate_ids": 1, "wrong_answers": 1}
    assert count_findings([LOG[1], LOG[0], *LOG[2:]]) == {"duplicate_ids": 1}


def test_frame_that_differs_from_the_log_is_foreign() -> None:
    assert count_findings([frame(1, "start", message="?"), *LOG[1:]]) == {"foreign_frames": 1}
    assert count_findings([(0, LOG[0][1]), *LOG]) == {"foreign_frames": 1}


def test_unfinished_stream_is_not_finished_and_loses_no_events() -> None:
    assert count_findings(LOG[:3]) == {"not_finished": 1}
    assert count_findings(LOG[:3], LOG[:3]) == {"not_finished": 1}
    assert count_findings([], []) == {"not_finished": 1}


def test_answer_must_equal_the_script_or_begin_it_where_cancelled() -> None:
    doubled = [LOG[0], LOG[1], frame(3, "content", content="하나 둘"), *ended(4)]
    assert count_findings(doubled, doubled) == {"wrong_answers": 1}
    cut_short = [LOG[0], LOG[1], *ended(4, "cancelled")]
    assert count_findings(cut_short, cut_short, cancelled=True) == {}
    assert count_findings(cut_short, cut_short) == {"wrong_ends": 1}


def test_events_after_the_end_are_second_ends() -> None:
    twice = [*LOG, *ended(6)]
    assert count_findings(twice, twice) == {"second_ends": 2}


SENT, REFUSED = ("send_email", "approved"), ("send_email", "skipped")


@pytest.mark.parametrize(
    ("decisions", "mails", "expected"),
    [
        ([SENT], 1, {}),
        ([SENT], 2, {"tools_run_twice": 1}),
        ([SENT], 0, {"calls_lost": 1}),
        ([SENT, SENT], 2, {}),
        ([SENT, SENT], 1, {}),
        ([SENT, SENT], 3, {"tools_run_twice": 1}),
        ([SENT, REFUSED], 0, {}),
        ([SENT, REFUSED], 1, {}),
        ([SENT, REFUSED], 2, {"tools_run_twice": 1}),
        ([], 0, {"calls_lost": 1}),
        ([], 1, {"tools_run_twice": 1, "calls_lost": 1}),
    ],
)
def test_tool_runs_at_most_once_for_each_approval(
    decisions: list[tuple[str, Verdict]], mails: int, expected: dict[str, int]
) -> None:
    assert count_findings(kind=RunKind.MAIL, decisions=decisions, mails=mails) == expected


def test_rejected_tool_that_ran_is_found() -> None:
    log = [LOG[0], *ended(4, "rejected")]
    decisions: list[tuple[str, Verdict]] = [("github_create_pr", "rejected")]
    assert count_findings(log, log, kind=RunKind.PULL_REQUEST, decisions=decisions) == {}
    assert count_findings(log, log, kind=RunKind.PULL_REQUEST, decisions=decisions, pulls=1) == {"tools_run_twice": 1}


def test_unknown_runs_missing_runs_and_broken_nodes_are_found() -> None:
    assert count_findings(stored_runs=frozenset({SESSION, "session_chaos1_1795000000_ffff"})) == {"runs_too_many": 1}
    assert count_findings(planned=3) == {"not_finished": 2}
    assert count_findings(node_problems=["node 1 died"]) == {"broken": 1}
    assert count_findings(takeovers=Takeovers(late=["too slow"])) == {"late_takeovers": 1}


# --- takeovers --------------------------------------------------------------------------------------------------------


def line(second: float, event: str, **fields: Any) -> dict[str, Any]:
    return {"timestamp": f"2026-01-01T00:00:{second:09.6f}Z", "event": event, **fields}


T0 = takeover.time_of(line(0, ""))
JOINED = line(1, "node.joined", nodeId="node-a")


def taken_over(second: float) -> dict[str, Any]:
    return line(second, "run.taken_over", fromNode="node-a", sessionId=SESSION)


def fault(kind: FaultKind, since: float, until: float, node: int = 0) -> InjectedFault:
    return InjectedFault(kind, node, T0 + since, T0 + until)


def test_takeover_time_starts_at_the_owners_first_fault() -> None:
    injected = [fault(FaultKind.KILL, 9, 12), fault(FaultKind.PAUSE, 5, 8), fault(FaultKind.KILL, 0.5, 1)]
    found = takeover.measure([[JOINED], [taken_over(16)]], injected, 10)
    assert found.counts == {"pause": 1}
    assert found.slowest_seconds["pause"] == pytest.approx(11)
    assert found.late == []
    assert len(takeover.measure([[JOINED], [taken_over(17.5)]], injected, 10).late) == 1


def test_takeover_time_excludes_redis_outages() -> None:
    injected = [fault(FaultKind.KILL, 5, 6), fault(FaultKind.REDIS_PAUSE, 7, 10, node=-1)]
    found = takeover.measure([[JOINED], [taken_over(19)]], injected, 10)
    assert found.slowest_bounded_seconds == pytest.approx(11)
    assert found.late == []


def test_takeover_time_of_a_later_run_starts_at_its_creation() -> None:
    injected = [fault(FaultKind.CUT, 5, 20)]
    log = [JOINED, line(20, "run.started", sessionId=SESSION)]
    assert takeover.measure([log, [taken_over(21)]], injected, 10).late == []


def test_takeover_time_after_an_unconfirmed_creation_starts_at_the_end_of_the_fault() -> None:
    injected = [fault(FaultKind.CUT, 5, 20)]
    log = [JOINED, line(9, "run.creation_unconfirmed", sessionId=SESSION)]
    assert takeover.measure([log, [taken_over(20.5)]], injected, 10).late == []
    assert len(takeover.measure([log, [taken_over(19)]], injected, 10).late) == 1  # the run existed during the fault


def test_lease_lost_without_a_fault_is_not_measured() -> None:
    found = takeover.measure([[JOINED], [taken_over(20)]], [fault(FaultKind.KILL, 5, 6, node=1)], 10)
    assert (found.counts, found.slowest_seconds) == ({"other": 1}, {})


# --- real processes ---------------------------------------------------------------------------------------------------


def chaos(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "app", "chaos", "--json", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def descendants(pid: int) -> set[int]:
    """The ids of all descendants of a process."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, row.split())) for row in listed.splitlines()]
    found: set[int] = set()
    while new := {child for child, parent in pairs if parent in {pid, *found}} - found:
        found |= new
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_short_experiment_finds_nothing() -> None:
    process = chaos("--runs", "12", "--kill-every", "2.0", "--lease", "2", "--seed", "4")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode() + errors.decode()
    found = json.loads(output)
    assert found["is_good"]
    assert found["findings"] == []
    assert sum(found["faults"].values()) > 0
    assert found["runs"] == 12


async def test_ctrl_c_stops_all_processes() -> None:
    process = chaos("--runs", "200", "--kill-every", "1.0", "--lease", "2", "--seed", "5")
    try:
        await eventually(lambda: len(descendants(process.pid)) > 3, 60)  # Redis and three nodes
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.wait, 30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert started
    assert not [pid for pid in started if is_alive(pid)]
