"""The state of a run at one moment, as diagrams show it: current state, path, open approval. It reads no clock."""

from __future__ import annotations

from dataclasses import dataclass

from statemachine.checkpoint import Checkpoint
from statemachine.states import State, Transition, Trigger
from statemachine.stored import JsonObject


@dataclass(frozen=True, slots=True)
class PathStep:
    """One transition of a run. `number` counts from 1; `after_seconds` is the time since the start of the run."""

    number: int
    trigger: Trigger
    source: State
    dest: State
    at: float
    after_seconds: float

    @property
    def description(self) -> str:
        return f"{self.number} at {format_duration(self.after_seconds)}"


@dataclass(frozen=True, slots=True)
class OpenApproval:
    """The open approval request, the time left for it, and the number of approvals queued behind it."""

    request_id: str
    action_type: str
    expires_at: float
    seconds_left: float
    queued: int

    @property
    def description(self) -> str:
        queued = f", {self.queued} more queued" if self.queued else ""
        return f"{self.action_type}, {self.seconds_left:.0f} s left{queued}"


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A run at one moment. `path` lists its transitions in order."""

    session_id: str
    state: State
    path: tuple[PathStep, ...]
    open_approval: OpenApproval | None

    @classmethod
    def of(cls, run: Checkpoint, now: float) -> RunSnapshot:
        """Return the snapshot of a run at `now` (Unix s)."""
        path = tuple(
            PathStep(number, step.trigger, step.source, step.dest, step.at, max(0.0, step.at - run.created_at))
            for number, step in enumerate(run.path, start=1)
        )
        return cls(run.session_id, run.state, path, _open_approval(run, now))

    def steps_of(self, *transitions: Transition) -> list[PathStep]:
        """Return the steps of the path that made one of these transitions."""
        wanted = {(row.trigger, row.source, row.dest) for row in transitions}
        return [step for step in self.path if (step.trigger, step.source, step.dest) in wanted]

    def to_json_object(self) -> JsonObject:
        """Return the snapshot with the names of the HTTP API."""
        result: JsonObject = {
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
        if self.open_approval is not None:
            result["pendingApproval"] = {
                "requestId": self.open_approval.request_id,
                "actionType": self.open_approval.action_type,
                "expiresAt": self.open_approval.expires_at,
                "secondsLeft": round(self.open_approval.seconds_left, 3),
                "queued": self.open_approval.queued,
            }
        return result


def format_duration(seconds: float) -> str:
    """Format a duration, for example as `420 ms`, `4.2 s`, `2 min 05 s` or `1 h 02 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _open_approval(run: Checkpoint, now: float) -> OpenApproval | None:
    approval = run.open_approval
    if approval is None or run.deadline_at is None:  # either both are None or neither is
        return None
    seconds_left = max(0.0, run.deadline_at - now)
    queued = len(run.pending_approvals) - 1
    return OpenApproval(approval.request_id, approval.action_type, run.deadline_at, seconds_left, queued)
