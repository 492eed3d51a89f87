"""`aura chaos`: its plan, its judgement, and a short one of its own on real processes."""

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


def test_a_seed_makes_one_plan() -> None:
    assert plan.runs(7, 50) == plan.runs(7, 50)
    assert plan.runs(7, 50)[:20] == plan.runs(7, 20)
    assert plan.runs(7, 50) != plan.runs(8, 50)
    assert first_faults(7) == first_faults(7)
    assert first_faults(7) != first_faults(8)


def test_the_runs_are_of_every_kind_and_meet_every_fate() -> None:
    runs = plan.runs(1, 300)
    assert {run.kind for run in runs} == set(RunKind)
    assert {run.decision_path for run in runs} == set(plan.DecisionPath)
    assert any(run.rejects for run in runs)
    assert any(run.cancels_after for run in runs)
    assert {run.skips_unknown for run in runs} == {True, False}
    assert len({run.prompt for run in runs}) == len({run.text for run in runs}) == 300


def test_a_node_is_hit_every_so_often_and_only_one_is_away_for_long() -> None:
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


def findings(
    seen: Sequence[Frame] = LOG,
    log: Sequence[Frame] = LOG,
    *,
    kind: RunKind = RunKind.ANSWER,
    said: Sequence[tuple[str, Verdict]] = (),
    cancelled: bool = False,
    mails: int = 0,
    pulls: int = 0,
    **evidence: Any,
) -> dict[str, int]:
    """The counts that are not zero."""
    run = run_plan(kind)
    decisions = [ClientDecision(f"req-{i}", tool, answer, i > 0, answer) for i, (tool, answer) in enumerate(said)]
    record = RunRecord(run, SESSION, list(seen), decisions, cancelled)
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


def test_a_client_that_saw_the_log_is_good() -> None:
    assert findings() == {}


def test_what_a_client_did_not_see_is_lost_and_each_hole_is_a_gap() -> None:
    assert findings([LOG[0], *LOG[2:]]) == {"lost_events": 1, "gaps": 1, "wrong_answers": 1}
    assert findings([LOG[1], LOG[3], LOG[4]]) == {"lost_events": 2, "gaps": 2, "wrong_answers": 1}


def test_what_comes_twice_or_out_of_order_is_a_duplicate() -> None:
    assert findings([*LOG[:2], LOG[1], *LOG[2:]]) == {"duplicate_ids": 1, "wrong_answers": 1}
    assert findings([LOG[1], LOG[0], *LOG[2:]]) == {"duplicate_ids": 1}


def test_a_frame_that_is_not_the_stored_one_is_foreign() -> None:
    assert findings([frame(1, "start", message="?"), *LOG[1:]]) == {"foreign_frames": 1}
    assert findings([(0, LOG[0][1]), *LOG]) == {"foreign_frames": 1}


def test_a_stream_that_did_not_end_lost_nothing_but_its_end() -> None:
    assert findings(LOG[:3]) == {"not_finished": 1}
    assert findings(LOG[:3], LOG[:3]) == {"not_finished": 1}
    assert findings([], []) == {"not_finished": 1}


def test_an_answer_is_right_to_the_letter_or_a_beginning_of_it_where_the_run_was_cut_short() -> None:
    doubled = [LOG[0], LOG[1], frame(3, "content", content="하나 둘"), *ended(4)]
    assert findings(doubled, doubled) == {"wrong_answers": 1}
    cut_short = [LOG[0], LOG[1], *ended(4, "cancelled")]
    assert findings(cut_short, cut_short, cancelled=True) == {}
    assert findings(cut_short, cut_short) == {"wrong_ends": 1}


def test_there_is_one_end_and_nothing_after_it() -> None:
    twice = [*LOG, *ended(6)]
    assert findings(twice, twice) == {"second_ends": 2}


SENT, REFUSED = ("send_email", "approved"), ("send_email", "skipped")


