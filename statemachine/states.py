"""The states of a run and the one transition table (CONTRACT §4).

The machine that runs, the diagram, the path in the checkpoint and `timeline_step_update` all come from `TRANSITIONS`.
The table names its guards; `machine.py` implements them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The state of a run."""

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
    State.REJECTED: "a person rejected it",
    State.TIMED_OUT: "no decision in time",
    State.CANCELLED: "stopped on request",
}


class Trigger(StrEnum):
    """The cause of a transition."""

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


class Guard(StrEnum):
    """The condition of a transition. The value is its description, as the diagram shows it."""

    APPROVAL_NEEDED = "a call needs approval, none is running"
    DECIDED_IN_TIME = "for the open request, before the deadline"
    DEADLINE_PASSED = "deadline passed"
    ALL_ANSWERED = "every call has its outcome, turns left"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the transition table. `is_happy_path` marks the rows of a run that uses a tool without approval."""

    trigger: Trigger
    source: State
    dest: State
    guard: Guard | None = None
    is_happy_path: bool = False


TRANSITIONS: tuple[Transition, ...] = (
    Transition(Trigger.REQUEST_TOOLS, State.PLANNING, State.TOOL, is_happy_path=True),
    Transition(Trigger.REPORT_RESULTS, State.TOOL, State.PLANNING, Guard.ALL_ANSWERED, is_happy_path=True),
    Transition(Trigger.ANSWER, State.PLANNING, State.CONTENT, is_happy_path=True),
    Transition(Trigger.FINISH, State.CONTENT, State.DONE, is_happy_path=True),
    Transition(Trigger.ASK_APPROVAL, State.TOOL, State.AWAITING_APPROVAL, Guard.APPROVAL_NEEDED),
    Transition(Trigger.APPROVE, State.AWAITING_APPROVAL, State.TOOL, Guard.DECIDED_IN_TIME),
    Transition(Trigger.DECLINE, State.AWAITING_APPROVAL, State.TOOL, Guard.DECIDED_IN_TIME),
    Transition(Trigger.REQUEST_TOOLS, State.CONTENT, State.TOOL),
    Transition(Trigger.REJECT, State.AWAITING_APPROVAL, State.REJECTED, Guard.DECIDED_IN_TIME),
    Transition(Trigger.EXPIRE, State.AWAITING_APPROVAL, State.TIMED_OUT, Guard.DEADLINE_PASSED),
    *(Transition(Trigger.FAIL, state, State.FAILED) for state in OPEN_STATES),
    *(Transition(Trigger.CANCEL, state, State.CANCELLED) for state in OPEN_STATES),
)
