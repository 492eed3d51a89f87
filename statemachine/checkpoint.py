"""The saved state of a run. A run *is* its checkpoint: recovery loads it and performs its effect again.

The structs are frozen: a change makes a copy. All times are absolute Unix seconds, so that they survive a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import field
from msgspec.structs import replace

from statemachine.agent import Agent
from statemachine.call import CallStatus, Confidence, ToolCall, Via
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable, SharedTextMissing
from statemachine.instructions import NOTHING_SHARED, with_beginning, without_beginning
from statemachine.older_checkpoints import upgrade, version_of
from statemachine.states import INITIAL_STATE, State, Trigger
from statemachine.stored import JsonObject, StoredStruct

SCHEMA_VERSION = 6

StepStatus = Literal["pending", "in_progress", "completed", "failed", "skipped"]

_STEP_PROGRESS: dict[StepStatus, float] = {
    "pending": 0.0,
    "in_progress": 0.5,
    "completed": 1.0,
    "failed": 1.0,
    "skipped": 1.0,
}


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


class RunRequest(StoredStruct, frozen=True, kw_only=True):
    """The request that started a run: the user, the prompt and where it came from (§1.1, §1.2).

    `email` is the address in the user's token, None if it has none. In a saved run the prompt is empty where the
    conversation has it, and the thread where its id is that of the session.
    """

    session_id: str
    thread_id: str = ""
    user_id: str
    tenant_id: str
    trace_id: str
    prompt: str = ""
    context: JsonObject = {}
    agent_id: str | None = None
    source: str | None = None
    caller_type: str | None = None
    email: str | None = None


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
    via: Via | None = None
    decider_told: bool = False

    @property
    def seconds(self) -> float:
        """For how long the run waits for the person: until the decision or, while there is none, the deadline."""
        until = self.expires_at if self.ended_at is None else self.ended_at
        return max(0.0, until - self.asked_at)


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
    whether the newest of them was cut in its middle. `outside_text` names the tools whose results are text that others
    wrote, in this run and in the runs of its thread (`outside_text.py`). `spent_tokens` counts against `limits.tokens`,
    and `reserved_tokens` is the estimate for the model turn in progress. `seed` is random and makes the ids of the
    approval requests unguessable; with it the same facts lead to the same ids. `agent` is None for a run without one. A
    saved run can have only its `agent_version`: the digest of the definition, which is stored once for all its runs.
    """

    schema_version: int = field(default_factory=lambda: SCHEMA_VERSION)
    seed: str = ""
    request: RunRequest
    limits: Limits
    state: State = field(default_factory=lambda: INITIAL_STATE)
    created_at: float
    updated_at: float
    messages: list[JsonObject]
    history_messages: int = 0
    omitted_turns: int = 0
    is_history_shortened: bool = False
    outside_text: tuple[str, ...] = ()
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
    agent: Agent | None = None
    agent_version: str = ""

    @property
    def session_id(self) -> str:
        return self.request.session_id

    @property
    def run_deadline_at(self) -> float:
        """When the run has used up its time (Unix s). The time for which it waits for a person does not count (§4);
        while it waits, it is taken to wait until the deadline of the approval."""
        waits = sum(review.seconds for review in self.reviews)
        return self.created_at + self.limits.run_seconds + waits

    @property
    def open_approval(self) -> Approval | None:
        """The approval that the run waits for now, or None."""
        return self.pending_approvals[0] if self.deadline_at is not None and self.pending_approvals else None

    @property
    def approval_place(self) -> tuple[int, int]:
        """The position of the open approval among those of its turn, and their number; `(1, 1)` for a single one."""
        turn = self.calls[-1].turn if self.calls else 0
        queued = {approval.call_id for approval in self.pending_approvals}
        asked = {call.id for call in self.calls if call.turn == turn} & {review.call_id for review in self.reviews}
        position = len(asked - queued) + 1
        return position, len(asked | queued)

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

    def to_json(self, shared: Mapping[str, str] = NOTHING_SHARED) -> bytes:
        """Return the run as it is saved: what it has twice, or shares with other runs, is left out.

        `shared` has the texts that are stored once for many runs, by their digests (`statemachine/instructions.py`).
        """
        request = self.request
        saved = replace(
            request,
            prompt="" if self.first_prompt == request.prompt else request.prompt,
            thread_id="" if request.thread_id == request.session_id else request.thread_id,
        )
        messages = without_beginning(self.messages, shared)
        if self.agent is None or self.agent.version not in shared:
            return msgspec.json.encode(replace(self, request=saved, messages=messages))
        version = self.agent.version
        return msgspec.json.encode(replace(self, request=saved, messages=messages, agent=None, agent_version=version))

    @property
    def first_prompt(self) -> object:
        """The content of the message with which the conversation of this run begins, after those of earlier runs."""
        message = next(iter(self.messages[1 + self.history_messages :]), {})
        return message.get("content") if message.get("role") == "user" else None

    @classmethod
    def from_json(cls, text: str | bytes, shared: Mapping[str, str] = NOTHING_SHARED) -> Checkpoint:
        """Load a saved checkpoint of any released schema version. `shared` has the texts that `to_json` may refer to.

        Raises `CheckpointTooNew` if a newer release wrote it (a newer node can load it), `SharedTextMissing` if it
        refers to a text that is not in `shared`, else `CheckpointUnreadable`.
        """
        try:
            checkpoint = _load(text, shared)
        except (ValueError, RecursionError) as error:
            version = version_of(text)
            if version > SCHEMA_VERSION:
                raise CheckpointTooNew(version, SCHEMA_VERSION) from None
            raise CheckpointUnreadable(f"{type(error).__name__}: {error}") from error
        if checkpoint.schema_version > SCHEMA_VERSION:
            raise CheckpointTooNew(checkpoint.schema_version, SCHEMA_VERSION)
        if checkpoint.schema_version < _MARKS_OUTSIDE_TEXT:
            checkpoint = _distrusted(checkpoint)
        # The next write has the fields of this version, so an older release must not take it for one of its own.
        return replace(checkpoint, schema_version=SCHEMA_VERSION)


