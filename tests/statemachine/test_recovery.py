"""A node takes a run over: what was under way is lost, nothing that may not be repeated is repeated unasked."""

from __future__ import annotations

import pytest

from statemachine.checkpoint import CallStatus, Checkpoint
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
from tests.statemachine.runs import NOW, Run, in_state, of, risky, safe


def interrupted_risky() -> Run:
    """An approved mail was being sent when the node died."""
    run = Run()
    run.ask(risky())
    run.grant(at=10)
    run.tell(RunRecovered(), at=20)
    return run


def test_a_model_turn_is_asked_again() -> None:
    run = Run()
    assert run.tell(RunRecovered()) == CallModel(tuple(run.checkpoint.messages))
    assert run.last == ()


def test_a_pause_before_the_next_attempt_is_kept() -> None:
    run = Run()
    run.tell(ModelFailed("unavailable", "429", retry_after_seconds=9))
    assert run.tell(RunRecovered()) == CallModel(tuple(run.checkpoint.messages), "", NOW + 9)


def test_streamed_text_is_continued() -> None:
    run = Run()
    run.tell(AnswerArrived("안녕하"))
    effect = run.tell(RunRecovered(streamed="안녕하"))
    assert isinstance(effect, CallModel)
    assert effect.streamed == "안녕하"


def test_a_harmless_call_is_run_again() -> None:
    run = in_state(State.TOOL)
    before = run.checkpoint
    effect = run.tell(RunRecovered())
    assert isinstance(effect, RunTools)
    assert [call.id for call in effect.calls] == ["c1"]
    assert run.checkpoint is before


def test_only_calls_without_an_outcome_are_run_again() -> None:
    run = Run()
    run.ask(safe("a"), safe("b"))
    run.finish("a")
    effect = run.tell(RunRecovered())
    assert isinstance(effect, RunTools)
    assert [call.id for call in effect.calls] == ["b"]


def test_a_call_that_may_have_taken_effect_waits_for_a_person_who_is_told() -> None:
    run = interrupted_risky()
    assert isinstance(run.effect, AwaitDecision)
    (hitl,) = of(Hitl, run.last)
    assert hitl.outcome_unknown is True
    assert hitl.message.startswith("이 작업은 이미 실행되었을 수 있습니다.")
    assert "이메일을 발송하시겠습니까?" in hitl.message
    assert run.checkpoint.deadline_at == NOW + 320
    (call,) = run.checkpoint.calls
    assert (call.status, call.grant, call.outcome_unknown) == (CallStatus.REQUESTED, None, True)
    assert run.checkpoint.pending_approvals[0].outcome_unknown


def test_the_new_question_is_a_new_request() -> None:
    run = interrupted_risky()
    first, second = of(Hitl, run.events)
    assert first.request_id != second.request_id


def test_it_is_run_again_when_the_person_says_so() -> None:
    run = interrupted_risky()
    assert isinstance(run.grant(), RunTools)
    run.finish()
    assert run.outcomes() == ["pending", "executing", "pending", "executing", "completed"]


def test_it_is_skipped_when_the_person_says_so() -> None:
    run = interrupted_risky()
    assert isinstance(run.reject(skip=True), CallModel)
    assert "It may have run before" in run.answers["c1"]


def test_it_ends_the_run_when_the_person_refuses_and_the_history_does_not_claim_that_it_never_ran() -> None:
    run = interrupted_risky()
    assert isinstance(run.reject(reason="모르겠습니다"), Stop)
    assert run.answers["c1"] == "Not run again, it may have run before: 모르겠습니다"


def test_a_safe_call_that_may_not_be_repeated_needs_approval_from_then_on() -> None:
    run = Run()
    run.ask(safe(idempotent=False))
    run.tell(RunRecovered())
    (pending,) = of(ToolExecution, run.last)
    assert (pending.status, pending.requires_approval) == ("pending", True)
    run.grant()
    assert run.checkpoint.calls[0].grant is not None


def test_several_unknown_outcomes_are_asked_about_first_and_in_order() -> None:
    run = Run()
    run.ask(safe("a", idempotent=False), safe("b"), safe("c", idempotent=False), risky("d"))
    effect = run.tell(RunRecovered())
    assert isinstance(effect, RunTools)
    assert [call.id for call in effect.calls] == ["b"]
    assert [approval.call_id for approval in run.checkpoint.pending_approvals] == ["a", "c", "d"]
    run.tell(RunRecovered())
    assert [approval.call_id for approval in run.checkpoint.pending_approvals] == ["a", "c", "d"]
    assert isinstance(run.finish("b"), AwaitDecision)


def test_a_wait_goes_on_to_the_same_deadline_without_a_second_question() -> None:
    run = in_state(State.AWAITING_APPROVAL)
    effect = run.tell(RunRecovered(), at=299)
    assert effect == AwaitDecision(run.checkpoint.pending_approvals[0], NOW + 300)
    assert run.last == ()


def test_resumed_run_waits_on_for_the_same_approval() -> None:
    run = in_state(State.AWAITING_APPROVAL)
    before = run.checkpoint
    effect = run.tell(RunResumed(), at=299)
    assert effect == AwaitDecision(before.pending_approvals[0], NOW + 300)
    assert run.checkpoint is before
    assert run.last == ()


@pytest.mark.parametrize("state", [State.PLANNING, State.TOOL, State.AWAITING_APPROVAL, State.CONTENT])
def test_a_saved_run_goes_on_like_the_one_in_memory(state: State) -> None:
    run = in_state(state)
    loaded = Checkpoint.from_json(run.checkpoint.to_json())
    assert advance(loaded, RunRecovered(), NOW + 1) == advance(run.checkpoint, RunRecovered(), NOW + 1)
