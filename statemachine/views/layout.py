"""The positions of states and arrows in the SVG, in pixels. A new state needs a box, a new transition a route."""

from __future__ import annotations

from dataclasses import dataclass

from statemachine.states import OPEN_STATES, TRANSITIONS, State, Transition, Trigger

WIDTH, HEIGHT = 1260, 724


@dataclass(frozen=True, slots=True)
class Box:
    """The position and size of a rectangle, in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Route:
    """An arrow: its SVG path, the position of the last line of its `label`, and the position of its `badge`."""

    trigger: Trigger
    sources: tuple[State, ...]
    path: str
    label: tuple[int, int]
    badge: tuple[int, int]
    anchor: str = "middle"

    def transitions(self) -> list[Transition]:
        """Return the rows of the table that this arrow shows."""
        return [row for row in TRANSITIONS if row.trigger is self.trigger and row.source in self.sources]


FRAME = Box(24, 52, 844, 468)
"""The frame around the open states. Transitions from every open state start at its edge."""
PANEL = Box(24, 540, 660, 164)

BOXES: dict[State, Box] = {
    State.PLANNING: Box(90, 84, 230, 100),
    State.CONTENT: Box(610, 84, 230, 100),
    State.TOOL: Box(90, 300, 230, 196),
    State.AWAITING_APPROVAL: Box(610, 300, 230, 196),
    State.DONE: Box(1040, 96, 196, 76),
    State.REJECTED: Box(1040, 307, 196, 76),
    State.TIMED_OUT: Box(1040, 414, 196, 76),
    State.FAILED: Box(1040, 536, 196, 76),
    State.CANCELLED: Box(1040, 628, 196, 76),
}

ROUTES: tuple[Route, ...] = (
    Route(Trigger.REQUEST_TOOLS, (State.PLANNING,), "M130 184 V300", (139, 214), (130, 274), "start"),
    Route(Trigger.REPORT_RESULTS, (State.TOOL,), "M256 300 V184", (265, 235), (256, 274), "start"),
    Route(Trigger.ANSWER, (State.PLANNING,), "M320 134 H610", (465, 121), (465, 134)),
    Route(Trigger.FINISH, (State.CONTENT,), "M840 134 H1040", (952, 121), (952, 134)),
    Route(Trigger.ASK_APPROVAL, (State.TOOL,), "M320 358 H610", (465, 345), (366, 358)),
    Route(Trigger.APPROVE, (State.AWAITING_APPROVAL,), "M610 415 H320", (465, 402), (564, 415)),
    Route(Trigger.DECLINE, (State.AWAITING_APPROVAL,), "M610 472 H320", (465, 459), (564, 472)),
    Route(
        Trigger.REQUEST_TOOLS,
        (State.CONTENT,),
        "M660 184 V244 Q660 256 648 256 H312 Q300 256 300 268 V300",
        (524, 247),
        (600, 256),
    ),
    Route(Trigger.REJECT, (State.AWAITING_APPROVAL,), "M840 345 H1040", (954, 332), (954, 345)),
    Route(Trigger.EXPIRE, (State.AWAITING_APPROVAL,), "M840 452 H1040", (954, 439), (954, 452)),
    Route(Trigger.FAIL, OPEN_STATES, "M800 520 V562 Q800 574 812 574 H1040", (954, 561), (954, 574)),
    Route(Trigger.CANCEL, OPEN_STATES, "M740 520 V654 Q740 666 752 666 H1040", (954, 653), (954, 666)),
)
