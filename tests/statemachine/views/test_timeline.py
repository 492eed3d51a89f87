"""Timelines: a span for every state, model turn, tool and wait, with its outcome, decision and tokens."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from statemachine.checkpoint import Checkpoint, Usage
from statemachine.messages import (
    AnswerFinished,
    CancelRequested,
    DeadlinePassed,
    ModelFailed,
    ModelSource,
    RunRecovered,
    ToolFinished,
)
from statemachine.states import State
from statemachine.views.timeline import Span, SpanKind, Timeline, chrome_trace, timeline
from tests.statemachine.runs import NOW, Run, in_state, risky, safe

SAVED = sorted((Path(__file__).parents[3] / "fixtures" / "checkpoints").glob("*.json"))


def spans(run: Run, kind: SpanKind, at: float = 1000) -> list[Span]:
    return [span for span in timeline(run.checkpoint, NOW + at).spans if span.kind == kind]


def an_approved_mail() -> Run:
    """Return a run with two concurrent safe calls, a mail that a person edits and approves, and an answer."""
    run = Run()
    run.now = NOW + 2
    used = Usage(prompt_tokens=10, completion_tokens=5, total_tokens=15, cached_tokens=8)
    run.request_tools(safe("a"), safe("b"), risky("m"), usage=used, source=ModelSource("small-model", "origin-1"))
    run.apply(ToolFinished("a", "ok"), at=3)
    run.apply(ToolFinished("b", "ok"), at=5)
    run.approve(at=65, arguments={"to": "b"})
    run.apply(ToolFinished("m", "ok"), at=66)
    run.apply(AnswerFinished("끝", "끝", Usage(total_tokens=20)), at=70)
    return run


def test_every_transition_has_a_span_of_its_new_state() -> None:
    run = an_approved_mail()
    states = spans(run, "state")
    assert [(span.name, span.trigger, span.duration_seconds) for span in states] == [
        ("planning", None, 2),
        ("tool", "request_tools", 3),
        ("awaiting_approval", "ask_approval", 60),
        ("tool", "approve", 1),
        ("planning", "report_results", 4),
        ("content", "answer", 0),
        ("done", "finish", 0),
    ]
    assert all(before.ended_at == after.started_at for before, after in pairwise(states))
    assert not any(span.is_open for span in states)


def test_model_turn_has_its_duration_outcome_and_tokens() -> None:
    first, second = spans(an_approved_mail(), "model")
    assert (first.duration_seconds, first.outcome, second.duration_seconds, second.outcome) == (2, "tools", 4, "answer")
    assert first.tokens is not None
    assert (first.tokens.prompt_tokens, first.tokens.total_tokens, first.tokens.cached_tokens) == (10, 15, 8)
    whole = timeline(an_approved_mail().checkpoint, NOW)
    assert (whole.tokens.total_tokens, whole.duration_seconds, whole.waited_seconds) == (35, 70, 60)


def test_model_turn_names_its_model_and_cached_tokens_only_where_they_are_known() -> None:
    first, second = (span.to_json_object() for span in spans(an_approved_mail(), "model"))
    assert first["model"] == "small-model"
    assert first["tokens"]["cachedTokens"] == 8
    assert "model" not in second
    assert "cachedTokens" not in second["tokens"]


def test_tools_have_their_own_times_and_outcomes() -> None:
    tools = spans(an_approved_mail(), "tool")
    assert [(t.tool_call_id, t.started_at - NOW, t.duration_seconds, t.outcome) for t in tools] == [
        ("a", 2, 1, "completed"),
        ("b", 2, 3, "completed"),
        ("m", 65, 1, "completed"),
    ]


def test_wait_has_its_decision() -> None:
    (wait,) = spans(an_approved_mail(), "wait")
    assert (wait.name, wait.started_at - NOW, wait.duration_seconds) == ("approval of send_email", 5, 60)
    assert wait.decision is not None
    assert (wait.outcome, wait.decision.decided_by, wait.decision.decided_at, wait.decision.edited) == (
        "approved",
        "boss",
        NOW + 65,
        True,
    )


@pytest.mark.parametrize("skip", [True, False])
def test_rejection_has_its_reason(skip: bool) -> None:
    run = Run()
    run.request_tools(risky())
    run.now += 7
    run.reject(reason="틀린 주소", skip=skip)
    (wait,) = spans(run, "wait")
    assert wait.decision is not None
    assert (wait.outcome, wait.decision.decided_by, wait.decision.reason) == ("rejected", "boss", "틀린 주소")
    assert wait.duration_seconds == 7


@pytest.mark.parametrize(
    ("fact", "at", "verdict"), [(DeadlinePassed(), 300, "expired"), (CancelRequested("user1"), 9, "withdrawn")]
)
def test_wait_without_a_decision_has_its_outcome(fact: Any, at: float, verdict: str) -> None:
    run = in_state(State.AWAITING_APPROVAL)
    run.apply(fact, at=at)
    (wait,) = spans(run, "wait")
    assert (wait.outcome, wait.duration_seconds, wait.is_open) == (verdict, at, False)
    assert timeline(run.checkpoint, NOW + 1000).duration_seconds == at, "an ended run gets no longer"


def test_open_spans_last_until_now() -> None:
    run = in_state(State.AWAITING_APPROVAL)
    assert [
        (span.kind, span.duration_seconds) for span in timeline(run.checkpoint, NOW + 30).spans if span.is_open
    ] == [
        ("state", 30),
        ("wait", 30),
    ]
    (tool,) = spans(in_state(State.TOOL), "tool", 4)
    assert (tool.is_open, tool.outcome, tool.duration_seconds) == (True, None, 4)
    lagging = timeline(Run().checkpoint, NOW - 5)
    assert [span.duration_seconds for span in lagging.spans] == [0, 0], "the clock of another node"


def test_each_attempt_at_a_turn_has_a_span_and_a_pause_has_none() -> None:
    run = Run()
    run.apply(ModelFailed("unavailable", "503", retry_after_seconds=10), at=1)
    assert [span.name for span in spans(run, "model", 5)] == ["model turn 1"]
    run.apply(RunRecovered(), at=20)
    run.apply(ModelFailed("timeout", "silence"), at=25)
    assert [(s.name, s.started_at - NOW, s.duration_seconds, s.outcome) for s in spans(run, "model")] == [
        ("model turn 1", 0, 1, "failed"),
        ("model turn 1, attempt 2", 11, 9, "lost"),
        ("model turn 1, attempt 2", 20, 5, "failed"),
    ]


def test_turn_cancelled_before_its_start_has_no_span() -> None:
    run = Run()
    run.apply(ModelFailed("unavailable", "503", retry_after_seconds=10), at=1)
    run.apply(CancelRequested("user1"), at=2)
    assert [span.outcome for span in spans(run, "model")] == ["failed"]
    run = Run()
    run.apply(CancelRequested("user1"), at=2)
    assert [(span.outcome, span.duration_seconds) for span in spans(run, "model")] == [("stopped", 2)]


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_saved_run_of_an_older_release_has_a_timeline(path: Path) -> None:
    run = Checkpoint.from_json(path.read_bytes())
    shown = timeline(run, run.updated_at + 1)
    assert sum(span.kind == "state" for span in shown.spans) == len(run.path) + 1
    assert Timeline.model_validate(shown.to_json_object()) == shown


def test_json_has_the_names_of_the_api_and_round_trips() -> None:
    shown = timeline(an_approved_mail().checkpoint, NOW)
    data = shown.to_json_object()
    assert Timeline.model_validate(data) == shown
    assert set(data) == {
        *("sessionId", "state", "startedAt", "durationSeconds", "waitedSeconds", "isOpen", "tokens", "spans")
    }
    assert data["spans"][0] == {
        "kind": "state", "name": "planning", "startedAt": NOW, "durationSeconds": 2, "isOpen": False
    }  # fmt: skip


def test_trace_events_are_in_microseconds_and_do_not_overlap_in_a_lane() -> None:
    trace = chrome_trace(timeline(an_approved_mail().checkpoint, NOW))
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert set(names.values()) == {"states", "model", "waits", "tools 1", "tools 2"}
    assert all(isinstance(event["ts"], int) and isinstance(event["dur"], int) for event in events)
    assert {event["pid"] for event in trace["traceEvents"]} == {1}
    wait = next(event for event in events if event["cat"] == "wait")
    assert (wait["ts"], wait["dur"]) == (round((NOW + 5) * 1e6), 60_000_000)
    for lane in names:
        inside = [event for event in events if event["tid"] == lane]
        assert all(before["ts"] + before["dur"] <= after["ts"] for before, after in pairwise(inside))
    tools = {event["args"]["toolCallId"]: names[event["tid"]] for event in events if event["cat"] == "tool"}
    assert tools == {"a": "tools 1", "b": "tools 2", "m": "tools 1"}
