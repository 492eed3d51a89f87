"""Random sequences of legal and illegal facts: the invariants of `runs.check_invariants` hold after every step."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.errors import FactRefused
from statemachine.events import End
from statemachine.messages import (
    AnswerArrived,
    AnswerFinished,
    ApprovalGranted,
    ApprovalRejected,
    CancelRequested,
    DeadlinePassed,
    Fact,
    InternalErrorOccurred,
    ModelFailed,
    RequestedCall,
    RunRecovered,
    RunResumed,
    ThoughtArrived,
    ToolFinished,
    ToolsRequested,
)
from statemachine.workflow import advance
from tests.statemachine.runs import NOW, Run, of_type, risky, safe

IDS = ["", "a", "b", "c", "a-1-1", "call-1-0"]
CALLS = st.builds(
    RequestedCall,
    id=st.sampled_from(IDS),
    name=st.sampled_from(["search", "send_email"]),
    arguments=st.sampled_from([{}, {"to": "a"}]),
    raw_arguments=st.just("{}"),
    needs_approval=st.booleans(),
    idempotent=st.booleans(),
    refusal=st.sampled_from([None, None, None, "no such tool"]),
    plan=st.sampled_from([None, None, None, ()]),
)
KINDS = st.sampled_from(
    [
        *["request tools", "finish", "grant", "reject", "recover"] * 3,
        *["finish badly", "grant edited", "skip", "thought", "answer", "answered", "model", "deadline"],
        *["broke", "cancel", "resume"],
    ]
)


def make_fact(kind: str, pick: int, calls: list[RequestedCall], run: Run) -> Fact:
    """Return a fact of a kind. `pick` selects its call or request, which may not exist, and its time."""
    ids = [*(call.id for call in run.checkpoint.calls), "other"]
    requests = [*(approval.request_id for approval in run.checkpoint.pending_approvals), "req-other"]
    call_id, request_id = ids[-1 - pick % len(ids)], requests[pick // 4 % len(requests)]
    decided_at = (run.now, run.now, NOW, NOW + 1e6)[pick % 4]
    facts: dict[str, Fact] = {
        "request tools": ToolsRequested(tuple(calls)),
        "finish": ToolFinished(call_id, "ok"),
        "finish badly": ToolFinished(call_id, "The tool failed", error="broken"),
        "grant": ApprovalGranted(request_id, decided_at),
        "grant edited": ApprovalGranted(request_id, decided_at, "boss", {"to": "b"}, (["to"],)),
        "reject": ApprovalRejected(request_id, decided_at),
        "skip": ApprovalRejected(request_id, decided_at, skip=True),
        "recover": RunRecovered(),
        "resume": RunResumed(),
        "thought": ThoughtArrived("흠"),
        "answer": AnswerArrived("답"),
        "answered": AnswerFinished("답", "답"),
        "model": ModelFailed("interrupted" if pick % 2 else "timeout", "no"),
        "deadline": DeadlinePassed(),
        "broke": InternalErrorOccurred("broken"),
        "cancel": CancelRequested("user1"),
    }
    return facts[kind]


LIMITS = st.fixed_dictionaries(
    {
        "turns": st.integers(1, 4),
        "on_reject": st.sampled_from(["stop", "replan"]),
        "run_seconds": st.just(900),
        "tokens": st.sampled_from([0, 1000, 2000, 4000]),
        "completion_tokens": st.sampled_from([0, 200]),
    }
)
SECONDS = st.sampled_from([0, 0, 0, 1, 1, 299.999, 300])
MOVES = st.lists(st.tuples(KINDS, st.integers(0, 15), st.lists(CALLS, max_size=4), SECONDS), min_size=1, max_size=14)


@settings(max_examples=150, deadline=None)
@given(MOVES, LIMITS)
def test_invariants_hold_for_any_sequence_of_facts(
    moves: list[tuple[str, int, list[RequestedCall], float]], limits: dict[str, object]
) -> None:
    run, at = Run(**limits), 0.0
    for kind, pick, calls, seconds in moves:
        checkpoint, event_count = run.checkpoint, len(run.events)
        before = checkpoint.to_json()
        at += seconds
        try:
            run.apply(make_fact(kind, pick, calls, run), at=at)
        except FactRefused:
            assert run.checkpoint is checkpoint
            assert len(run.events) == event_count
        else:
            assert not checkpoint.state.is_final, "a final state accepts no fact"
        assert checkpoint.to_json() == before
    assert len(of_type(End, run.events)) == run.checkpoint.state.is_final


@settings(max_examples=60, deadline=None)
@given(st.lists(CALLS, min_size=1, max_size=5), st.data())
def test_any_turn_of_calls_can_be_completed(calls: list[RequestedCall], data: st.DataObject) -> None:
    """If a person decides and the tools finish, every run ends."""
    run = Run(on_reject="replan")
    run.request_tools(*calls)
    for _ in range(3 * len(calls) + 1):
        if run.checkpoint.open_approval is not None:
            if data.draw(st.booleans(), label="approve"):
                run.approve()
            else:
                run.reject()
        elif run.checkpoint.running:
            if data.draw(st.booleans(), label="node crashes"):
                run.apply(RunRecovered())
            if run.checkpoint.running:
                run.finish_call(data.draw(st.sampled_from(run.checkpoint.running), label="finished").id)
    if run.checkpoint.open_approval is None and not run.checkpoint.running:
        run.apply(AnswerFinished("끝", "끝"))
        assert run.state == "done"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["safe", "risky"]), min_size=1, max_size=4), st.sampled_from(["save", "keep"]))
def test_advance_depends_only_on_checkpoint_fact_and_time(kinds: list[str], how: str) -> None:
    calls = tuple(safe(f"c{n}") if kind == "safe" else risky(f"c{n}") for n, kind in enumerate(kinds))
    checkpoint = Run().checkpoint
    again = type(checkpoint).from_json(checkpoint.to_json()) if how == "save" else checkpoint
    fact = ToolsRequested(calls)
    assert advance(checkpoint, fact, NOW + 1) == advance(again, fact, NOW + 1)
