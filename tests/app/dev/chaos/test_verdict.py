"""The verdict and the measured takeovers of `aura chaos`."""

from __future__ import annotations

from typing import Any

import pytest

from app.dev.chaos import takeover
from app.dev.chaos.clients import ClientConnection, RunRecord, Verdict
from app.dev.chaos.faults import FaultKind
from app.dev.chaos.injected import InjectedFault
from app.dev.chaos.plan import RunKind
from app.dev.chaos.takeover import Takeovers
from app.dev.chaos.verdict import Evidence, judge
from tests.harness.judged import LOG, SESSION, count_findings, ended, frame, run_plan


def test_client_that_received_the_log_has_no_findings() -> None:
    assert count_findings() == {}


def test_missing_events_are_lost_and_each_series_is_a_gap() -> None:
    assert count_findings([LOG[0], *LOG[2:]]) == {"lost_events": 1, "gaps": 1, "wrong_answers": 1}
    assert count_findings([LOG[1], LOG[3], LOG[4]]) == {"lost_events": 2, "gaps": 2, "wrong_answers": 1}


def test_repeated_or_reordered_events_are_duplicates() -> None:
    assert count_findings([*LOG[:2], LOG[1], *LOG[2:]]) == {"duplicate_ids": 1, "wrong_answers": 1}
    assert count_findings([LOG[1], LOG[0], *LOG[2:]]) == {"duplicate_ids": 1}
    assert count_findings(LOG, [*LOG[:2], LOG[1], *LOG[2:]]) == {"duplicate_ids": 1}


def test_finding_about_a_duplicate_names_the_connections_of_the_client() -> None:
    connections = [ClientConnection("http://a", 0), ClientConnection("http://b", 2)]
    record = RunRecord(run_plan(), SESSION, [*LOG[:2], LOG[1], *LOG[2:]], connections=connections)
    verdict = judge(Evidence(records=[record], planned=1, logs={SESSION: LOG}))
    (finding,) = (finding for finding in verdict.findings if finding.startswith("duplicate ids"))
    assert finding.endswith("[2] after [2] frames; connected to http://a after 0 frames, http://b after 2 frames")


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


SENT: tuple[str, Verdict] = ("send_email", "approved")
REFUSED: tuple[str, Verdict] = ("send_email", "skipped")


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
    assert count_findings(kind=RunKind.MAIL, decisions=decisions, executions={"send_email": mails}) == expected


def test_rejected_tool_that_ran_is_found() -> None:
    log = [LOG[0], *ended(4, "rejected")]
    decisions: list[tuple[str, Verdict]] = [("github_create_pr", "rejected")]
    assert count_findings(log, log, kind=RunKind.PULL_REQUEST, decisions=decisions) == {}
    assert count_findings(
        log, log, kind=RunKind.PULL_REQUEST, decisions=decisions, executions={"github_create_pr": 1}
    ) == {"tools_run_twice": 1}


def test_unknown_runs_missing_runs_and_broken_nodes_are_found() -> None:
    assert count_findings(stored_runs=frozenset({SESSION, "session_chaos1_1795000000_ffff"})) == {"runs_too_many": 1}
    assert count_findings(planned=3) == {"not_finished": 2}
    assert count_findings(node_problems=["node 1 died"]) == {"broken": 1}
    assert count_findings(takeovers=Takeovers(late=["too slow"])) == {"late_takeovers": 1}


LOST_RUN = [LOG[0], frame(2, "error", errorType="StorageUnavailable"), *ended(3, "failed")]
DURING, BEFORE = [(12.0, 15.0)], [(3.0, 9.0)]


