"""Builds one step: the changed checkpoint, and the events that publish each change.

It is the only module that fires transitions, so that each transition has its `timeline_step_update`. `plan.py` and
`ledger.py` do the same for plan steps and tool calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from statemachine.call import ToolCall
from statemachine.checkpoint import (
    Approval,
    Checkpoint,
    ModelTurn,
    PlanStep,
    Review,
    ReviewVerdict,
    StepStatus,
    TransitionRecord,
    TurnOutcome,
    Usage,
)
from statemachine.errors import FactRefused
from statemachine.events import Event, TimelineStepUpdated
from statemachine.machine import Situation, describe_refusal, fire
from statemachine.messages import ApprovalGranted, ApprovalRejected, Effect, ModelSource, Step
from statemachine.states import STATE_TITLES, State, Trigger
from statemachine.stored import JsonObject
from statemachine.tokens import turn_cost


class _Entry(Protocol):
    @property
    def id(self) -> str: ...


EntryT = TypeVar("EntryT", bound=_Entry)


class StepBuilder:
    """A step under construction. `checkpoint` contains the changes made so far; `now` is the time of the step.

    Messages, calls and plan steps are copied once in a step and then changed in place, so that a turn with many calls
    costs no more for each of them than a turn with few.
    """

    def __init__(self, checkpoint: Checkpoint, fact_name: str, now: float) -> None:
        self.checkpoint = checkpoint
        self.now = now
        self._before = checkpoint
        self._fact_name = fact_name
        self._events: list[Event] = []
        self._copies: dict[str, list[Any]] = {}
        self._places: dict[str, dict[str, int]] = {}

    def build(self, effect: Effect) -> Step:
        """Return the finished step."""
        if self.checkpoint is not self._before:
            self.update(updated_at=self.now)
        return Step(self.checkpoint, tuple(self._events), effect)

    def update(self, **changes: object) -> None:
        """Change fields of the checkpoint."""
        self.checkpoint = replace(self.checkpoint, **changes)

    def add_event(self, event: Event) -> None:
        self._events.append(event)

    def add_message(self, message: JsonObject) -> None:
        """Append a chat message to the conversation."""
        messages: list[JsonObject] = self._copy_of("messages", self.checkpoint.messages)
        messages.append(message)

    # --- entries with an id -------------------------------------------------------------------------------------------

    def find_call(self, call_id: str) -> ToolCall | None:
        """Return the ledger's entry of a call, or None."""
        return self._find("calls", self.checkpoint.calls, call_id)

    def put_call(self, call: ToolCall) -> None:
        """Append a call to the ledger, or replace the entry with its id."""
        self._put("calls", self.checkpoint.calls, call)

    def find_plan_step(self, step_id: str) -> PlanStep | None:
        """Return a step of the plan, or None."""
        return self._find("plan", self.checkpoint.plan, step_id)

    def put_plan_step(self, step: PlanStep) -> None:
        """Append a step to the plan, or replace the one with its id."""
        self._put("plan", self.checkpoint.plan, step)

    def _find(self, name: str, entries: Sequence[EntryT], id: str) -> EntryT | None:
        place = self._places_of(name, entries).get(id)
        return None if place is None else entries[place]

    def _put(self, name: str, entries: list[EntryT], entry: EntryT) -> None:
        places = self._places_of(name, entries)
        copy: list[EntryT] = self._copy_of(name, entries)
        place = places.setdefault(entry.id, len(copy))
        copy[place : place + 1] = [entry]

    def _places_of(self, name: str, entries: Sequence[EntryT]) -> dict[str, int]:
        """Return the place of each entry by its id; only `_put` changes these lists."""
        if name not in self._places:
            self._places[name] = {entry.id: place for place, entry in reversed(list(enumerate(entries)))}
        return self._places[name]

    def _copy_of(self, name: str, entries: list[Any]) -> list[Any]:
        """Return a list of the checkpoint that this step may change: a copy, which is made once."""
        if self._copies.get(name) is not entries:
            self._copies[name] = list(entries)
            self.update(**{name: self._copies[name]})
        return self._copies[name]

    def transition(self, trigger: Trigger, *, request_id: str | None = None, decided_at: float | None = None) -> None:
        """Make the transition of `trigger` and publish it.

        The guard gets `request_id` and, instead of the present time, `decided_at`. Raises `FactRefused` if the table
        has no such transition or its guard does not hold.
        """
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
                progress=1.0 if dest.is_final else round(self.checkpoint.plan_progress, 2),
                metadata={"from": source.value, "to": dest.value, "trigger": trigger.value},
            )
        )

    # --- records of model turns and reviews ---------------------------------------------------------------------------

    def begin_turn(self, started_at: float, reserved_tokens: int) -> None:
        """Record an attempt at a model turn, with the tokens that it may use.

        `started_at` is in the future if a pause comes first. Only `model_turns.py` calls it.
        """
        turn = ModelTurn(turn=self.checkpoint.turn, attempt=self.checkpoint.model_attempt, started_at=started_at)
        self.update(model_turns=[*self.checkpoint.model_turns, turn], reserved_tokens=reserved_tokens)

    def end_turn(
        self,
        outcome: TurnOutcome,
        usage: Usage | None = None,
        source: ModelSource | None = None,
        *,
        wrote: JsonObject | str | None = None,
        was_accepted: bool = True,
    ) -> None:
        """End the open attempt, if there is one, and replace its reservation by what it used.

        `usage` and `source` are what the server reported; `wrote` is the model's message or text, which is estimated
        where no usage was reported. `was_accepted` is False if the server refused the request, which costs nothing. An
        attempt that is lost or stopped before its pause has passed was not made: it is removed and costs nothing.
        """
        self.update(usage=self.checkpoint.usage.plus(usage))
        turns = self.checkpoint.model_turns
        if not turns or turns[-1].outcome is not None:
            return
        *earlier, last = turns
        if last.started_at > self.now and outcome in ("lost", "stopped"):
            self.update(model_turns=earlier, reserved_tokens=0)
            return
        model = None if source is None else source.model
        ended = replace(last, outcome=outcome, ended_at=self.now, usage=usage, model=model)
        reserved = self.checkpoint.reserved_tokens if was_accepted else 0
        cost = turn_cost(ended, reserved, self.checkpoint.limits, wrote)
        self.update(
            model_turns=[*earlier, ended],
            spent_tokens=self.checkpoint.spent_tokens + cost,
            reserved_tokens=0,
        )

    def begin_review(self, approval: Approval, expires_at: float) -> None:
        """Record that an approval is requested now, until `expires_at` (Unix s)."""
        review = Review(
            request_id=approval.request_id, call_id=approval.call_id, asked_at=self.now, expires_at=expires_at
        )
        self.update(reviews=[*self.checkpoint.reviews, review])

    def end_review(
        self,
        verdict: ReviewVerdict,
        decision: ApprovalGranted | ApprovalRejected | None = None,
        *,
        reason: str | None = None,
        edited: bool = False,
    ) -> None:
        """Record the result of the open review, if there is one, and the decision that led to it, where one did."""
        reviews = self.checkpoint.reviews
        if not reviews or reviews[-1].verdict is not None:
            return
        *earlier, last = reviews
        ended = replace(last, verdict=verdict, ended_at=self.now, reason=reason, edited=edited)
        if decision is not None:
            ended = replace(
                ended,
                decided_at=decision.decided_at,
                decided_by=decision.decided_by,
                via=decision.via,
                decider_told=decision.via == "redis",
            )
        self.update(reviews=[*earlier, ended])


def _timeline_status(dest: State) -> StepStatus:
    if not dest.is_final:
        return "in_progress"
    return "completed" if dest is State.DONE else "failed"
