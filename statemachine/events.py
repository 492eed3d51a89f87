"""The events of the contract (§2.2): one class for each type, with the aliases of its fields."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import msgspec

from statemachine.call import ArgumentWarning, ConfidenceSource
from statemachine.checkpoint import StepStatus
from statemachine.stored import JsonObject

VERSION = "1.0"

ThoughtType = Literal["analysis", "planning", "reasoning", "decision", "reflection"]
ToolStatus = Literal["pending", "executing", "completed", "failed", "rejected"]
EndStatus = Literal["completed", "rejected", "timed_out", "cancelled", "failed"]
ErrorType = Literal[
    "ValidationError",
    "AuthenticationError",
    "PermissionError",
    "LLMNotConfigured",
    "ModelError",
    "ModelTimeout",
    "ToolError",
    "TimeoutError",
    "RejectionError",
    "ResumeExpired",
    "LimitExceeded",
    "StorageUnavailable",
    "Cancelled",
    "InternalError",
]


class Event(msgspec.Struct, frozen=True, rename="camel"):
    """One event of the stream.

    `ALIASES` maps a field to the other names under which clients read it. `OMITTED_WHEN_NONE` are the fields that the
    contract marks with `?`; all others are always present.
    """

    TYPE: ClassVar[str]
    ALIASES: ClassVar[dict[str, tuple[str, ...]]] = {}
    OMITTED_WHEN_NONE: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, fields: JsonObject) -> Self:
        """Return the event with these fields. Unknown fields are ignored. Raises `ValueError` if one is invalid."""
        return msgspec.convert(fields, cls)

    def fields(self) -> JsonObject:
        """Return the fields of the event, ready for JSON, each under its name and its aliases."""
        fields: JsonObject = msgspec.to_builtins(self)
        for name in self.OMITTED_WHEN_NONE:
            if fields[name] is None:
                del fields[name]
        for name, aliases in self.ALIASES.items():
            for alias in aliases:
                fields[alias] = fields[name]
        return fields


def _with_title(source: Any) -> JsonObject:
    """Return a source with its title under both names that clients read; its id where it has no title."""
    named: JsonObject = source if isinstance(source, dict) else {"title": source}
    title = next((str(named[name]) for name in ("title", "name", "id") if named.get(name)), "")
    return {**named, "title": title, "name": title}


class Start(Event, frozen=True):
    TYPE: ClassVar[str] = "start"

    message: str
    session_id: str
    thread_id: str
    state: str


class Thought(Event, frozen=True):
    """What the model thinks. Each of the `sources` has a `title`, and the same text as `name`."""

    TYPE: ClassVar[str] = "thought"

    thought_type: ThoughtType
    content: str
    sources: tuple[Any, ...] = ()

    def fields(self) -> JsonObject:
        fields = super().fields()
        return fields | {"sources": [_with_title(source) for source in fields["sources"]]}


class PlanStepDeclared(Event, frozen=True):
    TYPE: ClassVar[str] = "plan_step"
    ALIASES: ClassVar[dict[str, tuple[str, ...]]] = {"stepId": ("id",)}

    step_id: str
    title: str
    description: str
    status: StepStatus
    confidence: float
    confidence_source: ConfidenceSource
    order: int


class PlanStepUpdated(Event, frozen=True):
    TYPE: ClassVar[str] = "plan_step_update"
    ALIASES: ClassVar[dict[str, tuple[str, ...]]] = {"stepId": ("id",)}
    OMITTED_WHEN_NONE: ClassVar[tuple[str, ...]] = ("description", "confidence", "confidenceSource")

    step_id: str
    status: StepStatus
    progress: float
    description: str | None = None
    confidence: float | None = None
    confidence_source: ConfidenceSource | None = None


class TimelineStepUpdated(Event, frozen=True):
    """One transition of the machine; `metadata` is `{from, to, trigger}`."""

    TYPE: ClassVar[str] = "timeline_step_update"
    ALIASES: ClassVar[dict[str, tuple[str, ...]]] = {"stepId": ("id",)}

    step_id: str
    title: str
    status: StepStatus
    progress: float
    metadata: dict[str, str]


class ToolExecution(Event, frozen=True, kw_only=True):
    """A status of a tool call. All events of one call have the same `toolCallId`; the last one has its outcome:
    completed, failed or rejected. The arguments are never shortened. `truncated` is true if the result was cut at
    16 KiB; the run's record contains it in full.
    """

    TYPE: ClassVar[str] = "tool_execution"
    ALIASES: ClassVar[dict[str, tuple[str, ...]]] = {
        "toolName": ("tool",),
        "toolArgs": ("params", "parameters"),
        "toolCallId": ("stepId",),  # of the plan step that a call adds to a plan which the model did not declare
    }
    OMITTED_WHEN_NONE: ClassVar[tuple[str, ...]] = ("truncated",)

    tool_name: str
    tool_args: JsonObject
    status: ToolStatus
    result: Any = None
    error: str | None = None
    requires_approval: bool
    tool_call_id: str
    truncated: bool | None = None


class Hitl(Event, frozen=True, kw_only=True):
    """A person is asked for an approval. The arguments are never shortened: what is shown is what would run.

    `arguments_digest` is the digest of what would run, which an approval sends back. `position` and `total` say which
    of the approvals of this turn it is. `warnings` say what in the arguments may deceive a person, such as characters
    that are not seen.
    """

    TYPE: ClassVar[str] = "hitl"
    ALIASES: ClassVar[dict[str, tuple[str, ...]]] = {"actionType": ("action",), "context": ("params",)}
    OMITTED_WHEN_NONE: ClassVar[tuple[str, ...]] = ("confidence", "confidenceSource", "stepId", "outcomeUnknown")

    request_id: str
    session_id: str
    action_type: str
    message: str
    context: JsonObject
    requires_approval: Literal[True] = True
    confidence: float | None = None
    confidence_source: ConfidenceSource | None = None
    step_id: str | None = None
    expires_at: int
    timeout_seconds: int
    outcome_unknown: bool | None = None
    arguments_digest: str = ""
    position: int = 1
    total: int = 1
    warnings: tuple[ArgumentWarning, ...] = ()


class Content(Event, frozen=True, kw_only=True):
    """A piece of the answer, which clients append. `chunk` is true if more pieces follow.

    The last piece has `metadata`: its `result` is `{type: "markdown", title, content}` with the whole answer, if that
    has at most 16 KiB. It is added when the frame is read.
    """

    TYPE: ClassVar[str] = "content"
    OMITTED_WHEN_NONE: ClassVar[tuple[str, ...]] = ("metadata",)

    content: str
    format: Literal["markdown"] = "markdown"
    chunk: bool
    metadata: JsonObject | None = None


class ErrorRaised(Event, frozen=True):
    TYPE: ClassVar[str] = "error"
    ALIASES: ClassVar[dict[str, tuple[str, ...]]] = {"message": ("error",)}

    message: str
    error_type: ErrorType
    error_code: str
    retryable: bool


class End(Event, frozen=True):
    """The run has ended. `usage` are the tokens that the model reported: `promptTokens`, `completionTokens` and
    `totalTokens`, and `cachedTokens` where the server had a part of the prompt in its cache."""

    TYPE: ClassVar[str] = "end"
    OMITTED_WHEN_NONE: ClassVar[tuple[str, ...]] = ("usage",)

    message: str
    status: EndStatus
    usage: dict[str, int] | None = None


EVENT_TYPES: dict[str, type[Event]] = {
    event.TYPE: event
    for event in (
        Start,
        Thought,
        PlanStepDeclared,
        PlanStepUpdated,
        TimelineStepUpdated,
        ToolExecution,
        Hitl,
        Content,
        ErrorRaised,
        End,
    )
}
