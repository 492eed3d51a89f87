"""The saved state of a run. A run *is* its checkpoint: recovery loads it and performs its effect again.

The structs are frozen: a change makes a copy. All times are absolute Unix seconds, so that they survive a restart.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import field
from msgspec.structs import replace

from statemachine.errors import CheckpointTooNew, CheckpointUnreadable
from statemachine.states import INITIAL_STATE, State, Trigger

SCHEMA_VERSION = 2

JsonObject = dict[str, Any]
"""JSON whose shape this project does not define: tool arguments, chat messages, the context of the user's screen."""

ConfidenceSource = Literal["logprobs", "model", "none"]
StepStatus = Literal["pending", "in_progress", "completed", "failed", "skipped"]

_STEP_PROGRESS: dict[StepStatus, float] = {
    "pending": 0.0,
    "in_progress": 0.5,
    "completed": 1.0,
    "failed": 1.0,
    "skipped": 1.0,
}

# One encoder for all calls: `json.dumps` would build one for each.
_encode_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def canonical_json(value: object) -> str:
    """Return the canonical JSON text of a value: sorted keys, no spaces. Digests are computed from it."""
    return _encode_canonical(value)


def digest(value: object) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of a value. An approval is bound to the digest of arguments."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


class StoredStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of everything that is saved. Loading checks the types and rejects unknown fields.

    A field that has its default is not written, which is a fifth of a checkpoint. So a default is a part of the schema
    and never changes. A field that other systems read (CONTRACT §5) has a `default_factory`: it is always written.
    """

    def to_json_object(self) -> JsonObject:
        """Return every field as JSON, also those that have their default."""
        return {name: _as_json(getattr(self, name)) for name in self.__struct_fields__}


def _as_json(value: Any) -> Any:
    return value.to_json_object() if isinstance(value, StoredStruct) else msgspec.to_builtins(value)


class Confidence(StoredStruct, frozen=True):
    """How sure the model is (0–1) and the source of that number; `none` means that the value is unknown (§2.2)."""

    UNKNOWN: ClassVar[Confidence]

    value: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    source: ConfidenceSource = "none"


Confidence.UNKNOWN = Confidence()


class Limits(StoredStruct, frozen=True):
    """The limits that a run started with. They do not change when another node takes the run over.

    `tokens` is the budget of the whole run, prompts included; 0 means that there is none. `completion_tokens` is the
    number that the model may write in one turn, where that is configured; it is reserved with the prompt.
    `calls_per_turn` tool calls of one turn are considered, and `open_approvals` of them may ask a person; the model
    reads that further ones were not run.
    """

    turns: int = 12
    model_attempts: int = 3
    run_seconds: float = 3600
    approval_seconds: float = 300
    on_reject: Literal["stop", "replan"] = "stop"
    tokens: int = 0
    completion_tokens: int = 0
    calls_per_turn: int = 32
    open_approvals: int = 5


class RunRequest(StoredStruct, frozen=True):
    """The request that started a run: the user, the prompt and where it came from (§1.1, §1.2)."""

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


class PlanStep(StoredStruct, frozen=True):
    """One step of the plan: declared by the model (`update_plan`) or, without such a plan, made from a tool call."""

    id: str
    title: str
    description: str = ""
    status: StepStatus = "pending"
    confidence: Confidence = Confidence.UNKNOWN
    order: int = 0
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def progress(self) -> float:
        """The progress of the step, 0–1."""
        return _STEP_PROGRESS[self.status]

    def with_times(self, previous: PlanStep | None, now: float) -> PlanStep:
        """Return the step with the times that its status needs. `previous` is the step before the change."""
        started_at = previous.started_at if previous is not None else None
        ended_at = previous.ended_at if previous is not None and previous.status == self.status else None
        if self.status in ("in_progress", "completed", "failed") and started_at is None:
            started_at = now
        if self.status in ("completed", "failed", "skipped") and ended_at is None:
            ended_at = now
        return replace(self, started_at=started_at, ended_at=ended_at)


class CallStatus(StrEnum):
    """The status of a tool call: requested, started, then one outcome. Each is committed before the next."""

    REQUESTED = "requested"
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"


class Grant(StoredStruct, frozen=True, kw_only=True):
    """A person's approval of one call with exactly the arguments of `arguments_digest`. It is used at most once."""

    request_id: str
    arguments_digest: str
    decided_by: str | None = None
    decided_at: float
    edited: bool = False


class ResolvedCall(StoredStruct, frozen=True, kw_only=True):
    """A tool call with the properties of its tool.

    `arguments` are passed to the tool; `shown_arguments` are the same without secrets, as events show them. `question`
    is the text that an approver reads; if it is empty, the core makes one from the title.
    """

    id: str
    name: str
    title: str = ""
    arguments: JsonObject
    shown_arguments: JsonObject = {}
    needs_approval: bool = False
    idempotent: bool = False
    question: str = ""


