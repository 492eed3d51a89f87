"""The states and the one transition table (§4).

The machine that runs, the diagram, the checkpoint's path and `timeline_step_update` all come from `TRANSITIONS`.
A guard is a predicate over the situation a fact meets: it decides in the machine, and its words stand in the diagram.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct
from transitions import Machine, MachineError

if TYPE_CHECKING:
    from statemachine.checkpoint import Checkpoint


class State(StrEnum):
    """Where a run stands."""

    PLANNING = "planning"
    TOOL = "tool"
    AWAITING_APPROVAL = "awaiting_approval"
    CONTENT = "content"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in FINAL_STATES


INITIAL_STATE = State.PLANNING
FINAL_STATES = frozenset({State.DONE, State.FAILED, State.REJECTED, State.TIMED_OUT, State.CANCELLED})
OPEN_STATES = tuple(state for state in State if state not in FINAL_STATES)

STATE_TITLES: dict[State, str] = {
    State.PLANNING: "계획 수립",
    State.TOOL: "도구 실행",
    State.AWAITING_APPROVAL: "승인 대기",
    State.CONTENT: "답변 작성",
    State.DONE: "완료",
    State.FAILED: "실패",
    State.REJECTED: "거절됨",
    State.TIMED_OUT: "시간 초과",
    State.CANCELLED: "취소됨",
}

STATE_ACTIVITIES: dict[State, str] = {
    State.PLANNING: "one model call, tools offered",
    State.TOOL: "safe calls run together, approved ones one by one",
    State.AWAITING_APPROVAL: "a person decides before the deadline",
    State.CONTENT: "the answer streams",
    State.DONE: "the whole answer was given",
    State.FAILED: "ended with an error",
    State.REJECTED: "a person said no",
    State.TIMED_OUT: "nobody decided in time",
    State.CANCELLED: "stopped on request",
}


class Trigger(StrEnum):
    """What makes the machine move."""

    REQUEST_TOOLS = "request_tools"
    ANSWER = "answer"
    FINISH = "finish"
    ASK_APPROVAL = "ask_approval"
    REPORT_RESULTS = "report_results"
    APPROVE = "approve"
    DECLINE = "decline"
    REJECT = "reject"
    EXPIRE = "expire"
    FAIL = "fail"
    CANCEL = "cancel"


class Situation(Struct, frozen=True):
    """What a guard may look at: the checkpoint as it will be saved, the time (Unix s), and the decided request."""

    checkpoint: Checkpoint
    now: float
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """A named condition of a transition; `words` explain it to a reader of the diagram."""

    words: str
    holds: Callable[[Situation], bool]


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


APPROVAL_NEEDED = Guard("a call needs approval, none is running", _approval_needed)
DECIDED_IN_TIME = Guard("for the open request, before the deadline", _decided_in_time)
DEADLINE_PASSED = Guard("deadline passed", _deadline_passed)
ALL_ANSWERED = Guard("every call has its outcome, turns left", _all_answered)


@dataclass(frozen=True, slots=True)
class Transition:
    """One arrow of the machine."""

    trigger: Trigger
    source: State
    dest: State
    guard: Guard | None = None


TRANSITIONS: tuple[Transition, ...] = (
    Transition(Trigger.REQUEST_TOOLS, State.PLANNING, State.TOOL),
    Transition(Trigger.REPORT_RESULTS, State.TOOL, State.PLANNING, ALL_ANSWERED),
    Transition(Trigger.ANSWER, State.PLANNING, State.CONTENT),
    Transition(Trigger.FINISH, State.CONTENT, State.DONE),
    Transition(Trigger.ASK_APPROVAL, State.TOOL, State.AWAITING_APPROVAL, APPROVAL_NEEDED),
    Transition(Trigger.APPROVE, State.AWAITING_APPROVAL, State.TOOL, DECIDED_IN_TIME),
    Transition(Trigger.DECLINE, State.AWAITING_APPROVAL, State.TOOL, DECIDED_IN_TIME),
    Transition(Trigger.REQUEST_TOOLS, State.CONTENT, State.TOOL),
    Transition(Trigger.REJECT, State.AWAITING_APPROVAL, State.REJECTED, DECIDED_IN_TIME),
    Transition(Trigger.EXPIRE, State.AWAITING_APPROVAL, State.TIMED_OUT, DEADLINE_PASSED),
    *(Transition(Trigger.FAIL, state, State.FAILED) for state in OPEN_STATES),
    *(Transition(Trigger.CANCEL, state, State.CANCELLED) for state in OPEN_STATES),
)


HAPPY_PATH = TRANSITIONS[:4]
"""What a run does that uses a tool and needs nobody: the table begins with it, and drawings show it first."""


class _Position:
    """The machine's model: nothing but where one run stands. Never added to the machine, so it costs nothing."""

    __slots__ = ("state",)

    def __init__(self, state: State) -> None:
        self.state: str = state.value


def build(transitions: Iterable[Transition]) -> Machine:
    """The machine of a table."""
    machine = Machine(
        model=None,
        states=[{"name": state.value, "final": state.is_final} for state in State],
        initial=INITIAL_STATE.value,
        auto_transitions=False,
    )
    for arrow in transitions:
        conditions = arrow.guard.holds if arrow.guard else None
        machine.add_transition(arrow.trigger.value, arrow.source.value, arrow.dest.value, conditions=conditions)
    return machine


MACHINE = build(TRANSITIONS)


def fire(trigger: Trigger, source: State, situation: Situation) -> State | None:
    """The state that `trigger` leads to, or None where the table has no such arrow or its guard does not hold."""
    position, event = _Position(source), MACHINE.events.get(trigger.value)
    try:
        moved = event is not None and event.trigger(position, situation)
    except MachineError:
        return None
    return State(position.state) if moved else None


def guard_words(trigger: Trigger, source: State) -> str:
    """Why `trigger` was not accepted in `source`, for an error message."""
    for arrow in TRANSITIONS:
        if arrow.trigger is trigger and arrow.source is source and arrow.guard:
            return f"the guard does not hold: {arrow.guard.words}"
    return f"there is no transition {trigger} from {source}"
