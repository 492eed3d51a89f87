"""The plan: declared by the model or, without such a plan, made of tool calls; each change is published once."""

from __future__ import annotations

from msgspec.structs import replace

from statemachine.call import Confidence
from statemachine.checkpoint import PlanStep
from statemachine.events import PlanStepDeclared, PlanStepUpdated, ToolExecution
from statemachine.messages import CallModel
from statemachine.states import State
from tests.statemachine.runs import Run, of_type, risky, safe


def declare(run: Run, *steps: PlanStep, id: str = "p1") -> object:
    return run.request_tools(safe(id, name="update_plan", plan=steps))


READ = PlanStep(id="1", title="읽기", description="메일을 읽습니다", confidence=Confidence(value=0.9, source="model"))
SEND = PlanStep(id="2", title="보내기")


def test_declared_plan_is_published_as_steps_and_never_as_a_tool() -> None:
    run = Run()
    assert isinstance(declare(run, READ, SEND), CallModel)
    assert of_type(PlanStepDeclared, run.last_events) == [
        PlanStepDeclared(
            step_id="1",
            title="읽기",
            description="메일을 읽습니다",
            status="pending",
            confidence=0.9,
            confidence_source="model",
            order=1,
        ),
        PlanStepDeclared(
            step_id="2",
            title="보내기",
            description="",
            status="pending",
            confidence=0.5,
            confidence_source="none",
            order=2,
        ),
    ]
    assert of_type(ToolExecution, run.events) == []
    assert run.checkpoint.calls == []
    assert run.model_answers == {"p1": "The plan is recorded and shown to the user."}


def test_malformed_plan_is_answered_and_not_shown_as_a_tool() -> None:
    run = Run()
    effect = run.request_tools(safe("p1", name="update_plan", plan=(), refusal="steps: missing"))
    assert isinstance(effect, CallModel)
    assert run.model_answers == {"p1": "steps: missing"}
    assert of_type(ToolExecution, run.events) == []
    assert not run.checkpoint.plan_declared


def test_only_changes_of_the_plan_are_published() -> None:
    run = Run()
    declare(run, READ, SEND)
    declare(run, replace(READ, status="completed", order=7), SEND, id="p2")
    assert of_type(PlanStepUpdated, run.last_events) == [
        PlanStepUpdated(
            step_id="1",
            status="completed",
            progress=1.0,
            description="메일을 읽습니다",
            confidence=0.9,
            confidence_source="model",
        )
    ]
    assert [step.order for step in run.checkpoint.plan] == [1, 2]


def test_step_keeps_its_confidence_until_the_model_states_another() -> None:
    run = Run()
    declare(run, READ)
    declare(run, PlanStep(id="1", title="읽기", description="메일을 읽습니다"), id="p2")
    assert run.checkpoint.plan == [replace(READ, order=1)]
    assert of_type(PlanStepUpdated, run.last_events) == []


def test_step_without_a_description_is_updated_without_one() -> None:
    run = Run()
    declare(run, SEND)
    declare(run, replace(SEND, status="in_progress"), id="p2")
    (update,) = of_type(PlanStepUpdated, run.last_events)
    assert (update.description, update.progress) == (None, 0.5)


def test_later_plan_can_add_steps() -> None:
    run = Run()
    declare(run, READ)
    declare(run, READ, SEND, id="p2")
    assert [step.order for step in of_type(PlanStepDeclared, run.events)] == [1, 2]


def test_without_a_plan_tool_calls_are_the_steps() -> None:
    run = Run()
    run.request_tools(safe("a"), safe("x", title="", refusal="no"), risky("b"))
    assert [(step.id, step.title, step.status) for step in run.checkpoint.plan] == [
        ("a", "현재 시각", "in_progress"),
        ("x", "get_current_time", "failed"),
        ("b", "이메일 발송", "pending"),
    ]
    run.finish_call("a")
    run.reject(skip=True)
    assert [step.status for step in run.checkpoint.plan] == ["completed", "failed", "skipped"]
    assert run.state is State.PLANNING


def test_tool_calls_add_no_steps_to_a_declared_plan() -> None:
    run = Run()
    run.request_tools(safe("a"), safe("p1", name="update_plan", plan=(SEND,)))
    assert [step.id for step in run.checkpoint.plan] == ["2"]
    run.finish_call("a")
    assert of_type(PlanStepUpdated, run.events) == []