def test_run_of_which_a_failover_lost_writes_is_counted_apart_where_its_client_knows() -> None:
    assert count_findings(LOST_RUN, LOST_RUN) == {"wrong_ends": 1}
    assert count_findings(LOST_RUN, LOST_RUN, lossy_times=BEFORE) == {"wrong_ends": 1}
    assert count_findings(LOST_RUN, LOST_RUN, lossy_times=DURING, has_replicas=True) == {"lost": 1}
    assert count_findings(LOST_RUN, [LOG[0]], lossy_times=DURING) == {"lost": 1}  # only the reader knows
    assert count_findings(LOG[:2], [], is_gone=True, lossy_times=DURING) == {"lost": 1}
    again = frozenset({f"session_{run_plan(RunKind.ANSWER).user}_1795000000_ffff"})  # its idempotency key was lost, too
    assert count_findings(LOG[:2], [], is_gone=True, lossy_times=DURING, stored_runs=again) == {"lost": 2}
    assert count_findings(LOG[:2], LOG[:2], lossy_times=DURING, stored_runs=again)["runs_too_many"] == 1


def test_run_that_a_failover_spoiled_without_an_error_is_a_failure() -> None:
    assert count_findings(LOG[:3], LOG[:3], lossy_times=DURING) == {"not_finished": 1}
    doubled = [LOG[0], LOG[1], frame(3, "content", content="하나 둘"), *ended(4)]
    assert count_findings(doubled, doubled, lossy_times=DURING) == {"wrong_answers": 1}


def test_run_that_had_ended_well_before_the_failover_lost_its_end_is_counted_apart() -> None:
    assert count_findings(LOG, LOG[:3], lossy_times=DURING) == {"lost": 1}
    assert count_findings(LOG, LOG[:3]) == {"foreign_frames": 2}
    rejected, decisions = [LOG[0], *ended(2, "rejected")], [("send_email", "rejected")]
    given: dict[str, Any] = {"kind": RunKind.MAIL, "decisions": decisions, "has_replicas": True}
    assert count_findings(rejected, LOG[:1], **given, lossy_times=DURING) == {"lost": 1}


def test_call_that_failed_as_its_run_was_lost_is_counted_with_the_run() -> None:
    failed = frame(2, "tool_execution", toolName="send_email", toolCallId="call-1", status="failed")
    log = [LOG[0], failed, frame(3, "error", errorType="StorageUnavailable"), *ended(4, "failed")]
    given: dict[str, Any] = {"kind": RunKind.MAIL, "decisions": [SENT], "has_replicas": True}
    assert count_findings(log, log, **given, lossy_times=DURING) == {"lost": 1}
    assert count_findings(log, log, **given) == {"wrong_ends": 1, "calls_lost": 1}


def test_second_run_of_a_tool_is_a_failure_unless_no_replica_acknowledged_the_first() -> None:
    given: dict[str, Any] = {"kind": RunKind.MAIL, "decisions": [SENT], "executions": {"send_email": 2}}
    assert count_findings(**given, lossy_times=DURING, has_replicas=True) == {"tools_run_twice": 1}
    assert count_findings(**given, lossy_times=DURING) == {"lost": 1}
    assert count_findings(**given, lossy_times=BEFORE) == {"tools_run_twice": 1}


def test_interrupted_experiment_is_judged_by_what_it_has_shown() -> None:
    given: dict[str, Any] = {"planned": 7, "is_interrupted": True}
    assert count_findings(LOG[:3], LOG, **given) == {}
    assert count_findings([LOG[0], LOG[2]], LOG, **given) == {"lost_events": 1, "gaps": 1}
    assert count_findings(kind=RunKind.MAIL, decisions=[SENT], executions={"send_email": 2}, **given) == {
        "tools_run_twice": 1
    }


def test_stream_whose_log_could_not_be_read_is_not_compared_with_it() -> None:
    assert count_findings(logs={}) == {}
    assert count_findings(LOG[:3], logs={}) == {"not_finished": 1}


def test_interrupted_client_may_not_know_its_run() -> None:
    started = RunRecord(run_plan(), None)
    assert judge(Evidence([started], 1, stored_runs=frozenset({SESSION}), is_interrupted=True)).is_good
    assert not judge(Evidence([started], 1, stored_runs=frozenset({SESSION}))).is_good


# --- takeovers --------------------------------------------------------------------------------------------------------


