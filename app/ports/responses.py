"""The types of the `data` of JSON responses. The service writes them, clients read them, OpenAPI describes them.

Field names are those of the wire. Times are in Unix seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from msgspec import Struct
from pydantic import GetPydanticSchema
from typing_extensions import TypedDict  # pydantic requires this one below Python 3.12

from app.ports.decisions import RequestStatus
from app.ports.typed_json import struct_as_typed_dict
from statemachine.call import ArgumentWarning, CallStatus, Grant
from statemachine.checkpoint import Ending, Limits, PlanStep, TransitionRecord, TurnOutcome
from statemachine.states import State
from statemachine.stored import JsonObject


def _json_of(struct: type[Struct]) -> GetPydanticSchema:
    """Annotate a JSON object with the schema of the core struct whose JSON it is."""
    return GetPydanticSchema(lambda _, handler: handler(struct_as_typed_dict(struct)))


class HealthStatus(TypedDict):
    """The service is running. `hints` are warnings for operators that do not affect readiness."""

    status: Literal["UP"]
    hints: NotRequired[list[str]]


class ArchiveInfo(TypedDict):
    """Whether this process reaches the archive; if not, how many runs wait to be copied. `lost` expired before."""

    status: Literal["UP", "DOWN"]
    due: int
    lost: int


class ServiceInfo(TypedDict):
    """The name, version, model and states of the service, and its archive of ended runs if it has one."""

    name: str
    version: str
    model: str
    states: list[State]
    archive: NotRequired[ArchiveInfo]


class PendingApproval(TypedDict):
    """The approval request that a run waits for. `context` holds the arguments of the tool call.

    An approval sends `argumentsDigest` back. `position` of `total`: which of the approvals of this turn it is.
    """

    requestId: str
    actionType: str
    message: str
    context: JsonObject
    warnings: list[Annotated[JsonObject, _json_of(ArgumentWarning)]]
    expiresAt: int
    secondsLeft: float
    outcomeUnknown: bool
    queued: int
    argumentsDigest: str
    position: int
    total: int


class PendingRequest(PendingApproval):
    """An open approval request, with the session id of the run that waits for it."""

    sessionId: str


class RunSummary(TypedDict):
    """A run as it is listed. `promptHead` is the beginning of its prompt. `agent` is the name of its agent, and
    `agentId` the browser's agent session."""

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


class ToolCallRecord(TypedDict):
    """One tool call of a run, with its status, its result or error, and the decision on it."""

    toolCallId: str
    toolName: str
    toolArgs: JsonObject
    warnings: list[Annotated[JsonObject, _json_of(ArgumentWarning)]]
    turn: int
    status: CallStatus
    requiresApproval: bool
    idempotent: bool
    outcomeUnknown: bool
    result: Any
    error: str | None
    startedAt: float | None
    endedAt: float | None
    decision: Annotated[JsonObject, _json_of(Grant)] | None


class TokenUsage(TypedDict):
    """The tokens of a run, as the model reported them.

    `cachedTokens` is the part of `promptTokens` that the model's server had in its cache, where it reported that.
    """

    promptTokens: int
    completionTokens: int
    totalTokens: int
    cachedTokens: NotRequired[int]


class ModelTurnRecord(TypedDict):
    """One attempt at a turn of the model. `model` is the name of the model that answered, null where none did.

    `usage` is null where the model's server reported none. An attempt that goes on has no `outcome` yet.
    """

    turn: int
    attempt: int
    model: str | None
    outcome: TurnOutcome | None
    usage: TokenUsage | None
    startedAt: float
    endedAt: float | None


class ThreadHistory(TypedDict):
    """What the model got of the earlier turns of the thread.

    `messages` counts their messages, `omittedTurns` the turns that were left out because they did not fit.
    `isShortened`: the newest earlier turn is in the messages, but was cut in its middle.
    """

    messages: int
    omittedTurns: int
    isShortened: bool


