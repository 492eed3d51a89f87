"""The machine built from the transition table, and the guards that the table names (CONTRACT §4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct
from transitions import Machine, MachineError

from statemachine.checkpoint import Checkpoint
from statemachine.states import INITIAL_STATE, TRANSITIONS, Guard, State, Transition, Trigger


class Situation(Struct, frozen=True):
    """The input of a guard: the checkpoint as it will be saved, the time (Unix s) and the id of the decided request."""

    checkpoint: Checkpoint
    now: float
    request_id: str | None = None


def _approval_needed(situation: Situation) -> bool:
    return not situation.checkpoint.running and bool(situation.checkpoint.pending_approvals)


def _decided_in_time(situation: Situation) -> bool:
    deadline_at = situation.checkpoint.deadline_at
    approval = situation.checkpoint.open_approval
    return (
        approval is not None
        and approval.request_id == situation.request_id
        and deadline_at is not None
        and situation.now < deadline_at
    )


def _deadline_passed(situation: Situation) -> bool:
    deadline_at = situation.checkpoint.deadline_at
    return deadline_at is not None and situation.now >= deadline_at


def _all_answered(situation: Situation) -> bool:
    checkpoint = situation.checkpoint
    return not checkpoint.running and not checkpoint.pending_approvals and checkpoint.turn <= checkpoint.limits.turns


PREDICATES: Mapping[Guard, Callable[[Situation], bool]] = {
    Guard.APPROVAL_NEEDED: _approval_needed,
    Guard.DECIDED_IN_TIME: _decided_in_time,
    Guard.DEADLINE_PASSED: _deadline_passed,
    Guard.ALL_ANSWERED: _all_answered,
}


class _MachineModel:
    """The model object of `transitions`: it holds the state of one run and is never added to the machine, which would
    cost memory and time for each run."""

    __slots__ = ("state",)

    def __init__(self, state: State) -> None:
        self.state: str = state.value


def build(
    transitions: Iterable[Transition], predicates: Mapping[Guard, Callable[[Situation], bool]] = PREDICATES
) -> Machine:
    """Build the machine of a transition table whose guards are decided by `predicates`."""
    machine = Machine(
        model=None,
        states=[{"name": state.value, "final": state.is_final} for state in State],
        initial=INITIAL_STATE.value,
        auto_transitions=False,
    )
    for row in transitions:
        conditions = predicates[row.guard] if row.guard is not None else None
        machine.add_transition(row.trigger.value, row.source.value, row.dest.value, conditions=conditions)
    return machine


MACHINE = build(TRANSITIONS)


def fire(trigger: Trigger, source: State, situation: Situation) -> State | None:
    """Return the state that `trigger` leads to, or None where the table has no such row or its guard does not hold."""
    model, event = _MachineModel(source), MACHINE.events.get(trigger.value)
    try:
        has_moved = event is not None and event.trigger(model, situation)
    except MachineError:
        return None
    return State(model.state) if has_moved else None


def describe_refusal(trigger: Trigger, source: State) -> str:
    """Explain, for an error message, why `trigger` was not accepted in `source`."""
    for row in TRANSITIONS:
        if row.trigger is trigger and row.source is source and row.guard is not None:
            return f"the guard does not hold: {row.guard}"
    return f"there is no transition {trigger} from {source}"
