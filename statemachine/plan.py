"""Changes of a run's plan. Each change of a step is published as an event."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from statemachine.call import ToolCall
from statemachine.checkpoint import PlanStep, StepStatus
from statemachine.events import PlanStepDeclared, PlanStepUpdated
from statemachine.step_builder import StepBuilder


def update_plan(builder: StepBuilder, steps: Iterable[PlanStep]) -> None:
    """Apply the plan that the model declared or changed. From then on tool calls add no steps to it."""
    for step in steps:
        known = builder.find_plan_step(step.id)
        if known is None:
            add_step(builder, step)
            continue
        # A step that states no confidence keeps the one that it had.
        confidence = known.confidence if step.confidence.source == "none" else step.confidence
        changed = replace(step, order=known.order, confidence=confidence).with_times(known, builder.now)
        if changed != known:
            _replace_step(builder, changed)
    builder.update(plan_declared=True)


def add_step(builder: StepBuilder, step: PlanStep) -> None:
    """Append a step to the plan."""
    step = replace(step, order=len(builder.checkpoint.plan) + 1).with_times(None, builder.now)
    builder.put_plan_step(step)
    builder.add_event(
        PlanStepDeclared(
            step_id=step.id,
            title=step.title,
            description=step.description,
            status=step.status,
            confidence=step.confidence.value,
            confidence_source=step.confidence.source,
            order=step.order,
        )
    )


def set_step_status(builder: StepBuilder, step_id: str, status: StepStatus) -> None:
    """Set the status of a step. Does nothing if the plan has no such step or the step has that status already."""
    step = builder.find_plan_step(step_id)
    if step is not None and step.status != status:
        _replace_step(builder, replace(step, status=status).with_times(step, builder.now))


def close_plan(builder: StepBuilder, in_progress: StepStatus) -> None:
    """Close all open steps at the end of a run.

    Steps in progress get the status `in_progress`; pending steps become `skipped`.
    """
    for step in tuple(builder.checkpoint.plan):
        if step.status == "in_progress":
            set_step_status(builder, step.id, in_progress)
        elif step.status == "pending":
            set_step_status(builder, step.id, "skipped")


def step_id_for(builder: StepBuilder, call: ToolCall) -> str | None:
    """Return the id of the step that a call belongs to: its own step, else the first one in progress, else None."""
    own = builder.find_plan_step(call.id)
    if own is not None:
        return own.id
    return next((step.id for step in builder.checkpoint.plan if step.status == "in_progress"), None)


def _replace_step(builder: StepBuilder, step: PlanStep) -> None:
    builder.put_plan_step(step)
    confidence, source = step.confidence.if_known
    builder.add_event(
        PlanStepUpdated(
            step_id=step.id,
            status=step.status,
            progress=step.progress,
            description=step.description or None,
            confidence=confidence,
            confidence_source=source,
        )
    )
