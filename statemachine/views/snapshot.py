"""A run at one moment, as a picture shows it: where it stands, the way it came, what it waits for. Reads no clock."""

from __future__ import annotations

from dataclasses import dataclass

from statemachine.checkpoint import Checkpoint, JsonObject
from statemachine.states import State, Transition, Trigger


@dataclass(frozen=True, slots=True)
class PathStep:
    """One transition that was taken: the how-manieth it was, and how long after the run's start."""

    number: int
    trigger: Trigger
    source: State
    dest: State
    at: float
    after_seconds: float

    @property
    def words(self) -> str:
        return f"{self.number} at {format_duration(self.after_seconds)}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The open approval request and the time left for it."""

    request_id: str
    action_type: str
    expires_at: float
    seconds_left: float
    queued: int

    @property
    def words(self) -> str:
        more = f", {self.queued} more queued" if self.queued else ""
        return f"{self.action_type}, {self.seconds_left:.0f} s left{more}"


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """`path` is in the order it was taken."""

    session_id: str
    state: State
    path: tuple[PathStep, ...]
    waiting: Waiting | None

    @classmethod
    def of(cls, run: Checkpoint, now: float) -> RunSnapshot:
        """The run as it stood at `now` (Unix s)."""
        path = tuple(
            PathStep(number, step.trigger, step.source, step.dest, step.at, max(0.0, step.at - run.created_at))
            for number, step in enumerate(run.path, start=1)
        )
        return cls(run.session_id, run.state, path, _waiting(run, now))

    def along(self, *arrows: Transition) -> list[PathStep]:
        """The passages that took one of these arrows."""
        taken = {(arrow.trigger, arrow.source, arrow.dest) for arrow in arrows}
        return [step for step in self.path if (step.trigger, step.source, step.dest) in taken]

    def to_json_object(self) -> JsonObject:
        told: JsonObject = {
            "sessionId": self.session_id,
            "current": self.state.value,
            "path": [
                {
                    "number": step.number,
                    "trigger": step.trigger.value,
                    "from": step.source.value,
                    "to": step.dest.value,
                    "at": step.at,
                    "afterSeconds": round(step.after_seconds, 3),
                }
                for step in self.path
            ],
        }
        if self.waiting is not None:
            told["pendingApproval"] = {
                "requestId": self.waiting.request_id,
                "actionType": self.waiting.action_type,
                "expiresAt": self.waiting.expires_at,
                "secondsLeft": round(self.waiting.seconds_left, 3),
                "queued": self.waiting.queued,
            }
        return told


def format_duration(seconds: float) -> str:
    """`420 ms`, `4.2 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _waiting(run: Checkpoint, now: float) -> Waiting | None:
    approval = run.open_approval
    if approval is None or run.deadline_at is None:  # the two go together
        return None
    left = max(0.0, run.deadline_at - now)
    queued = len(run.pending_approvals) - 1
    return Waiting(approval.request_id, approval.action_type, run.deadline_at, left, queued)
