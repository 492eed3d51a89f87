"""The types of the `data` of JSON responses, generated from the service's own by `.ci/clients`.

Field names are those of the wire. Times are in Unix seconds.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

CallStatus = Literal["requested", "started", "completed", "failed", "rejected"]
"""The status of a tool call: requested, started, then one outcome. Each is committed before the next."""
RequestStatus = Literal["pending", "approved", "rejected", "expired", "cancelled"]
"""The status of an approval request, as `hitl:request:{requestId}` spells it."""
State = Literal[
    "planning",
    "tool",
    "awaiting_approval",
    "content",
    "done",
    "failed",
    "rejected",
    "timed_out",
    "cancelled",
]
"""The state of a run."""
Trigger = Literal[
    "request_tools",
    "answer",
    "finish",
    "ask_approval",
    "report_results",
    "approve",
    "decline",
    "reject",
    "expire",
    "fail",
    "cancel",
]
"""The cause of a transition."""


class ApprovalDetails(TypedDict):
    """An approval request with what it shows, and its decision, if there is one.

    `context` holds the arguments of the tool call, and an approval sends `argumentsDigest` back. `createdAt` is in
    milliseconds. `via` is the way by which the decision came; `deciderTold`: another service told who decided.
    """

    requestId: str
    sessionId: str
    userId: str
    tenantId: str
    actionType: str
    message: str
    context: dict[str, Any]
    argumentsDigest: str
    warnings: list[ArgumentWarning]
    position: int
    total: int
    status: RequestStatus
    createdAt: int
    expiresAt: int
    taskId: NotRequired[str]
    reason: NotRequired[str]
    decidedAt: NotRequired[float]
    decidedBy: NotRequired[str]
    via: NotRequired[Literal["http", "redis"]]
    deciderTold: NotRequired[bool]


class ArchiveInfo(TypedDict):
    """Whether this process reaches the archive; if not, how many runs wait to be copied. `lost` expired before."""

    status: Literal["UP", "DOWN"]
    due: int
    lost: int


class ArgumentWarning(TypedDict):
    """What may deceive an approver in the arguments of a call. `code` is the kind, such as `invisible`; `field` is the
    path of the argument, such as `to[1]`; `message` is for people.

    It is a part of events too, so fields that a later version adds are ignored.
    """

    code: str
    field: str
    message: str


class Confidence(TypedDict):
    """How sure the model is (0–1) and the source of that number; `none` means that the value is unknown (§2.2)."""

    value: float
    source: Literal["logprobs", "model", "none"]


class DecisionResult(TypedDict):
    """The status of an approval request after a decision."""

    requestId: str
    sessionId: str
    status: RequestStatus
    reason: NotRequired[str]


class Ending(TypedDict):
    """The error with which a run ended that did not complete."""

    error_type: str
    error_code: str
    message: str


class Grant(TypedDict):
    """A person's approval of one call with exactly the arguments of `arguments_digest`. It is used at most once.

    `decider_told`: another service told who decided; else the name is from a token that Aura has verified.
    """

    request_id: str
    arguments_digest: str
    decided_by: NotRequired[str | None]
    decided_at: float
    edited: bool
    via: NotRequired[Literal["http", "redis"] | None]
    decider_told: bool


class Limits(TypedDict):
    """The limits that a run started with. They do not change when another node takes the run over.

    `tokens` is the budget of the whole run, prompts included; 0 means that there is none. `completion_tokens` is the
    number that the model may write in one turn, where that is configured; it is reserved with the prompt.
    `calls_per_turn` tool calls of one turn are considered, and `open_approvals` of them may ask a person; the model
    reads that further ones were not run.
    """

    turns: int
    model_attempts: int
    run_seconds: float
    approval_seconds: float
    on_reject: Literal["stop", "replan"]
    tokens: int
    completion_tokens: int
    calls_per_turn: int
    open_approvals: int


class ModelTurnRecord(TypedDict):
    """One attempt at a turn of the model. `model` is the name of the model that answered, null where none did.

    `usage` is null where the model's server reported none. An attempt that goes on has no `outcome` yet.
    """

    turn: int
    attempt: int
    model: str | None
    outcome: Literal["tools", "answer", "failed", "lost", "stopped"] | None
    usage: TokenUsage | None
    startedAt: float
    endedAt: float | None


class PendingApproval(TypedDict):
    """The approval request that a run waits for. `context` holds the arguments of the tool call.

    An approval sends `argumentsDigest` back. `position` of `total`: which of the approvals of this turn it is.
    """

    requestId: str
    actionType: str
    message: str
    context: dict[str, Any]
    warnings: list[ArgumentWarning]
    expiresAt: int
    secondsLeft: float
    outcomeUnknown: bool
    queued: int
    argumentsDigest: str
    position: int
    total: int


class PlanStep(TypedDict):
    """One step of the plan: declared by the model (`update_plan`) or, without such a plan, made from a tool call."""

    id: str
    title: str
    description: str
    status: Literal["pending", "in_progress", "completed", "failed", "skipped"]
    confidence: Confidence
    order: int
    started_at: NotRequired[float | None]
    ended_at: NotRequired[float | None]


class RequestPage(TypedDict):
    """Open approval requests. `nextOffset` is the offset of the next page; it is absent on the last page."""

    requests: list[PendingRequest]
    nextOffset: NotRequired[int]


class RunPage(TypedDict):
    """Runs, newest first. `nextOffset` is the offset of the next page; it is absent on the last page."""

    runs: list[RunSummary]
    nextOffset: NotRequired[int]


class RunSummary(TypedDict):
    """A run as it is listed. `promptHead` is the beginning of its prompt. `agent` is the name of its agent, and
    `agentId` the browser's agent session.
    """

    sessionId: str
    threadId: str
    userId: str
    traceId: str
    state: State
    createdAt: float
    updatedAt: float
    ageSeconds: float
    promptHead: str
    agentId: NotRequired[str]
    agent: NotRequired[str]
    pendingApproval: NotRequired[PendingApproval]


class ServiceInfo(TypedDict):
    """The name, version, model and states of the service, and its archive of ended runs if it has one."""

    name: str
    version: str
    model: str
    states: list[State]
    archive: NotRequired[ArchiveInfo]


class Span(TypedDict):
    """An interval of time. Times are Unix seconds; an open span lasts until the moment the timeline was made.

    A span of kind `state` is the time in a state, which the run entered from `source` by `trigger`. Model turns, tools
    and waits have an `outcome`. `model` is the name of the model that answered a turn.
    """

    kind: Literal["state", "model", "tool", "wait"]
    name: str
    startedAt: float
    durationSeconds: float
    isOpen: bool
    source: NotRequired[State | None]
    trigger: NotRequired[str | None]
    turn: NotRequired[int | None]
    attempt: NotRequired[int | None]
    toolCallId: NotRequired[str | None]
    outcome: NotRequired[str | None]
    model: NotRequired[str | None]
    tokens: NotRequired[Tokens | None]
    decision: NotRequired[SpanDecision | None]


class SpanDecision(TypedDict):
    """The result of a wait for a person's decision.

    `via` is the way by which the decision came. `decider_told`: another service told who decided.
    """

    requestId: str
    verdict: NotRequired[str | None]
    decidedBy: NotRequired[str | None]
    decidedAt: NotRequired[float | None]
    reason: NotRequired[str | None]
    edited: bool
    via: NotRequired[Literal["http", "redis"] | None]
    deciderTold: bool


class ThreadHistory(TypedDict):
    """What the model got of the earlier turns of the thread.

    `messages` counts their messages, `omittedTurns` the turns that were left out because they did not fit.
    `isShortened`: the newest earlier turn is in the messages, but was cut in its middle.
    """

    messages: int
    omittedTurns: int
    isShortened: bool


class Timeline(TypedDict):
    """The spans of a run, ordered by their start. `waited_seconds` is the part of `duration_seconds` spent on waits."""

    sessionId: str
    state: State
    startedAt: float
    durationSeconds: float
    waitedSeconds: float
    isOpen: bool
    tokens: Tokens
    spans: list[Span]


class TokenUsage(TypedDict):
    """The tokens of a run, as the model reported them.

    `cachedTokens` is the part of `promptTokens` that the model's server had in its cache, where it reported that.
    """

    promptTokens: int
    completionTokens: int
    totalTokens: int
    cachedTokens: NotRequired[int]


class Tokens(TypedDict):
    """Reported tokens. `cached_tokens` is set where the server had a part of the prompt in its cache."""

    promptTokens: int
    completionTokens: int
    totalTokens: int
    cachedTokens: NotRequired[int | None]


class ToolCallRecord(TypedDict):
    """One tool call of a run, with its status, its result or error, and the decision on it."""

    toolCallId: str
    toolName: str
    toolArgs: dict[str, Any]
    warnings: list[ArgumentWarning]
    turn: int
    status: CallStatus
    requiresApproval: bool
    idempotent: bool
    outcomeUnknown: bool
    result: Any
    error: str | None
    startedAt: float | None
    endedAt: float | None
    decision: Grant | None


class TransitionRecord(TypedDict):
    """A transition that the run has made, with its time."""

    trigger: Trigger
    source: State
    dest: State
    at: float


class PendingRequest(PendingApproval):
    """An open approval request, with the session id of the run that waits for it."""

    sessionId: str


class RunDetails(RunSummary):
    """A complete run: its checkpoint without secrets. `taskId` is its task in the Main Service.

    `spentTokens` counts against the run's token budget: the reported tokens and, where a model turn has no report, an
    estimate. `reservedTokens` is the estimate for the model turn in progress. `agentVersion` is the digest of the
    agent's definition with which the run began and ends.
    """

    agentVersion: str | None
    taskId: str | None
    schemaVersion: int
    prompt: str
    context: dict[str, Any]
    turn: int
    history: ThreadHistory
    plan: list[PlanStep]
    ledger: list[ToolCallRecord]
    modelTurns: list[ModelTurnRecord]
    path: list[TransitionRecord]
    answer: str | None
    usage: TokenUsage
    spentTokens: int
    reservedTokens: int
    limits: Limits
    ending: Ending | None
    cancelledBy: str | None
    runDeadlineAt: float