@pytest.mark.parametrize(
    ("said", "mails", "expected"),
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
def test_a_tool_runs_as_often_as_a_person_allowed(
    said: list[tuple[str, Verdict]], mails: int, expected: dict[str, int]
) -> None:
    assert findings(kind=RunKind.MAIL, said=said, mails=mails) == expected


def test_a_rejected_tool_never_runs() -> None:
    log = [LOG[0], *ended(4, "rejected")]
    said: list[tuple[str, Verdict]] = [("github_create_pr", "rejected")]
    assert findings(log, log, kind=RunKind.PULL_REQUEST, said=said) == {}
    assert findings(log, log, kind=RunKind.PULL_REQUEST, said=said, pulls=1) == {"tools_run_twice": 1}


def test_runs_of_nobody_runs_never_begun_and_broken_nodes_are_told() -> None:
    assert findings(stored_runs=frozenset({SESSION, "session_chaos1_1795000000_ffff"})) == {"runs_too_many": 1}
    assert findings(planned=3) == {"not_finished": 2}
    assert findings(node_problems=["node 1 died"]) == {"broken": 1}
    assert findings(takeovers=Takeovers(late=["too slow"])) == {"late_takeovers": 1}


# --- takeovers --------------------------------------------------------------------------------------------------------


def line(second: float, event: str, **fields: Any) -> dict[str, Any]:
    return {"timestamp": f"2026-01-01T00:00:{second:09.6f}Z", "event": event, **fields}


T0 = takeover._time(line(0, ""))
JOINED = line(1, "node.joined", node="node-a")


def claimed(second: float) -> dict[str, Any]:
    return line(second, "run.taken_over", from_node="node-a", session_id=SESSION)


def fault(kind: FaultKind, since: float, until: float, node: int = 0) -> InjectedFault:
    return InjectedFault(kind, node, T0 + since, T0 + until)


def test_a_takeover_counts_from_the_first_fault_of_the_owner() -> None:
    injected = [fault(FaultKind.KILL, 9, 12), fault(FaultKind.PAUSE, 5, 8), fault(FaultKind.KILL, 0.5, 1)]
    found = takeover.measure([[JOINED], [claimed(16)]], injected, 10)
    assert found.counts == {"pause": 1}
    assert found.slowest_seconds["pause"] == pytest.approx(11)
    assert found.late == []
    assert len(takeover.measure([[JOINED], [claimed(17.5)]], injected, 10).late) == 1


def test_the_time_without_redis_is_taken_off() -> None:
    injected = [fault(FaultKind.KILL, 5, 6), fault(FaultKind.REDIS_PAUSE, 7, 10, node=-1)]
    found = takeover.measure([[JOINED], [claimed(19)]], injected, 10)
    assert found.slowest_bounded_seconds == pytest.approx(11)
    assert found.late == []


def test_a_run_that_began_after_the_fault_counts_from_its_beginning() -> None:
    injected = [fault(FaultKind.CUT, 5, 20)]
    log = [JOINED, line(20, "run.started", sessionId=SESSION)]
    assert takeover.measure([log, [claimed(21)]], injected, 10).late == []


def test_a_run_whose_creation_got_through_late_counts_from_the_mending() -> None:
    injected = [fault(FaultKind.CUT, 5, 20)]
    log = [JOINED, line(9, "run.doubtful", sessionId=SESSION)]
    assert takeover.measure([log, [claimed(20.5)]], injected, 10).late == []
    assert len(takeover.measure([log, [claimed(19)]], injected, 10).late) == 1  # it was there before


def test_a_lease_lost_without_a_fault_is_not_timed() -> None:
    found = takeover.measure([[JOINED], [claimed(20)]], [fault(FaultKind.KILL, 5, 6, node=1)], 10)
    assert (found.counts, found.slowest_seconds) == ({"other": 1}, {})


# --- for real ---------------------------------------------------------------------------------------------------------


def chaos(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "app", "chaos", "--json", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def descendants(pid: int) -> set[int]:
    """The processes below one, by the kernel's word."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, row.split())) for row in listed.splitlines()]
    below: set[int] = set()
    while more := {child for child, parent in pairs if parent in {pid, *below}} - below:
        below |= more
    return below


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_short_one_loses_nothing() -> None:
    process = chaos("--runs", "12", "--kill-every", "2.0", "--lease", "2", "--seed", "4")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode() + errors.decode()
    found = json.loads(output)
    assert found["is_good"]
    assert found["findings"] == []
    assert sum(found["faults"].values()) > 0
    assert found["runs"] == 12


async def test_ctrl_c_leaves_nothing_behind() -> None:
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
    assert not [pid for pid in started if alive(pid)]
