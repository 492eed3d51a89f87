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
    Passage,
    PlanStep,
    Review,
    ReviewVerdict,
    StepStatus,
    ToolCall,
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
from statemachine.messages import Effect, Step
from statemachine.states import STATE_TITLES, Situation, State, Trigger, fire, guard_words

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


class Draft:
    """One step in the making. `now_is` is the checkpoint as changed so far."""

    def __init__(self, checkpoint: Checkpoint, fact_name: str, now: float) -> None:
        self.now_is = checkpoint
        self.now = now
        self._before = checkpoint
        self._fact_name = fact_name
        self._events: list[Event] = []

    def step(self, effect: Effect) -> Step:
        if self.now_is is not self._before:
            self.change(updated_at=self.now)
        return Step(self.now_is, tuple(self._events), effect)

    def change(self, **changes: object) -> None:
        self.now_is = replace(self.now_is, **changes)

    def emit(self, event: Event) -> None:
        self._events.append(event)

    def say(self, message: JsonObject) -> None:
        """Add to the conversation."""
        self.change(messages=[*self.now_is.messages, message])

    def move(self, trigger: Trigger, *, request_id: str | None = None, decided_at: float | None = None) -> None:
        """Take a transition of the table, if its guard holds. Raises `FactRefused`."""
        source = self.now_is.state
        moment = self.now if decided_at is None else decided_at
        dest = fire(trigger, source, Situation(self.now_is, moment, request_id))
        if dest is None:
            raise FactRefused(self._fact_name, source, guard_words(trigger, source))
        passage = Passage(trigger=trigger, source=source, dest=dest, at=self.now)
        self.change(state=dest, path=[*self.now_is.path, passage])
        self.emit(
            TimelineStepUpdated(
                step_id=f"{len(self.now_is.path)}-{dest}",
                title=STATE_TITLES[dest],
                status=_timeline_status(dest),
                progress=1.0 if dest.is_final else self._plan_progress(),
                metadata={"from": source.value, "to": dest.value, "trigger": trigger.value},
            )
        )

    def _plan_progress(self) -> float:
        plan = self.now_is.plan
        return round(sum(_STEP_PROGRESS[step.status] for step in plan) / len(plan), 2) if plan else 0.0

    # --- what took time -----------------------------------------------------------------------------------------------

    def begin_turn(self, at: float) -> None:
        """The model is asked, at that time: now, or after a pause."""
        turn = ModelTurn(turn=self.now_is.turn, attempt=self.now_is.model_attempt, started_at=at)
        self.change(model_turns=[*self.now_is.model_turns, turn])

    def end_turn(self, outcome: TurnOutcome, usage: Usage | None = None) -> None:
        """The model's turn has ended; a no-op where none is under way. One whose pause had not passed never was."""
        turns = self.now_is.model_turns
        if not turns or turns[-1].outcome is not None:
            return
        *earlier, last = turns
        ended = replace(last, outcome=outcome, ended_at=self.now, usage=usage)
        self.change(model_turns=[*earlier, ended] if last.started_at <= self.now else earlier)

    def begin_review(self, approval: Approval, expires_at: float) -> None:
        review = Review(
            request_id=approval.request_id, call_id=approval.call_id, asked_at=self.now, expires_at=expires_at
        )
        self.change(reviews=[*self.now_is.reviews, review])

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
        reviews = self.now_is.reviews
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
        self.change(reviews=[*earlier, ended])

    # --- the plan -----------------------------------------------------------------------------------------------------

    def set_plan(self, steps: Iterable[PlanStep]) -> None:
        """The model's own plan, declared or changed. It replaces steps made of tool calls as the plan to follow."""
        for step in steps:
            known = next((old for old in self.now_is.plan if old.id == step.id), None)
            if known is None:
                self.add_step(step)
                continue
            # without a confidence it said nothing new about it
            confidence = known.confidence if step.confidence.source == "none" else step.confidence
            changed = replace(step, order=known.order, confidence=confidence).timed(known, self.now)
            if changed != known:
                self._put_step(changed)
        self.change(plan_declared=True)

    def add_step(self, step: PlanStep) -> None:
        step = replace(step, order=len(self.now_is.plan) + 1).timed(None, self.now)
        self.change(plan=[*self.now_is.plan, step])
        self.emit(
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
        step = next((step for step in self.now_is.plan if step.id == step_id), None)
        if step is not None and step.status != status:
            self._put_step(replace(step, status=status).timed(step, self.now))

    def settle_plan(self, in_progress: StepStatus) -> None:
        """No step stays open when the run ends: what was under way gets this status, what never began is skipped."""
        for step in self.now_is.plan:
            if step.status == "in_progress":
                self.mark_step(step.id, in_progress)
            elif step.status == "pending":
                self.mark_step(step.id, "skipped")

    def _put_step(self, step: PlanStep) -> None:
        self.change(plan=[step if old.id == step.id else old for old in self.now_is.plan])
        self.emit(
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
        own = next((step.id for step in self.now_is.plan if step.id == call.id), None)
        return own or next((step.id for step in self.now_is.plan if step.status == "in_progress"), None)

    # --- the ledger ---------------------------------------------------------------------------------------------------

    def call(self, call_id: str) -> ToolCall:
        """A call that the ledger must hold."""
        return next(call for call in self.now_is.calls if call.id == call_id)

    def put_call(self, call: ToolCall) -> None:
        self.change(calls=[call if old.id == call.id else old for old in self.now_is.calls])

    def answer_call(self, call_id: str, answer: str) -> None:
        """The one result message that each call of the history needs."""
        self.say({"role": "tool", "tool_call_id": call_id, "content": answer})

    def end_call(
        self, call: ToolCall, status: CallStatus, *, answer: str, result: Any = None, error: str | None = None
    ) -> None:
        """A call's one outcome, in ledger, history, stream and plan."""
        ended = replace(call, status=status, answer=answer, result=result, error=error, ended_at=self.now)
        self.put_call(ended)
        self.answer_call(call.id, answer)
        self.emit(self.tool_event(ended, _EVENT_OF_CALL[status]))
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
        approval: Approval = self.now_is.pending_approvals[0]
        self.change(pending_approvals=self.now_is.pending_approvals[1:], deadline_at=None)
        return self.call(approval.call_id)


def _timeline_status(dest: State) -> StepStatus:
    if not dest.is_final:
        return "in_progress"
    return "completed" if dest is State.DONE else "failed"