class AgentStep(TypedDict):
    """A step of a run's plan, as the platform describes it. A confidence of 0.5 may mean that it is not known."""

    id: str
    title: str
    description: str
    status: Literal["pending", "in_progress", "completed", "failed"]
    confidence: float
    result: NotRequired[Any]
    startedAt: NotRequired[int]
    completedAt: NotRequired[int]


class AgentRunState(TypedDict):
    """Where a run is: `progress` is that of its plan, 0–1."""

    sessionId: str
    state: State
    turn: int
    progress: float


class AgentMetadata(TypedDict):
    """What the platform shows of an agent's work (§1.4).

    `confidence` is the lowest that is known of the run's steps and tool calls; it is absent where none is known.
    """

    traceId: str
    steps: list[AgentStep]
    confidence: NotRequired[float]
    additionalData: AgentRunState


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
    context: JsonObject
    turn: int
    history: ThreadHistory
    plan: list[Annotated[JsonObject, _json_of(PlanStep)]]
    ledger: list[ToolCallRecord]
    modelTurns: list[ModelTurnRecord]
    path: list[Annotated[JsonObject, _json_of(TransitionRecord)]]
    answer: str | None
    usage: TokenUsage
    spentTokens: int
    reservedTokens: int
    limits: Annotated[JsonObject, _json_of(Limits)]
    ending: Annotated[JsonObject, _json_of(Ending)] | None
    cancelledBy: str | None
    runDeadlineAt: float


class RunPage(TypedDict):
    """Runs, newest first. `nextOffset` is the offset of the next page; it is absent on the last page."""

    runs: list[RunSummary]
    nextOffset: NotRequired[int]


class RequestPage(TypedDict):
    """Open approval requests. `nextOffset` is the offset of the next page; it is absent on the last page."""

    requests: list[PendingRequest]
    nextOffset: NotRequired[int]


class CancelAccepted(TypedDict):
    """The cancellation was accepted. The run's stream ends with `end` when it has taken effect."""

    sessionId: str
    status: Literal["cancelling"]


class DecisionResult(TypedDict):
    """The status of an approval request after a decision."""

    requestId: str
    sessionId: str
    status: RequestStatus
    reason: NotRequired[str]


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
    context: JsonObject
    argumentsDigest: str
    warnings: list[Annotated[JsonObject, _json_of(ArgumentWarning)]]
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


class StoredApprovalRequest(TypedDict):
    """An approval request as stored in Redis (§5). Other systems may add fields. `createdAt` is in milliseconds."""

    requestId: str
    sessionId: str
    userId: str
    tenantId: str
    actionType: str
    argumentsDigest: NotRequired[str]
    context: JsonObject
    warnings: NotRequired[list[Annotated[JsonObject, _json_of(ArgumentWarning)]]]
    status: str
    createdAt: int
    expiresAt: NotRequired[int]
    position: NotRequired[int]
    total: NotRequired[int]


class Signal(TypedDict):
    """The last signal of a session as it is stored in Redis (§5)."""

    type: NotRequired[str]
    requestId: NotRequired[str]
    status: NotRequired[str]
    timestamp: NotRequired[int]
    reason: NotRequired[str]


class AuditEntry(TypedDict):
    """One entry of the record of decisions. `sequence` counts the entries of its `chain`, `hash` is what the next one
    refers to. `details` are the fields of its kind: names, digests and outcomes, no content. `intact` is false where
    the entry was changed, moved or written by others: its seal does not fit, and nothing in it can be relied on.
    """

    chain: str
    sequence: int
    at: float
    kind: str
    details: JsonObject
    hash: str
    intact: bool


class AuditPage(TypedDict):
    """Entries of the tenant, newest first. `nextCursor` leads to the next page; it is absent on the last one."""

    entries: list[AuditEntry]
    nextCursor: NotRequired[str]


class ConsoleToken(TypedDict):
    """The token that a one-time code of the console is exchanged for."""

    token: str
