"""The types of what JSON answers hold under `data`: made by the service, read by clients, drawn by the schemas.

The names are those of the wire. Times are Unix seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from msgspec import Struct
from pydantic import GetPydanticSchema
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from app.ports.decisions import RequestStatus
from app.ports.typed_json import struct_as_typed_dict
from statemachine.checkpoint import CallStatus, Ending, Grant, JsonObject, Limits, PlanStep, TransitionRecord
from statemachine.states import State


def _dumped(struct: type[Struct]) -> GetPydanticSchema:
    """The JSON of a struct of the core: a dict to the code, the struct's own schema to readers."""
    return GetPydanticSchema(lambda _, handler: handler(struct_as_typed_dict(struct)))


class HealthStatus(TypedDict):
    """The service answers. `hints` are for operators: what is not as it should be, though it works."""

    status: Literal["UP"]
    hints: NotRequired[list[str]]


class ServiceInfo(TypedDict):
    """What this is."""

    name: str
    version: str
    model: str
    states: list[State]


class PendingApproval(TypedDict):
    """What a run waits for. `context` are the tool's arguments as a person sees them."""

    requestId: str
    actionType: str
    message: str
    context: JsonObject
    expiresAt: int
    secondsLeft: float
    outcomeUnknown: bool
    queued: int


class PendingRequest(PendingApproval):
    """An open approval request, with the run that waits for it."""

    sessionId: str


class RunSummary(TypedDict):
    """A run in a list."""

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
    pendingApproval: NotRequired[PendingApproval]


class ToolCallRecord(TypedDict):
    """One tool call of a run, from intent to outcome."""

    toolCallId: str
    toolName: str
    toolArgs: JsonObject
    turn: int
    status: CallStatus
    requiresApproval: bool
    idempotent: bool
    outcomeUnknown: bool
    result: Any
    error: str | None
    startedAt: float | None
    endedAt: float | None
    decision: Annotated[JsonObject, _dumped(Grant)] | None


class TokenUsage(TypedDict):
    """Tokens the model reported."""

    promptTokens: int
    completionTokens: int
    totalTokens: int


class RunDetails(RunSummary):
    """One run whole: the checkpoint without secrets. `taskId` is its task in the Main Service."""

    taskId: str | None
    schemaVersion: int
    prompt: str
    context: JsonObject
    turn: int
    plan: list[Annotated[JsonObject, _dumped(PlanStep)]]
    ledger: list[ToolCallRecord]
    path: list[Annotated[JsonObject, _dumped(TransitionRecord)]]
    answer: str | None
    usage: TokenUsage
    limits: Annotated[JsonObject, _dumped(Limits)]
    ending: Annotated[JsonObject, _dumped(Ending)] | None
    cancelledBy: str | None
    runDeadlineAt: float


class RunPage(TypedDict):
    """Runs, newest first. `nextOffset` is where the next page begins; without it there is none."""

    runs: list[RunSummary]
    nextOffset: NotRequired[int]


class RequestPage(TypedDict):
    """Open approval requests. `nextOffset` as for runs."""

    requests: list[PendingRequest]
    nextOffset: NotRequired[int]


class CancelAccepted(TypedDict):
    """The run is being stopped; its stream tells when it has."""

    sessionId: str
    status: Literal["cancelling"]


class DecisionResult(TypedDict):
    """How an approval request stands."""

    requestId: str
    sessionId: str
    status: RequestStatus
    reason: NotRequired[str]


class StoredApprovalRequest(TypedDict):
    """An approval request as Redis holds it (§5); every system may add fields. `createdAt` is in milliseconds."""

    requestId: str
    sessionId: str
    userId: str
    tenantId: str
    actionType: str
    context: JsonObject
    status: str
    createdAt: int
    expiresAt: NotRequired[int]


class Signal(TypedDict):
    """The last signal of a session as Redis holds it (§5)."""

    type: NotRequired[str]
    requestId: NotRequired[str]
    status: NotRequired[str]
    timestamp: NotRequired[int]
    reason: NotRequired[str]


class ConsoleToken(TypedDict):
    """What a one-time link of the console is exchanged for."""

    token: str