def line(second: float, event: str, **fields: Any) -> dict[str, Any]:
    return {"timestamp": f"2026-01-01T00:00:{second:09.6f}Z", "event": event, **fields}


T0 = takeover.time_of(line(0, ""))
JOINED = line(1, "node.joined", nodeId="node-a")


def taken_over(second: float) -> dict[str, Any]:
    return line(second, "run.taken_over", fromNode="node-a", sessionId=SESSION)


def fault(kind: FaultKind, since: float, until: float, node: int = 0) -> InjectedFault:
    return InjectedFault(kind, node, T0 + since, T0 + until)


def outage(kind: FaultKind, since: float, over: float, until: float, node: int = -1) -> InjectedFault:
    """A fault whose outage is over at a time, and which ends later."""
    return InjectedFault(kind, node, T0 + since, T0 + until, (T0 + since, T0 + over))


def test_takeover_time_starts_at_the_owners_first_fault() -> None:
    injected = [fault(FaultKind.KILL, 9, 12), fault(FaultKind.PAUSE, 5, 8), fault(FaultKind.KILL, 0.5, 1)]
    found = takeover.measure([[JOINED], [taken_over(16)]], injected, 10)
    assert found.counts == {"pause": 1}
    assert found.slowest_seconds["pause"] == pytest.approx(11)
    assert found.late == []
    assert len(takeover.measure([[JOINED], [taken_over(17.5)]], injected, 10).late) == 1


def test_takeover_of_a_run_that_a_failover_has_taken_from_the_lists_has_no_bound() -> None:
    def measure(second: float, node: str) -> takeover.Takeovers:
        found_again = line(second, "run.listed_again", sessionId=SESSION, ofNode=node)
        return takeover.measure([[JOINED], [found_again, taken_over(17.5)]], [fault(FaultKind.KILL, 5, 6)], 10)

    assert (measure(16, "node-a").counts, measure(16, "node-a").late) == ({"other": 1}, [])
    assert len(measure(19, "node-a").late) == len(measure(16, "node-b").late) == 1


def test_takeover_time_excludes_redis_outages() -> None:
    injected = [fault(FaultKind.KILL, 5, 6), outage(FaultKind.REDIS_PAUSE, 7, 10, 10)]
    found = takeover.measure([[JOINED], [taken_over(19)]], injected, 10)
    assert found.slowest_bounded_seconds == pytest.approx(11)
    assert found.late == []


def test_takeover_time_excludes_failovers_once_where_they_overlap() -> None:
    injected = [
        fault(FaultKind.KILL, 5, 6),
        outage(FaultKind.MASTER_KILL, 7, 10, 13),
        outage(FaultKind.MASTER_CUT, 8, 11, 11, node=1),
        fault(FaultKind.RESHARD, 11, 14, node=-1),
    ]
    found = takeover.measure([[JOINED], [taken_over(19)]], injected, 10)
    assert found.slowest_bounded_seconds == pytest.approx(10)


def test_takeover_that_waits_until_the_servers_have_healed_is_late() -> None:
    injected = [fault(FaultKind.KILL, 5, 6), outage(FaultKind.MASTER_KILL, 7, 10, 22)]
    found = takeover.measure([[JOINED], [taken_over(22)]], injected, 10)
    assert found.slowest_bounded_seconds == pytest.approx(14)
    assert len(found.late) == 1


def test_seed_kill_that_interrupts_nothing_excuses_no_late_takeover() -> None:
    injected = [fault(FaultKind.KILL, 5, 6), fault(FaultKind.SEED_KILL, 7, 12, node=-1)]
    assert len(takeover.measure([[JOINED], [taken_over(18)]], injected, 10).late) == 1


def test_node_that_was_cut_from_one_master_may_have_kept_its_lease() -> None:
    injected = [outage(FaultKind.MASTER_CUT, 2, 4, 4, node=0), fault(FaultKind.KILL, 8, 9)]
    found = takeover.measure([[JOINED], [taken_over(16)]], injected, 10)
    assert found.counts == {"kill": 1}
    assert found.slowest_seconds["kill"] == pytest.approx(8)


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