_decode = msgspec.json.Decoder(Checkpoint).decode


def _load(text: str | bytes, shared: Mapping[str, str]) -> Checkpoint:
    try:
        saved = _decode(text)
    except ValueError:
        older = upgrade(text)
        if older is None:
            raise
        return msgspec.convert(older, Checkpoint)
    return _complete(saved, shared)


_MARKS_OUTSIDE_TEXT = 6
"""The first schema version that records whether a run has read text from outside."""


def _distrusted(saved: Checkpoint) -> Checkpoint:
    """Return a run of an older release with the results of all its tools, and of those in the history of its thread,
    marked as text from outside."""
    calls = [replace(call, untrusted=True) for call in saved.calls]
    earlier = saved.messages[1 : 1 + saved.history_messages]
    in_history = [call["function"]["name"] for message in earlier for call in message.get("tool_calls") or ()]
    ended = [call.name for call in calls if call.status in (CallStatus.COMPLETED, CallStatus.FAILED)]
    return replace(saved, calls=calls, outside_text=tuple(dict.fromkeys([*in_history, *ended])))


def _complete(saved: Checkpoint, shared: Mapping[str, str]) -> Checkpoint:
    """Return a run with what `to_json` has left out. Raises `ValueError` or `SharedTextMissing` if it is not there."""
    request = saved.request
    prompt = request.prompt or saved.first_prompt
    if not isinstance(prompt, str):
        raise ValueError("it has no prompt")
    whole = replace(request, prompt=prompt, thread_id=request.thread_id or request.session_id)
    messages, agent = with_beginning(saved.messages, shared), saved.agent
    if saved.agent_version:
        if saved.agent_version not in shared:
            raise SharedTextMissing(saved.agent_version)
        agent = Agent.from_definition(shared[saved.agent_version])
    return replace(saved, request=whole, messages=messages, agent=agent, agent_version="")
