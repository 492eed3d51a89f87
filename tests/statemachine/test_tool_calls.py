"""The state `tool`: calls of a turn, their ids, their outcomes, the limits of a run."""

from __future__ import annotations

import pytest

from statemachine.call import CallStatus, Confidence
from statemachine.checkpoint import Usage
from statemachine.errors import FactRefused
from statemachine.events import (
    Content,
    ErrorRaised,
    Event,
    PlanStepDeclared,
    PlanStepUpdated,
    Thought,
    TimelineStepUpdated,
    ToolExecution,
)
from statemachine.messages import (
    AnswerArrived,
    AnswerFinished,
    CallModel,
    Continue,
    DeadlinePassed,
    RunTools,
    ToolsRequested,
)
from statemachine.states import State
from tests.statemachine.runs import Run, of_type, risky, safe


def test_safe_calls_of_a_turn_run_concurrently() -> None:
    run = Run()
    effect = run.request_tools(
        safe("a"), safe("b"), text="찾아볼게요", confidence=Confidence(value=0.9, source="logprobs")
    )
    assert isinstance(effect, RunTools)
    assert [call.id for call in effect.calls] == ["a", "b"]
    assert {call.status for call in effect.calls} == {CallStatus.STARTED}
    assert isinstance(run.finish_call("b"), Continue)
    assert isinstance(run.finish_call("a", error="no", result=None), CallModel)
    assert [message["role"] for message in run.checkpoint.messages[-3:]] == ["assistant", "tool", "tool"]
    assert run.outcomes("a") == ["executing", "failed"]
    assert run.outcomes("b") == ["executing", "completed"]
    assert run.checkpoint.calls[0].confidence.source == "logprobs"


def test_sources_of_a_result_are_published_in_the_same_step() -> None:
    run = Run()
    run.request_tools(safe("a", title="업무 자료 검색"), safe("b"))
    sources = ({"id": "evt-1", "title": "견적서"}, {"id": "evt-2", "title": "계약서"})
    run.finish_call("a", sources=sources)
    published = Thought(thought_type="analysis", content="업무 자료 검색: 근거 자료 2건을 찾았습니다.", sources=sources)
    assert run.last_events[-1] == published
    run.finish_call("b")
    assert of_type(Thought, run.last_events) == []


def test_second_outcome_of_a_call_is_refused() -> None:
    run = Run()
    run.request_tools(safe("a"), safe("b"))
    run.finish_call("a")
    with pytest.raises(FactRefused, match="call a is not running"):
        run.finish_call("a")


def test_refused_call_is_in_the_history_with_wellformed_arguments() -> None:
    run = Run()
    effect = run.request_tools(safe("a", refusal="There is no tool 'x'.", raw_arguments="{broken"))
    assert isinstance(effect, CallModel)
    assert run.model_answers == {"a": "There is no tool 'x'."}
    assert run.outcomes("a") == ["failed"]
    (call,) = run.checkpoint.messages[-2]["tool_calls"]
    assert call == {"id": "a", "type": "function", "function": {"name": "get_current_time", "arguments": "{}"}}


def test_turn_without_text_has_null_content_beside_its_calls() -> None:
    run = Run()
    run.request_tools(safe())
    assert run.checkpoint.messages[-1]["content"] is None


@pytest.mark.parametrize(
    "ids",
    [
        ("", ""),
        ("a", "a"),
        ("a", "a", "a-1-1"),
        ("call-1-1", ""),
        ("x" * 129, "x" * 129),
        ("통화", "통화"),
    ],
)
def test_missing_repeated_and_invalid_call_ids_become_unique(ids: tuple[str, ...]) -> None:
    run = Run()
    run.request_tools(*(safe(id) for id in ids))
    made = [call.id for call in run.checkpoint.calls]
    assert len(set(made)) == len(ids)
    assert all(id.isascii() and 0 < len(id) < 160 for id in made)
    for id in made:
        run.finish_call(id)
    assert run.state is State.PLANNING


def test_ids_that_restart_in_each_turn_become_unique() -> None:
    run = Run()
    for turn in (1, 2, 3):
        run.request_tools(safe("call_0"))
        run.finish_call(run.checkpoint.running[0].id)
        assert run.checkpoint.turn == turn + 1
    ids = [call.id for call in run.checkpoint.calls]
    assert ids[0] == "call_0"
    assert len(set(ids)) == 3
    assert all(len(id) == 9 and id.isalnum() for id in ids[1:]), "a form that every server accepts"


def test_usage_is_summed_over_the_turns() -> None:
    run = Run()
    run.request_tools(safe(), usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3))
    run.finish_call()
    run.apply(AnswerFinished("x", "x"))
    assert run.checkpoint.usage == Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)


def test_turn_limit_ends_the_run_after_the_calls_of_the_last_turn() -> None:
    run = Run(turns=2)
    run.request_tools(safe("a"))
    run.finish_call("a")
    run.request_tools(safe("b"))
    run.finish_call("b")
    (error,) = of_type(ErrorRaised, run.last_events)
    assert (error.error_type, error.retryable) == ("LimitExceeded", False)
    assert "2회" in error.message
    assert run.state is State.FAILED
    assert run.outcomes("b") == ["executing", "completed"]


def test_run_time_limit_ends_the_run_in_any_state() -> None:
    run = Run(run_seconds=60)
    run.request_tools(safe())
    with pytest.raises(FactRefused, match="no deadline has passed"):
        run.apply(DeadlinePassed(), at=59.999)
    run.apply(DeadlinePassed(), at=60)
    (error,) = of_type(ErrorRaised, run.last_events)
    assert (error.error_type, error.error_code) == ("LimitExceeded", "E5001")
    assert run.outcomes() == ["executing", "failed"]


def test_approval_that_is_requested_after_the_run_time_is_over_ends_the_run() -> None:
    run = Run(run_seconds=60, approval_seconds=300)
    run.apply(ToolsRequested((risky(),)), at=70)
    run.apply(DeadlinePassed(), at=70)
    (error,) = of_type(ErrorRaised, run.last_events)
    assert (error.error_type, error.error_code) == ("LimitExceeded", "E5001")


def test_every_transition_is_published_with_its_progress() -> None:
    run = Run()
    run.request_tools(safe("a"), safe("b"))
    run.finish_call("a")
    run.finish_call("b")
    run.apply(AnswerFinished("x", "x"))
    published = [
        (event.step_id, event.title, event.status, event.progress) for event in of_type(TimelineStepUpdated, run.events)
    ]
    assert published == [
        ("1-tool", "도구 실행", "in_progress", 0.0),
        ("2-planning", "계획 수립", "in_progress", 1.0),
        ("3-content", "답변 작성", "in_progress", 1.0),
        ("4-done", "완료", "completed", 1.0),
    ]


def test_events_of_a_call_are_in_their_order() -> None:
    run = Run()
    run.request_tools(safe())
    kinds: list[type[Event]] = [type(event) for event in run.last_events]
    assert kinds == [TimelineStepUpdated, PlanStepDeclared, ToolExecution, PlanStepUpdated]


def test_answer_after_a_tool_call_begins_a_new_paragraph() -> None:
    run = Run()
    run.apply(AnswerArrived("확인합니다."))
    run.request_tools(safe())
    run.finish_call()
    run.apply(AnswerArrived("결과는"))
    run.apply(AnswerFinished("결과는 좋습니다.", " 좋습니다."))
    assert "".join(event.content for event in of_type(Content, run.events)) == "확인합니다.\n\n결과는 좋습니다."
