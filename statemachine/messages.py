"""The messages between the core and `app/`: facts (past tense) are its input, effects (imperative) are its output."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from statemachine.call import ArgumentWarning, Confidence, ResolvedCall, ToolCall, Via
from statemachine.checkpoint import Approval, Checkpoint, PlanStep, Usage
from statemachine.events import ErrorType, Event, ThoughtType
from statemachine.masking import Path
from statemachine.outside_text import needs_approval
from statemachine.stored import JsonObject

# --- facts ------------------------------------------------------------------------------------------------------------


class RequestedCall(ResolvedCall, frozen=True, kw_only=True):
    """A tool call that the model requested, after the registry has checked it.

    `raw_arguments` is the JSON text that the model sent. `refusal` is set if the call cannot run (unknown tool, invalid
    arguments); the model reads it. `plan` is set for `update_plan`, which changes the plan and runs no tool; it is
    empty if that call is refused. `extras` are the fields of the call that only its provider understands.
    """

    raw_arguments: str
    refusal: str | None = None
    plan: tuple[PlanStep, ...] | None = None
    extras: JsonObject = field(default_factory=dict)

    def with_extras(self, extras: JsonObject) -> RequestedCall:
        return replace(self, extras=extras) if extras else self


class ModelSource(Struct, frozen=True):
    """The server and the model that sent a turn.

    `origin` identifies both without naming an address. Fields that a provider adds to its messages are sent back to
    the same origin and to no other.
    """

    model: str
    origin: str


class ThoughtArrived(Struct, frozen=True):
    """A piece of the model's reasoning, or of the text before a tool call."""

    text: str
    thought_type: ThoughtType = "reasoning"


class AnswerArrived(Struct, frozen=True):
    """The next piece of the answer."""

    text: str


class ToolsRequested(Struct, frozen=True):
    """The model's turn ended with tool calls. `text` is all other text of the turn.

    `extras` are the fields of the model's message that only its provider understands.
    """

    calls: tuple[RequestedCall, ...]
    text: str = ""
    usage: Usage | None = None
    confidence: Confidence = Confidence.UNKNOWN
    extras: JsonObject = {}
    source: ModelSource | None = None

    def asks_a_person(self, checkpoint: Checkpoint) -> bool:
        """Whether a call would wait for an approval."""
        return any(_asks_a_person(checkpoint, call) for call in self.calls)

    def without_approvals(self, checkpoint: Checkpoint, refusal: str) -> ToolsRequested:
        """Return the fact with the calls refused that would wait for an approval."""
        calls = (replace(call, refusal=refusal) if _asks_a_person(checkpoint, call) else call for call in self.calls)
        return replace(self, calls=tuple(calls))


def _asks_a_person(checkpoint: Checkpoint, call: RequestedCall) -> bool:
    return call.refusal is None and needs_approval(checkpoint, call)


class AnswerFinished(Struct, frozen=True):
    """The model's turn ended with an answer. `text` is the whole turn; `rest` is the part that was not streamed yet.

    `extras` are the fields of the model's message that only its provider understands.
    """

    text: str
    rest: str = ""
    usage: Usage | None = None
    extras: JsonObject = {}
    source: ModelSource | None = None


ModelFailure = Literal[
    "not_configured",  # there is no API key, so no request was sent
    "refused",  # the provider will not accept this request later either (400, 401, unknown model …)
    "unavailable",  # the provider did not answer this time (429, 5xx, no connection)
    "timeout",  # the stream sent nothing for too long
    "interrupted",  # the stream broke, ended without a finish_reason, or was malformed
    "truncated",  # the model stopped early on purpose (token limit, content filter)
    "context_too_long",  # the conversation has more tokens than the model can read
]


REFUSALS: frozenset[ModelFailure] = frozenset({"not_configured", "refused", "context_too_long"})
"""The failures of requests that the provider did not accept, so that they cost no tokens."""


class ModelFailed(Struct, frozen=True):
    """A model turn failed. `streamed` is the text of its answer that clients have received already.

    `usage` and `source` are set where the model answered before it failed.
    """

    failure: ModelFailure
    message: str
    streamed: str = ""
    retry_after_seconds: float | None = None
    usage: Usage | None = None
    source: ModelSource | None = None


