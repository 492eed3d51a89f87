"""`update_plan`: the built-in tool by which the model declares its plan. It runs nothing."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from statemachine.call import Confidence
from statemachine.checkpoint import PlanStep, StepStatus

NAME = "update_plan"
DESCRIPTION = (
    "Declare the steps of your plan, or report how they stand. Call it first for a task of several steps, and again"
    " when a step's status changes; always give the whole plan, with the same ids. It runs nothing."
)
STEPS_LIMIT = 30
_ID_LIMIT = 40
_TITLE_LIMIT = 120
_DESCRIPTION_LIMIT = 500


def _truncated(limit: int) -> BeforeValidator:
    """Truncates a text, so that a plan is not rejected because of it."""

    def truncate(value: object) -> object:
        if isinstance(value, str) and len(value) > limit:
            return value[: limit - 1] + "…"
        return value

    return BeforeValidator(truncate)


class PlannedStep(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: Annotated[str | None, _truncated(_ID_LIMIT)] = Field(default=None, description="Stable over the whole run")
    title: Annotated[str, _truncated(_TITLE_LIMIT)] = Field(min_length=1)
    description: Annotated[str, _truncated(_DESCRIPTION_LIMIT)] = ""
    status: StepStatus = "pending"
    confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        strict=True,
        description="How sure you are that the step succeeds; leave out if unsure",
    )


class UpdatePlanArguments(BaseModel):
    steps: list[PlannedStep] = Field(min_length=1, max_length=STEPS_LIMIT)


def plan_steps(arguments: UpdatePlanArguments) -> tuple[PlanStep, ...]:
    """Returns the steps, each with the model's id or else `step-<position>`.

    Raises `ValueError` for a duplicate id.
    """
    steps = arguments.steps
    given = [step.id for step in steps if step.id]
    taken = set(given)
    if len(taken) != len(given):
        duplicate = next(name for name in given if given.count(name) > 1)
        raise ValueError(f"steps: the id {duplicate!r} is used more than once")
    return tuple(_plan_step(step, position, taken) for position, step in enumerate(steps, start=1))


def _plan_step(step: PlannedStep, position: int, taken: set[str]) -> PlanStep:
    own = step.id or f"step-{position}"
    while not step.id and own in taken:  # the model gave this id to another step
        own += "a"
    return PlanStep(
        id=own,
        title=step.title,
        description=step.description,
        status=step.status,
        confidence=Confidence.UNKNOWN if step.confidence is None else Confidence(value=step.confidence, source="model"),
        order=position,
    )
