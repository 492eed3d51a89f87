"""The saved run. A run *is* its checkpoint: recovery loads it and performs its effect again.

Values are frozen; a change is a copy. Times are Unix seconds, absolute, so that they survive a restart.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec.structs import replace

from statemachine.errors import CheckpointTooNew, CheckpointUnreadable
from statemachine.states import INITIAL_STATE, State, Trigger

SCHEMA_VERSION = 1

JsonObject = dict[str, Any]
"""Somebody else's JSON: tool arguments, chat messages, the screen's context."""

ConfidenceSource = Literal["logprobs", "model", "none"]
StepStatus = Literal["pending", "in_progress", "completed", "failed", "skipped"]


_write = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False
).encode  # `dumps` makes one each time


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces. What digests are made of."""
    return _write(value)


def digest(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON: what an approval is bound to."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is saved, field for field. Types are checked where it is loaded."""

    def to_json_object(self) -> JsonObject:
        fields: JsonObject = msgspec.to_builtins(self)
        return fields


class Confidence(Value, frozen=True):
    """How sure the model is, 0–1, and who says so; never invented (§2.2)."""

    UNKNOWN: ClassVar[Confidence]

    value: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    source: ConfidenceSource = "none"


Confidence.UNKNOWN = Confidence()


class Limits(Value, frozen=True):
    """The policy a run started with; it keeps it on whichever node it goes on."""

    turns: int = 12
    model_attempts: int = 3
    run_seconds: float = 3600
    approval_seconds: float = 300
    on_reject: Literal["stop", "replan"] = "stop"


class RunRequest(Value, frozen=True):
    """Who asked for what, and how it came in (§1.1, §1.2)."""

    session_id: str
    thread_id: str
    user_id: str
    tenant_id: str
    trace_id: str
    prompt: str
    context: JsonObject = {}
    agent_id: str | None = None
    source: str | None = None
    caller_type: str | None = None


class PlanStep(Value, frozen=True):
    """One step of the plan: the model's own (`update_plan`) or, without a plan, a tool call."""

    id: str
    title: str
    description: str = ""
    status: StepStatus = "pending"
    confidence: Confidence = Confidence.UNKNOWN
    order: int = 0
    started_at: float | None = None
    ended_at: float | None = None

    def timed(self, known: PlanStep | None, now: float) -> PlanStep:
        """With the times of its status; `known` is the step as it was before."""
        began = known.started_at if known is not None else None
        ended = known.ended_at if known is not None and known.status == self.status else None
        if self.status in ("in_progress", "completed", "failed") and began is None:
            began = now
        if self.status in ("completed", "failed", "skipped") and ended is None:
            ended = now
        return replace(self, started_at=began, ended_at=ended)


class CallStatus(StrEnum):
    """The tool ledger's entries: intent → started → outcome, each committed before the next."""

    REQUESTED = "requested"
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"


class Grant(Value, frozen=True, kw_only=True):
    """A person's yes to one call with exactly these arguments (`arguments_digest`), used at most once."""

    request_id: str
    arguments_digest: str
    decided_by: str | None = None
    decided_at: float
    edited: bool = False


class ToolCall(Value, frozen=True, kw_only=True):
    """One line of the tool ledger. `arguments` are what runs: after an edit, the edited ones."""

    id: str
    name: str
    title: str = ""
    arguments: JsonObject
    shown_arguments: JsonObject
    needs_approval: bool = False
    idempotent: bool = False
    question: str = ""
    confidence: Confidence = Confidence.UNKNOWN
    turn: int = 0
    status: CallStatus = CallStatus.REQUESTED
    grant: Grant | None = None
    outcome_unknown: bool = False
    result: Any = None
    error: str | None = None
    answer: str = ""
    started_at: float | None = None
    ended_at: float | None = None


class Approval(Value, frozen=True):
    """One entry of `pending_approvals`. The first is open, the others queue; only the open one has a request."""

    request_id: str
    call_id: str
    action_type: str
    message: str
    arguments_digest: str
    outcome_unknown: bool = False


class Usage(Value, frozen=True):
    """Tokens the model reported, summed over the turns of the run."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def plus(self, other: Usage | None) -> Usage:
        if other is None:
            return self
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
        )


TurnOutcome = Literal["tools", "answer", "failed", "lost", "stopped"]
"""How an attempt at a model turn ended; `lost`: with the node that made it, `stopped`: by the end of the run."""


class ModelTurn(Value, frozen=True):
    """One attempt at one turn of the model, with its times; open until it has an outcome."""

    turn: int
    attempt: int
    started_at: float
    ended_at: float | None = None
    outcome: TurnOutcome | None = None
    usage: Usage | None = None


ReviewVerdict = Literal["approved", "rejected", "expired", "withdrawn"]
"""What came of a question to a person; `withdrawn`: the run ended otherwise while it waited."""


class Review(Value, frozen=True):
    """One question to a person: what was asked and when, and what came of it; open until it has a verdict."""

    request_id: str
    call_id: str
    asked_at: float
    expires_at: float
    verdict: ReviewVerdict | None = None
    ended_at: float | None = None
    decided_at: float | None = None
    decided_by: str | None = None
    reason: str | None = None
    edited: bool = False


class TransitionRecord(Value, frozen=True):
    """A transition that was taken, with its time."""

    trigger: Trigger
    source: State
    dest: State
    at: float


class Ending(Value, frozen=True):
    """Why a run that did not complete ended."""

    error_type: str
    error_code: str
    message: str


class Checkpoint(Value, frozen=True, kw_only=True):
    """Everything needed to go on with a run on any node."""

    schema_version: int = SCHEMA_VERSION
    request: RunRequest
    limits: Limits
    state: State = INITIAL_STATE
    created_at: float
    updated_at: float
    messages: list[JsonObject]
    turn: int = 1
    model_attempt: int = 1
    retry_at: float | None = None
    plan: list[PlanStep] = []
    plan_declared: bool = False
    calls: list[ToolCall] = []
    pending_approvals: list[Approval] = []
    deadline_at: float | None = None
    usage: Usage = Usage()
    path: list[TransitionRecord] = []
    model_turns: list[ModelTurn] = []
    reviews: list[Review] = []
    ending: Ending | None = None
    cancelled_by: str | None = None

    @property
    def session_id(self) -> str:
        return self.request.session_id

    @property
    def run_deadline_at(self) -> float:
        return self.created_at + self.limits.run_seconds

    @property
    def open_approval(self) -> Approval | None:
        """The approval a person is asked for now; None unless the run waits for one."""
        return self.pending_approvals[0] if self.deadline_at is not None and self.pending_approvals else None

    @property
    def running(self) -> list[ToolCall]:
        """The calls that were started and have no outcome yet."""
        return [call for call in self.calls if call.status is CallStatus.STARTED]

    def call(self, call_id: str) -> ToolCall | None:
        return next((call for call in self.calls if call.id == call_id), None)

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Checkpoint:
        """Load a saved checkpoint of any released version.

        Raises `CheckpointTooNew` (leave it to a newer node) or `CheckpointUnreadable`.
        """
        try:
            checkpoint = _decode(text)
        except (ValueError, RecursionError) as error:
            if _version(text) > SCHEMA_VERSION:
                raise CheckpointTooNew(_version(text), SCHEMA_VERSION) from None
            raise CheckpointUnreadable(f"{type(error).__name__}: {error}") from error
        if checkpoint.schema_version > SCHEMA_VERSION:
            raise CheckpointTooNew(checkpoint.schema_version, SCHEMA_VERSION)
        return checkpoint


_decode = msgspec.json.Decoder(Checkpoint).decode


def _version(text: str | bytes) -> int:
    """Of what could not be read; 0 where it says none."""
    try:
        version = json.loads(text)["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0
