"""A checkpoint on its way to the next one: what a step changes, and the events that tell of each change.

The only place where the machine moves, so that no transition is without its `timeline_step_update`, no plan step
changes without its event, and no tool call ends without an outcome in ledger, history and stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from statemachine.checkpoint import (
    Approval,
    CallStatus,
    Checkpoint,
    JsonObject,
    ModelTurn,
    PlanStep,
    Review,
    ReviewVerdict,
    StepStatus,
    ToolCall,
    TransitionRecord,
    TurnOutcome,
    Usage,
)
from statemachine.errors import FactRefused
from statemachine.events import (
    Event,
    PlanStepDeclared,
    PlanStepUpdated,
    TimelineStepUpdated,
    ToolExecution,
    ToolStatus,
)
from statemachine.machine import Situation, describe_refusal, fire
from statemachine.messages import Effect, Step
from statemachine.states import STATE_TITLES, State, Trigger

_STEP_PROGRESS: dict[StepStatus, float] = {
    "pending": 0.0,
    "in_progress": 0.5,
    "completed": 1.0,
    "failed": 1.0,
    "skipped": 1.0,
}
_STEP_OF_CALL: dict[CallStatus, StepStatus] = {
    CallStatus.COMPLETED: "completed",
    CallStatus.FAILED: "failed",
    CallStatus.REJECTED: "skipped",
}
_EVENT_OF_CALL: dict[CallStatus, ToolStatus] = {
    CallStatus.COMPLETED: "completed",
    CallStatus.FAILED: "failed",
    CallStatus.REJECTED: "rejected",
}


class StepBuilder:
    """One step in the making. `checkpoint` is the checkpoint as changed so far."""

    def __init__(self, checkpoint: Checkpoint, fact_name: str, now: float) -> None:
        self.checkpoint = checkpoint
        self.now = now
        self._before = checkpoint
        self._fact_name = fact_name
        self._events: list[Event] = []

    def build(self, effect: Effect) -> Step:
        if self.checkpoint is not self._before:
            self.update(updated_at=self.now)
        return Step(self.checkpoint, tuple(self._events), effect)

    def update(self, **changes: object) -> None:
        self.checkpoint = replace(self.checkpoint, **changes)

    def add_event(self, event: Event) -> None:
        self._events.append(event)

    def add_message(self, message: JsonObject) -> None:
        """Add to the conversation."""
        self.update(messages=[*self.checkpoint.messages, message])

    def transition(self, trigger: Trigger, *, request_id: str | None = None, decided_at: float | None = None) -> None:
        """Take a transition of the table, if its guard holds. Raises `FactRefused`."""
        source = self.checkpoint.state
        moment = self.now if decided_at is None else decided_at
        dest = fire(trigger, source, Situation(self.checkpoint, moment, request_id))
        if dest is None:
            raise FactRefused(self._fact_name, source, describe_refusal(trigger, source))
        record = TransitionRecord(trigger=trigger, source=source, dest=dest, at=self.now)
        self.update(state=dest, path=[*self.checkpoint.path, record])
        self.add_event(
            TimelineStepUpdated(
                step_id=f"{len(self.checkpoint.path)}-{dest}",
                title=STATE_TITLES[dest],
                status=_timeline_status(dest),
                progress=1.0 if dest.is_final else self._plan_progress(),
                metadata={"from": source.value, "to": dest.value, "trigger": trigger.value},
            )
        )

    def _plan_progress(self) -> float:
        plan = self.checkpoint.plan
        return round(sum(_STEP_PROGRESS[step.status] for step in plan) / len(plan), 2) if plan else 0.0

    # --- what took time -----------------------------------------------------------------------------------------------

    def begin_turn(self, at: float) -> None:
        """The model is asked, at that time: now, or after a pause."""
        turn = ModelTurn(turn=self.checkpoint.turn, attempt=self.checkpoint.model_attempt, started_at=at)
        self.update(model_turns=[*self.checkpoint.model_turns, turn])

    def end_turn(self, outcome: TurnOutcome, usage: Usage | None = None) -> None:
        """The model's turn has ended; a no-op where none is under way. One whose pause had not passed never was."""
        turns = self.checkpoint.model_turns
        if not turns or turns[-1].outcome is not None:
            return
        *earlier, last = turns
        ended = replace(last, outcome=outcome, ended_at=self.now, usage=usage)
        self.update(model_turns=[*earlier, ended] if last.started_at <= self.now else earlier)

    def begin_review(self, approval: Approval, expires_at: float) -> None:
        review = Review(
            request_id=approval.request_id, call_id=approval.call_id, asked_at=self.now, expires_at=expires_at
        )
        self.update(reviews=[*self.checkpoint.reviews, review])

    def end_review(
        self,
        verdict: ReviewVerdict,
        *,
        decided_at: float | None = None,
        decided_by: str | None = None,
        reason: str | None = None,
        edited: bool = False,
    ) -> None:
        """What came of the open question; a no-op where none is open."""
        reviews = self.checkpoint.reviews
        if not reviews or reviews[-1].verdict is not None:
            return
        *earlier, last = reviews
        ended = replace(
            last,
            verdict=verdict,
            ended_at=self.now,
            decided_at=decided_at,
            decided_by=decided_by,
            reason=reason,
            edited=edited,
        )
        self.update(reviews=[*earlier, ended])

    # --- the plan -----------------------------------------------------------------------------------------------------

    def set_plan(self, steps: Iterable[PlanStep]) -> None:
        """The model's own plan, declared or changed. It replaces steps made of tool calls as the plan to follow."""
        for step in steps:
            known = next((old for old in self.checkpoint.plan if old.id == step.id), None)
            if known is None:
                self.add_step(step)
                continue
            # without a confidence it said nothing new about it
            confidence = known.confidence if step.confidence.source == "none" else step.confidence
            changed = replace(step, order=known.order, confidence=confidence).timed(known, self.now)
            if changed != known:
                self._put_step(changed)
        self.update(plan_declared=True)

    def add_step(self, step: PlanStep) -> None:
        step = replace(step, order=len(self.checkpoint.plan) + 1).timed(None, self.now)
        self.update(plan=[*self.checkpoint.plan, step])
        self.add_event(
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

    def mark_step(self, step_id: str, status: StepStatus) -> None:
        """A step's new status; a no-op for a step that the plan does not have or that has it already."""
        step = next((step for step in self.checkpoint.plan if step.id == step_id), None)
        if step is not None and step.status != status:
            self._put_step(replace(step, status=status).timed(step, self.now))

    def settle_plan(self, in_progress: StepStatus) -> None:
        """No step stays open when the run ends: what was under way gets this status, what never began is skipped."""
        for step in self.checkpoint.plan:
            if step.status == "in_progress":
                self.mark_step(step.id, in_progress)
            elif step.status == "pending":
                self.mark_step(step.id, "skipped")

    def _put_step(self, step: PlanStep) -> None:
        self.update(plan=[step if old.id == step.id else old for old in self.checkpoint.plan])
        self.add_event(
            PlanStepUpdated(
                step_id=step.id,
                status=step.status,
                progress=_STEP_PROGRESS[step.status],
                description=step.description or None,
                confidence=step.confidence.value,
                confidence_source=step.confidence.source,
            )
        )

    def step_id_for(self, call: ToolCall) -> str | None:
        """The plan step a call belongs to: its own, or the one the model says it is at."""
        own = next((step.id for step in self.checkpoint.plan if step.id == call.id), None)
        return own or next((step.id for step in self.checkpoint.plan if step.status == "in_progress"), None)

    # --- the ledger ---------------------------------------------------------------------------------------------------

    def call(self, call_id: str) -> ToolCall:
        """A call that the ledger must hold."""
        return next(call for call in self.checkpoint.calls if call.id == call_id)

    def put_call(self, call: ToolCall) -> None:
        self.update(calls=[call if old.id == call.id else old for old in self.checkpoint.calls])

    def answer_call(self, call_id: str, answer: str) -> None:
        """The one result message that each call of the history needs."""
        self.add_message({"role": "tool", "tool_call_id": call_id, "content": answer})

    def end_call(
        self, call: ToolCall, status: CallStatus, *, answer: str, result: Any = None, error: str | None = None
    ) -> None:
        """A call's one outcome, in ledger, history, stream and plan."""
        ended = replace(call, status=status, answer=answer, result=result, error=error, ended_at=self.now)
        self.put_call(ended)
        self.answer_call(call.id, answer)
        self.add_event(self.tool_event(ended, _EVENT_OF_CALL[status]))
        self.mark_step(call.id, _STEP_OF_CALL[status])

    def tool_event(self, call: ToolCall, status: ToolStatus) -> ToolExecution:
        return ToolExecution(
            tool_name=call.name,
            tool_args=call.shown_arguments,
            status=status,
            result=call.result,
            error=call.error,
            requires_approval=call.needs_approval,
            tool_call_id=call.id,
        )

    def take_open_approval(self) -> ToolCall:
        """Close the open approval; the call it was about."""
        approval: Approval = self.checkpoint.pending_approvals[0]
        self.update(pending_approvals=self.checkpoint.pending_approvals[1:], deadline_at=None)
        return self.call(approval.call_id)


def _timeline_status(dest: State) -> StepStatus:
    if not dest.is_final:
        return "in_progress"
    return "completed" if dest is State.DONE else "failed"