class ToolCall(ResolvedCall, frozen=True, kw_only=True):
    """One entry of the tool ledger. If an approver edited the arguments, `arguments` are the edited ones."""

    confidence: Confidence = Confidence.UNKNOWN
    turn: int = 0
    status: CallStatus = field(default_factory=lambda: CallStatus.REQUESTED)
    grant: Grant | None = None
    outcome_unknown: bool = False
    result: Any = None
    error: str | None = None
    answer: str = ""
    started_at: float | None = None
    ended_at: float | None = None

    @classmethod
    def of(cls, resolved: ResolvedCall, *, id: str, confidence: Confidence, turn: int) -> ToolCall:
        """Make the ledger entry of a resolved call, under an id that is unique in the run."""
        shared = {name: getattr(resolved, name) for name in ResolvedCall.__struct_fields__}
        return cls(**shared | {"id": id}, confidence=confidence, turn=turn)


class Approval(StoredStruct, frozen=True):
    """One entry of `pending_approvals`. The first is open and has a request; the others wait in the queue."""

    request_id: str
    call_id: str
    action_type: str
    message: str
    arguments_digest: str
    outcome_unknown: bool = False


class Usage(StoredStruct, frozen=True):
    """Tokens that the model reported, summed over the turns of the run.

    `cached_tokens` is the part of `prompt_tokens` that the server had in its cache.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0

    def plus(self, other: Usage | None) -> Usage:
        if other is None:
            return self
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


TurnOutcome = Literal["tools", "answer", "failed", "lost", "stopped"]
"""How an attempt at a model turn ended. `lost`: its node ended. `stopped`: the run ended during the attempt."""


class ModelTurn(StoredStruct, frozen=True):
    """One attempt at one turn of the model. It is open until it has an outcome.

    `model` is the name of the model that answered; None where none did.
    """

    turn: int
    attempt: int
    started_at: float
    ended_at: float | None = None
    outcome: TurnOutcome | None = None
    usage: Usage | None = None
    model: str | None = None


ReviewVerdict = Literal["approved", "rejected", "expired", "withdrawn"]
"""The result of a review. `withdrawn`: the run ended for another reason while it waited."""


class Review(StoredStruct, frozen=True):
    """The record of one approval request: when it was sent, and the decision. It is open until it has a verdict."""

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


class TransitionRecord(StoredStruct, frozen=True):
    """A transition that the run has made, with its time."""

    trigger: Trigger
    source: State
    dest: State
    at: float


class Ending(StoredStruct, frozen=True):
    """The error with which a run ended that did not complete."""

    error_type: str
    error_code: str
    message: str


def _empty_list() -> list[Any]:
    """Return an empty list that is written: msgspec leaves out the default of `list` itself."""
    return []


class Checkpoint(StoredStruct, frozen=True, kw_only=True):
    """Everything that any node needs to continue a run.

    `history_messages` counts the messages after the system prompt that are from earlier runs of the thread.
    `omitted_turns` counts the earlier runs that were left out because they did not fit; `is_history_shortened` says
    whether the newest of them was cut in its middle. `spent_tokens` counts against `limits.tokens`, and
    `reserved_tokens` is the estimate for the model turn in progress.
    """

    schema_version: int = field(default_factory=lambda: SCHEMA_VERSION)
    request: RunRequest
    limits: Limits
    state: State = field(default_factory=lambda: INITIAL_STATE)
    created_at: float
    updated_at: float
    messages: list[JsonObject]
    history_messages: int = 0
    omitted_turns: int = 0
    is_history_shortened: bool = False
    turn: int = 1
    model_attempt: int = 1
    retry_at: float | None = None
    plan: list[PlanStep] = []
    plan_declared: bool = False
    calls: list[ToolCall] = field(default_factory=_empty_list)
    pending_approvals: list[Approval] = field(default_factory=_empty_list)
    deadline_at: float | None = field(default_factory=lambda: None)
    usage: Usage = Usage()
    spent_tokens: int = 0
    reserved_tokens: int = 0
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
        """The approval that the run waits for now, or None."""
        return self.pending_approvals[0] if self.deadline_at is not None and self.pending_approvals else None

    @property
    def running(self) -> list[ToolCall]:
        """The calls that were started and have no outcome yet."""
        return [call for call in self.calls if call.status is CallStatus.STARTED]

    @property
    def plan_progress(self) -> float:
        """The mean progress of the plan's steps, 0–1; 0 if there is no plan."""
        return sum(step.progress for step in self.plan) / len(self.plan) if self.plan else 0.0

    def call(self, call_id: str) -> ToolCall | None:
        return next((call for call in self.calls if call.id == call_id), None)

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Checkpoint:
        """Load a saved checkpoint of any released schema version.

        Raises `CheckpointTooNew` if a newer release wrote it (a newer node can load it), else `CheckpointUnreadable`.
        """
        try:
            checkpoint = _decode(text)
        except (ValueError, RecursionError) as error:
            if _version(text) > SCHEMA_VERSION:
                raise CheckpointTooNew(_version(text), SCHEMA_VERSION) from None
            raise CheckpointUnreadable(f"{type(error).__name__}: {error}") from error
        if checkpoint.schema_version > SCHEMA_VERSION:
            raise CheckpointTooNew(checkpoint.schema_version, SCHEMA_VERSION)
        # The next write has the fields of this version, so an older release must not take it for one of its own.
        return replace(checkpoint, schema_version=SCHEMA_VERSION)


_decode = msgspec.json.Decoder(Checkpoint).decode


def _version(text: str | bytes) -> int:
    """Return the schema version of a checkpoint that does not load, or 0 if it has none."""
    try:
        version = json.loads(text)["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0