class ToolFinished(Struct, frozen=True):
    """A call has its outcome. `answer` is the text for the model, already cut to its size limit.

    `sources` are the documents that the result is based on, each a small JSON object. A `thought` shows them (§2.2).
    `outcome_unknown`: the call failed with `error` after it was sent, and it may have taken effect.
    """

    call_id: str
    answer: str
    result: Any = None
    error: str | None = None
    sources: tuple[JsonObject, ...] = ()
    outcome_unknown: bool = False


class ApprovalGranted(Struct, frozen=True):
    """A person approved the open request.

    `arguments` (validated) are set if the person edited those of the call; `secret_fields` are the secrets in them, and
    `warnings` are about them. `via`: the way by which the decision came. By Redis, another service told who decided.
    """

    request_id: str
    decided_at: float
    decided_by: str | None = None
    arguments: JsonObject | None = None
    secret_fields: tuple[Path, ...] = ()
    warnings: tuple[ArgumentWarning, ...] = ()
    via: Via = "http"

    def edited(
        self, arguments: JsonObject, secret_fields: tuple[Path, ...], warnings: tuple[ArgumentWarning, ...]
    ) -> ApprovalGranted:
        """Return the same approval of other arguments."""
        return replace(self, arguments=arguments, secret_fields=secret_fields, warnings=warnings)


class ApprovalRejected(Struct, frozen=True):
    """A person rejected the open request. `skip`: the run continues without this call, whatever `on_reject` is."""

    request_id: str
    decided_at: float
    decided_by: str | None = None
    reason: str = ""
    skip: bool = False
    via: Via = "http"


class DeadlinePassed(Struct, frozen=True):
    """A deadline may have passed. The core compares its deadlines with the time and refuses the fact if none has."""


class CancelRequested(Struct, frozen=True):
    """An authorized user has requested the end of the run."""

    cancelled_by: str


class InternalErrorOccurred(Struct, frozen=True):
    """The service itself failed. The user reads the message: it must contain no secrets and no stack trace."""

    message: str
    error_type: ErrorType = "InternalError"
    error_code: str = "E1000"


class RunRecovered(Struct, frozen=True):
    """A node took the run over, and the work in progress is lost; or `begin` requested nothing, and the run exists now.

    `streamed` is the text of the turn's answer that clients have received already.
    """

    streamed: str = ""


class RunResumed(Struct, frozen=True):
    """A run that waits for a decision was loaded again unchanged. It was not taken over, and no work was lost."""


Fact = (
    ThoughtArrived
    | AnswerArrived
    | ToolsRequested
    | AnswerFinished
    | ModelFailed
    | ToolFinished
    | ApprovalGranted
    | ApprovalRejected
    | DeadlinePassed
    | CancelRequested
    | InternalErrorOccurred
    | RunRecovered
    | RunResumed
)

# --- effects ----------------------------------------------------------------------------------------------------------


class CallModel(Struct, frozen=True):
    """Request the model's next turn, not before `not_before` (Unix s).

    `streamed` is the text of this turn's answer that clients have received already; the model must continue from its
    end.
    """

    messages: tuple[JsonObject, ...]
    streamed: str = ""
    not_before: float | None = None


class RunTools(Struct, frozen=True):
    """Run these started calls concurrently."""

    calls: tuple[ToolCall, ...]


class AwaitDecision(Struct, frozen=True):
    """Wait for a person's decision until `deadline_at` (Unix s).

    `app/` must save the request and subscribe to its channel *before* it commits the step with this effect (§5).
    """

    approval: Approval
    deadline_at: float


class Continue(Struct, frozen=True):
    """Continue with the effect in progress."""


class Stop(Struct, frozen=True):
    """The run has ended."""


Effect = CallModel | RunTools | AwaitDecision | Continue | Stop


class Step(Struct, frozen=True):
    """The result of one fact: commit `checkpoint` and `events` together, then perform `effect`.

    If the fact changed nothing that is saved (streamed text), `checkpoint` is the same object that was passed in.
    """

    checkpoint: Checkpoint
    events: tuple[Event, ...]
    effect: Effect
