"""What the shell tells the core (facts, past tense) and what the core asks of it (effects, imperative)."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from statemachine.checkpoint import (
    Approval,
    Checkpoint,
    Confidence,
    JsonObject,
    PlanStep,
    ToolCall,
    Usage,
)
from statemachine.events import ErrorType, Event, ThoughtType

# --- facts ------------------------------------------------------------------------------------------------------------


class RequestedCall(Struct, frozen=True):
    """A tool call the model asked for, as the registry understood it.

    `refusal` is set where it cannot be run (no such tool, arguments that do not fit): the model is told so.
    `plan` is set for `update_plan`, which changes the plan and runs nothing: empty where it is refused.
    `shown_arguments` are the arguments without their secrets, as events show them.
    """

    id: str
    name: str
    arguments: JsonObject
    raw_arguments: str
    shown_arguments: JsonObject = {}
    title: str = ""
    question: str = ""
    needs_approval: bool = False
    idempotent: bool = False
    refusal: str | None = None
    plan: tuple[PlanStep, ...] | None = None


class ThoughtArrived(Struct, frozen=True):
    """A piece of the model's reasoning, or text that preceded a tool call."""

    text: str
    thought_type: ThoughtType = "reasoning"


class AnswerArrived(Struct, frozen=True):
    """The next piece of the answer's text."""

    text: str


class ToolsRequested(Struct, frozen=True):
    """The model's turn ended with tool calls; `text` is what the turn said besides them."""

    calls: tuple[RequestedCall, ...]
    text: str = ""
    usage: Usage | None = None
    confidence: Confidence = Confidence.UNKNOWN


class AnswerFinished(Struct, frozen=True):
    """The model's turn ended with an answer. `rest` has not arrived before; `text` is the whole turn."""

    text: str
    rest: str = ""
    usage: Usage | None = None


ModelFailure = Literal[
    "not_configured",  # there is no key: nothing was asked
    "refused",  # the provider will never answer this request (401, 400, unknown model …)
    "unavailable",  # it did not answer this time (429, 5xx, no connection)
    "timeout",  # it went silent
    "interrupted",  # the stream broke, or ended without a finish_reason, or made no sense
    "truncated",  # it stopped on purpose before its end (token limit, content filter)
]


class ModelFailed(Struct, frozen=True):
    """A model turn that gave no usable end. `streamed` is the answer text of it that clients already have."""

    failure: ModelFailure
    message: str
    streamed: str = ""
    retry_after_seconds: float | None = None


class ToolFinished(Struct, frozen=True):
    """A call came to its outcome. `answer` is the text for the model, already cut to its size limit.

    `sources` are what the result rests on, each a small JSON object: the `thought` that follows shows them (§2.2).
    """

    call_id: str
    answer: str
    result: Any = None
    error: str | None = None
    sources: tuple[JsonObject, ...] = ()


class ApprovalGranted(Struct, frozen=True):
    """A person said yes; `arguments` (already validated) replace the call's where the person edited them."""

    request_id: str
    decided_at: float
    decided_by: str | None = None
    arguments: JsonObject | None = None
    shown_arguments: JsonObject | None = None


class ApprovalRejected(Struct, frozen=True):
    """A person said no. `skip`: do not run this call, but go on with the run, whatever `on_reject` says."""

    request_id: str
    decided_at: float
    decided_by: str | None = None
    reason: str = ""
    skip: bool = False


class DeadlinePassed(Struct, frozen=True):
    """The shell's timer says that a deadline may have passed; the core compares it with the time."""


class CancelRequested(Struct, frozen=True):
    """Somebody entitled asked for the end of the run."""

    cancelled_by: str


class InternalErrorOccurred(Struct, frozen=True):
    """Something in the service itself went wrong; the message carries no secret and no stack trace."""

    message: str
    error_type: ErrorType = "InternalError"
    error_code: str = "E1000"


class RunRecovered(Struct, frozen=True):
    """A node took the run over: what was under way is lost. `streamed` is the turn's answer text clients have."""

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
    """Ask the model for its next turn, not before `not_before` (Unix s).

    `streamed` is answer text of this turn that clients already have: the model must go on from exactly there.
    """

    messages: tuple[JsonObject, ...]
    streamed: str = ""
    not_before: float | None = None


class RunTools(Struct, frozen=True):
    """Run these started calls, all at the same time."""

    calls: tuple[ToolCall, ...]


class AwaitDecision(Struct, frozen=True):
    """Wait for a person's decision until `deadline_at` (Unix s).

    The request must be saved and its channel subscribed *before* the step that carries this effect is committed (§5).
    """

    approval: Approval
    deadline_at: float


class Continue(Struct, frozen=True):
    """Go on with the effect under way."""


class Stop(Struct, frozen=True):
    """The run has ended."""


Effect = CallModel | RunTools | AwaitDecision | Continue | Stop


class Step(Struct, frozen=True):
    """What one fact led to: commit `checkpoint` and `events` together, then carry out `effect`.

    `checkpoint` is the very object that went in where the fact changed nothing to save (streamed text).
    """

    checkpoint: Checkpoint
    events: tuple[Event, ...]
    effect: Effect
