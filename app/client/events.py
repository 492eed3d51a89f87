"""The events of a run (§2.2): one class for each type. They are generated from the service's own by `.ci/clients`.

A later version of the service may add fields: match by name, as in `case Content(content=text)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentWarning:
    """What may deceive an approver in the arguments of a call. `code` is the kind, such as `invisible`; `field` is the
    path of the argument, such as `to[1]`; `message` is for people.

    It is a part of events too, so fields that a later version adds are ignored.
    """

    code: str
    field: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    TYPE: ClassVar[str] = "start"

    message: str
    session_id: str
    thread_id: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """What the model thinks. Each of the `sources` has a `title`, and the same text as `name`."""

    TYPE: ClassVar[str] = "thought"

    thought_type: Literal["analysis", "planning", "reasoning", "decision", "reflection"]
    content: str
    sources: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStepDeclared:
    TYPE: ClassVar[str] = "plan_step"

    step_id: str
    title: str
    description: str
    status: Literal["pending", "in_progress", "completed", "failed", "skipped"]
    confidence: float
    confidence_source: Literal["logprobs", "model", "none"]
    order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStepUpdated:
    TYPE: ClassVar[str] = "plan_step_update"

    step_id: str
    status: Literal["pending", "in_progress", "completed", "failed", "skipped"]
    progress: float
    description: str | None = None
    confidence: float | None = None
    confidence_source: Literal["logprobs", "model", "none"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineStepUpdated:
    """One transition of the machine; `metadata` is `{from, to, trigger}`."""

    TYPE: ClassVar[str] = "timeline_step_update"

    step_id: str
    title: str
    status: Literal["pending", "in_progress", "completed", "failed", "skipped"]
    progress: float
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolExecution:
    """A status of a tool call. All events of one call have the same `toolCallId`; the last one has its outcome:
    completed, failed or rejected. The arguments are never shortened. `truncated` is true if the result was cut at 16
    KiB; the run's record contains it in full.
    """

    TYPE: ClassVar[str] = "tool_execution"

    tool_name: str
    tool_args: dict[str, Any]
    status: Literal["pending", "executing", "completed", "failed", "rejected"]
    result: Any = None
    error: str | None = None
    requires_approval: bool
    tool_call_id: str
    truncated: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hitl:
    """A person is asked for an approval. The arguments are never shortened: what is shown is what would run.

    `arguments_digest` is the digest of what would run, which an approval sends back. `position` and `total` say which
    of the approvals of this turn it is. `warnings` say what in the arguments may deceive a person, such as characters
    that are not seen.
    """

    TYPE: ClassVar[str] = "hitl"

    request_id: str
    session_id: str
    action_type: str
    message: str
    context: dict[str, Any]
    requires_approval: Literal[True] = True
    confidence: float | None = None
    confidence_source: Literal["logprobs", "model", "none"] | None = None
    step_id: str | None = None
    expires_at: int
    timeout_seconds: int
    outcome_unknown: bool | None = None
    arguments_digest: str = ""
    position: int = 1
    total: int = 1
    warnings: tuple[ArgumentWarning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A piece of the answer, which clients append. `chunk` is true if more pieces follow.

    The last piece has `metadata`: its `result` is `{type: "markdown", title, content}` with the whole answer, if that
    has at most 16 KiB. It is added when the frame is read.
    """

    TYPE: ClassVar[str] = "content"

    content: str
    format: Literal["markdown"] = "markdown"
    chunk: bool
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRaised:
    TYPE: ClassVar[str] = "error"

    message: str
    error_type: Literal[
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
    error_code: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The run has ended. `usage` are the tokens that the model reported: `promptTokens`, `completionTokens` and
    `totalTokens`, and `cachedTokens` where the server had a part of the prompt in its cache.
    """

    TYPE: ClassVar[str] = "end"

    message: str
    status: Literal["completed", "rejected", "timed_out", "cancelled", "failed"]
    usage: dict[str, int] | None = None


Event = (
    Start
    | Thought
    | PlanStepDeclared
    | PlanStepUpdated
    | TimelineStepUpdated
    | ToolExecution
    | Hitl
    | Content
    | ErrorRaised
    | End
)
"""Any event."""

EVENT_TYPES: dict[str, type[Event]] = {
    "start": Start,
    "thought": Thought,
    "plan_step": PlanStepDeclared,
    "plan_step_update": PlanStepUpdated,
    "timeline_step_update": TimelineStepUpdated,
    "tool_execution": ToolExecution,
    "hitl": Hitl,
    "content": Content,
    "error": ErrorRaised,
    "end": End,
}
"""Event type → its class."""
