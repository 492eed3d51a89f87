"""The plan: the model's own or, without one, the tool calls; each change is told once."""

from __future__ import annotations

from msgspec.structs import replace

from statemachine.checkpoint import Confidence, PlanStep
from statemachine.events import PlanStepDeclared, PlanStepUpdated, ToolExecution
from statemachine.messages import CallModel
from statemachine.states import State
from tests.statemachine.runs import Run, of, risky, safe


def declare(run: Run, *steps: PlanStep, id: str = "p1") -> object:
    return run.ask(safe(id, name="update_plan", plan=steps))


READ = PlanStep(id="1", title="읽기", description="메일을 읽습니다", confidence=Confidence(value=0.9, source="model"))
SEND = PlanStep(id="2", title="보내기")


def test_a_declared_plan_is_told_step_by_step_and_never_as_a_tool() -> None:
    run = Run()
    assert isinstance(declare(run, READ, SEND), CallModel)
    assert of(PlanStepDeclared, run.last) == [
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
    assert of(ToolExecution, run.events) == []
    assert run.checkpoint.calls == []
    assert run.answers == {"p1": "The plan is recorded and shown to the user."}


def test_a_malformed_plan_is_answered_and_not_shown_as_a_tool() -> None:
    run = Run()
    effect = run.ask(safe("p1", name="update_plan", plan=(), refusal="steps: missing"))
    assert isinstance(effect, CallModel)
    assert run.answers == {"p1": "steps: missing"}
    assert of(ToolExecution, run.events) == []
    assert not run.checkpoint.plan_declared


def test_only_changes_of_the_plan_are_told() -> None:
    run = Run()
    declare(run, READ, SEND)
    declare(run, replace(READ, status="completed", order=7), SEND, id="p2")
    assert of(PlanStepUpdated, run.last) == [
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


def test_a_step_keeps_its_confidence_until_the_model_states_another() -> None:
    run = Run()
    declare(run, READ)
    declare(run, PlanStep(id="1", title="읽기", description="메일을 읽습니다"), id="p2")
    assert run.checkpoint.plan == [replace(READ, order=1)]
    assert of(PlanStepUpdated, run.last) == []


def test_a_step_without_a_description_is_updated_without_one() -> None:
    run = Run()
    declare(run, SEND)
    declare(run, replace(SEND, status="in_progress"), id="p2")
    (update,) = of(PlanStepUpdated, run.last)
    assert (update.description, update.progress) == (None, 0.5)


def test_a_later_plan_can_add_steps() -> None:
    run = Run()
    declare(run, READ)
    declare(run, READ, SEND, id="p2")
    assert [step.order for step in of(PlanStepDeclared, run.events)] == [1, 2]


def test_without_a_plan_the_calls_are_its_steps() -> None:
    run = Run()
    run.ask(safe("a"), safe("x", title="", refusal="no"), risky("b"))
    assert [(step.id, step.title, step.status) for step in run.checkpoint.plan] == [
        ("a", "현재 시각", "in_progress"),
        ("x", "get_current_time", "failed"),
        ("b", "이메일 발송", "pending"),
    ]
    run.finish("a")
    run.reject(skip=True)
    assert [step.status for step in run.checkpoint.plan] == ["completed", "failed", "skipped"]
    assert run.state is State.PLANNING


def test_calls_are_no_steps_of_a_declared_plan() -> None:
    run = Run()
    run.ask(safe("a"), safe("p1", name="update_plan", plan=(SEND,)))
    assert [step.id for step in run.checkpoint.plan] == ["2"]
    run.finish("a")
    assert of(PlanStepUpdated, run.events) == []
