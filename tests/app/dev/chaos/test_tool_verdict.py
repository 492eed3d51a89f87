"""The verdict of `aura chaos` about plugged-in tools and those of an MCP server."""

from __future__ import annotations

from typing import Any

import pytest

from app.dev.chaos.clients import Frame, Verdict
from app.dev.chaos.plan import MCP_TOOL, NOTICE_TOOL, ORDER_TOOL, RunKind
from tests.harness.judged import count_findings, ended, frame, run_plan

WARNED = {"warnings": [{"code": "outside_text", "field": "", "message": "?"}]}
AWAY = [(12.0, 15.0)]
NOT_SENT = "the MCP server 'notes' is not connected; nothing was sent"
Decisions = list[tuple[str, Verdict]]


def statuses(tool: str, *calls: tuple[str, ...], error: str | None = None) -> list[Frame]:
    """A complete log with these statuses of each call; `error` is that of the failed ones."""
    frames: list[Frame] = [frame(1, "start")]
    for number, call in enumerate(calls):
        for status in call:
            fields: dict[str, Any] = {"toolName": tool, "toolCallId": f"call-{number}", "status": status}
            frames.append(
                frame(len(frames) + 1, "tool_execution", **fields, error=error if status == "failed" else None)
            )
    frames.append(frame(len(frames) + 1, "content", content="하나 둘"))
    return [*frames, *ended(len(frames) + 1)]


def findings(log: list[Frame], kind: RunKind, decisions: Decisions, **given: Any) -> dict[str, int]:
    return count_findings(log, log, kind=kind, decisions=decisions, **given)


RAN = ("pending", "executing", "completed")
NOT_MADE = ("pending", "executing", "failed")


@pytest.mark.parametrize(
    ("verdicts", "executions", "expected"),
    [
        (["approved"], 1, {}),
        (["approved"], 2, {"tools_run_twice": 1}),
        (["approved"], 0, {"calls_lost": 2}),  # it is reported as completed, and its approval had no effect
        (["approved", "approved"], 2, {}),
        (["approved", "skipped"], 2, {"tools_run_twice": 1}),
    ],
)
@pytest.mark.parametrize(("tool", "kind"), [(ORDER_TOOL, RunKind.ORDER), (MCP_TOOL, RunKind.MCP_NOTE)])
def test_plugged_in_tool_runs_at_most_once_for_each_approval(
    tool: str, kind: RunKind, verdicts: list[Verdict], executions: int, expected: dict[str, int]
) -> None:
    decisions = [(tool, verdict) for verdict in verdicts]
    assert findings(statuses(tool, RAN), kind, decisions, executions={tool: executions}) == expected


def test_each_call_has_one_idempotency_key_for_all_its_attempts() -> None:
    decisions: Decisions = [(ORDER_TOOL, "approved"), (ORDER_TOOL, "approved")]
    log = statuses(ORDER_TOOL, ("pending", "executing", "pending", "executing", "completed"))
    mark = run_plan(RunKind.ORDER).mark(ORDER_TOOL)
    for keys, expected in [(1, {}), (2, {"changed_keys": 1})]:
        given: dict[str, Any] = {"executions": {ORDER_TOOL: 2}, "keys": {ORDER_TOOL: {mark: keys}}}
        assert findings(log, RunKind.ORDER, decisions, **given) == expected
    under_way = [log[0]]  # the experiment was interrupted, and the call was started after the log was read
    given = {"executions": {ORDER_TOOL: 1}, "keys": {ORDER_TOOL: {mark: 1}}, "is_interrupted": True}
    assert findings(under_way, RunKind.ORDER, decisions[:1], **given) == {}


def test_both_tools_of_a_run_are_judged() -> None:
    kind, decisions = RunKind.ORDER_AND_MCP_NOTE, [(ORDER_TOOL, "approved"), (MCP_TOOL, "approved")]
    given: dict[str, Any] = {"decisions": decisions, "kind": kind}
    assert count_findings(**given, executions={ORDER_TOOL: 1, MCP_TOOL: 1}) == {}
    assert count_findings(**given, executions={ORDER_TOOL: 2, MCP_TOOL: 0}) == {"tools_run_twice": 1, "calls_lost": 1}


def test_call_that_was_not_made_because_the_mcp_server_was_away_is_no_failure_where_it_is_made_later() -> None:
    log = statuses(MCP_TOOL, NOT_MADE, RAN, error=NOT_SENT)
    decisions: Decisions = [(MCP_TOOL, "approved"), (MCP_TOOL, "approved")]
    given: dict[str, Any] = {"kind": RunKind.MCP_NOTE, "decisions": decisions}
    assert findings(log, **given, executions={MCP_TOOL: 1}, away_times=AWAY) == {}
    assert findings(log, **given, executions={MCP_TOOL: 1}) == {"calls_lost": 1}, "the server was there"
    assert findings(log, **given, executions={MCP_TOOL: 2}, away_times=AWAY) == {"tools_run_twice": 1}
    assert findings(log, **given, executions={MCP_TOOL: 0}, away_times=AWAY) == {"calls_lost": 2}


def test_call_that_is_given_up_after_it_was_not_made_is_lost() -> None:
    log = statuses(MCP_TOOL, NOT_MADE, error=NOT_SENT)
    decisions: Decisions = [(MCP_TOOL, "approved")]
    assert findings(log, RunKind.MCP_NOTE, decisions, executions={MCP_TOOL: 0}, away_times=AWAY) == {"calls_lost": 1}


@pytest.mark.parametrize(
    ("tool", "error"), [(MCP_TOOL, "the MCP server 'notes' was lost during the call"), (ORDER_TOOL, NOT_SENT)]
)
def test_any_other_failure_is_a_lost_call(tool: str, error: str) -> None:
    kind = {MCP_TOOL: RunKind.MCP_NOTE, ORDER_TOOL: RunKind.ORDER}[tool]
    log = statuses(tool, NOT_MADE, error=error)
    assert findings(log, kind, [(tool, "approved")], executions={tool: 1}, away_times=AWAY) == {"calls_lost": 1}


def test_call_without_an_outcome_in_a_run_that_completed_is_lost() -> None:
    log = statuses(ORDER_TOOL, ("pending", "executing"))
    assert findings(log, RunKind.ORDER, [(ORDER_TOOL, "approved")], executions={ORDER_TOOL: 1}) == {"calls_lost": 1}


def with_request(log: list[Frame], **fields: Any) -> list[Frame]:
    """The log with a request for an approval of the notice before everything else."""
    request = frame(0, "hitl", actionType=NOTICE_TOOL, requestId="req-0", **fields)
    return [request, *log]


def test_person_must_be_asked_and_warned_before_something_is_sent_after_text_from_outside() -> None:
    log = statuses(NOTICE_TOOL, RAN)
    given: dict[str, Any] = {"kind": RunKind.OUTSIDE_TEXT, "executions": {NOTICE_TOOL: 1}}
    decisions: Decisions = [(NOTICE_TOOL, "approved")]
    assert findings(with_request(log, **WARNED), decisions=decisions, **given) == {}
    assert findings(with_request(log), decisions=decisions, **given) == {"unguarded_calls": 1}
    other = {"warnings": [{"code": "invisible", "field": "text", "message": "?"}]}
    assert findings(with_request(log, **other), decisions=decisions, **given) == {"unguarded_calls": 1}
    not_asked = {"unguarded_calls": 1, "tools_run_twice": 1, "calls_lost": 1}
    assert findings(log, decisions=[], **given) == not_asked
