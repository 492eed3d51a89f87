"""Takeover of a run: work in progress is lost, and a call that is not idempotent is never repeated unapproved."""

from __future__ import annotations

import pytest

from statemachine.call import CallStatus
from statemachine.checkpoint import Checkpoint
from statemachine.events import Hitl, ToolExecution
from statemachine.messages import (
    AnswerArrived,
    AwaitDecision,
    CallModel,
    ModelFailed,
    RunRecovered,
    RunResumed,
    RunTools,
    Stop,
)
from statemachine.states import State
from statemachine.workflow import advance
from tests.statemachine.runs import NOW, Run, in_state, of_type, risky, safe


def interrupted_risky() -> Run:
    """Return a run whose node crashed while an approved mail was being sent."""
    run = Run()
    run.request_tools(risky())
    run.approve(at=10)
    run.apply(RunRecovered(), at=20)
    return run


def test_model_turn_is_requested_again() -> None:
    run = Run()
    assert run.apply(RunRecovered()) == CallModel(tuple(run.checkpoint.messages))
    assert run.last_events == ()


def test_pause_before_the_next_attempt_is_kept() -> None:
    run = Run()
    run.apply(ModelFailed("unavailable", "429", retry_after_seconds=9))
    assert run.apply(RunRecovered()) == CallModel(tuple(run.checkpoint.messages), "", NOW + 9)


def test_streamed_text_is_continued() -> None:
    run = Run()
    run.apply(AnswerArrived("안녕하"))
    effect = run.apply(RunRecovered(streamed="안녕하"))
    assert isinstance(effect, CallModel)
    assert effect.streamed == "안녕하"


def test_idempotent_call_is_run_again() -> None:
    run = in_state(State.TOOL)
    before = run.checkpoint
    effect = run.apply(RunRecovered())
    assert isinstance(effect, RunTools)
    assert [call.id for call in effect.calls] == ["c1"]
    assert run.checkpoint is before


def test_only_calls_without_an_outcome_are_run_again() -> None:
    run = Run()
    run.request_tools(safe("a"), safe("b"))
    run.finish_call("a")
    effect = run.apply(RunRecovered())
    assert isinstance(effect, RunTools)
    assert [call.id for call in effect.calls] == ["b"]


def test_call_with_unknown_outcome_needs_a_new_approval() -> None:
    run = interrupted_risky()
    assert isinstance(run.effect, AwaitDecision)
    (hitl,) = of_type(Hitl, run.last_events)
    assert hitl.outcome_unknown is True
    assert hitl.message.startswith("이 작업은 이미 실행되었을 수 있습니다.")
    assert "이메일을 발송하시겠습니까?" in hitl.message
    assert run.checkpoint.deadline_at == NOW + 320
    (call,) = run.checkpoint.calls
    assert (call.status, call.grant, call.outcome_unknown) == (CallStatus.REQUESTED, None, True)
    assert run.checkpoint.pending_approvals[0].outcome_unknown


def test_new_approval_has_a_new_request_id() -> None:
    run = interrupted_risky()
    first, second = of_type(Hitl, run.events)
    assert first.request_id != second.request_id


def test_approved_call_with_unknown_outcome_is_run_again() -> None:
    run = interrupted_risky()
    assert isinstance(run.approve(), RunTools)
    run.finish_call()
    assert run.outcomes() == ["pending", "executing", "pending", "executing", "completed"]


def test_call_with_unknown_outcome_can_be_skipped() -> None:
    run = interrupted_risky()
    assert isinstance(run.reject(skip=True), CallModel)
    assert "It may have run before" in run.model_answers["c1"]


def test_rejected_call_with_unknown_outcome_may_have_run_in_the_history() -> None:
    run = interrupted_risky()
    assert isinstance(run.reject(reason="모르겠습니다"), Stop)
    assert run.model_answers["c1"] == "Not run again, it may have run before: 모르겠습니다"


def test_safe_call_that_is_not_idempotent_needs_an_approval_after_takeover() -> None:
    run = Run()
    run.request_tools(safe(idempotent=False))
    run.apply(RunRecovered())
    (pending,) = of_type(ToolExecution, run.last_events)
    assert (pending.status, pending.requires_approval) == ("pending", True)
    run.approve()
    assert run.checkpoint.calls[0].grant is not None


def test_unknown_outcomes_are_first_in_the_approval_queue_in_order() -> None:
    run = Run()
    run.request_tools(safe("a", idempotent=False), safe("b"), safe("c", idempotent=False), risky("d"))
    effect = run.apply(RunRecovered())
    assert isinstance(effect, RunTools)
    assert [call.id for call in effect.calls] == ["b"]
    assert [approval.call_id for approval in run.checkpoint.pending_approvals] == ["a", "c", "d"]
    run.apply(RunRecovered())
    assert [approval.call_id for approval in run.checkpoint.pending_approvals] == ["a", "c", "d"]
    assert isinstance(run.finish_call("b"), AwaitDecision)


def test_takeover_keeps_the_open_approval_and_its_deadline() -> None:
    run = in_state(State.AWAITING_APPROVAL)
    effect = run.apply(RunRecovered(), at=299)
    assert effect == AwaitDecision(run.checkpoint.pending_approvals[0], NOW + 300)
    assert run.last_events == ()


def test_resumed_run_continues_to_wait_for_the_same_approval() -> None:
    run = in_state(State.AWAITING_APPROVAL)
    before = run.checkpoint
    effect = run.apply(RunResumed(), at=299)
    assert effect == AwaitDecision(before.pending_approvals[0], NOW + 300)
    assert run.checkpoint is before
    assert run.last_events == ()


@pytest.mark.parametrize("state", [State.PLANNING, State.TOOL, State.AWAITING_APPROVAL, State.CONTENT])
def test_saved_run_continues_like_the_one_in_memory(state: State) -> None:
    run = in_state(state)
    loaded = Checkpoint.from_json(run.checkpoint.to_json())
    assert advance(loaded, RunRecovered(), NOW + 1) == advance(run.checkpoint, RunRecovered(), NOW + 1)
