"""`advance()`: from a checkpoint, a fact and the time to the next checkpoint, the events and the next effect.

It is pure: it does not await, read a clock or log. Every pair of state and fact is either legal or refused with
`FactRefused`, and a refused fact changes nothing. This module dispatches the facts and handles the model's turn and
recovery; `tool_calls.py`, `approvals.py` and `endings.py` handle the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from statemachine import endings
from statemachine.agent import Agent
from statemachine.approvals import approval_granted, approval_rejected, deadline_passed
from statemachine.checkpoint import Checkpoint, Limits, RunRequest
from statemachine.errors import FactRefused
from statemachine.events import Content, Start, Thought
from statemachine.messages import (
    REFUSALS,
    AnswerArrived,
    AnswerFinished,
    ApprovalGranted,
    ApprovalRejected,
    AwaitDecision,
    CancelRequested,
    Continue,
    DeadlinePassed,
    Effect,
    Fact,
    InternalErrorOccurred,
    ModelFailed,
    RunRecovered,
    RunResumed,
    Step,
    ThoughtArrived,
    ToolFinished,
    ToolsRequested,
)
from statemachine.model_turns import request_first_turn, request_turn
from statemachine.prompt import NO_HISTORY, History, without_history
from statemachine.provider_fields import with_provider_fields
from statemachine.states import OPEN_STATES, State, Trigger
from statemachine.step_builder import StepBuilder
from statemachine.stored import JsonObject
from statemachine.tool_calls import next_tool_effect, queue_repetition, tool_finished, tools_requested

_MODEL_TURN = frozenset({State.PLANNING, State.CONTENT})
_ANY_OPEN = frozenset(OPEN_STATES)

ACCEPTED: dict[type[Fact], frozenset[State]] = {
    ThoughtArrived: _MODEL_TURN,
    AnswerArrived: _MODEL_TURN,
    ToolsRequested: _MODEL_TURN,
    AnswerFinished: _MODEL_TURN,
    ModelFailed: _MODEL_TURN,
    ToolFinished: frozenset({State.TOOL}),
    ApprovalGranted: frozenset({State.AWAITING_APPROVAL}),
    ApprovalRejected: frozenset({State.AWAITING_APPROVAL}),
    DeadlinePassed: _ANY_OPEN,
    CancelRequested: _ANY_OPEN,
    InternalErrorOccurred: _ANY_OPEN,
    RunRecovered: _ANY_OPEN,
    RunResumed: frozenset({State.AWAITING_APPROVAL}),
}
"""The states in which each fact is legal. In every other state it is refused."""


_RECEIVED = "요청을 받았습니다."


def begin(
    request: RunRequest,
    messages: list[JsonObject],
    limits: Limits,
    now: float,
    history: History = NO_HISTORY,
    *,
    seed: str = "",
    agent: Agent | None = None,
) -> Step:
    """Return the first step of a run. Its events are published before the model is requested (§4).

    `messages` is the conversation: system prompt, messages of `history`, user's prompt. `seed` is random text, which
    makes the ids of the run's approval requests. The effect is `CallModel`, or `Continue` if the first turn is more
    than the run's token budget: then the fact `RunRecovered` ends the run.
    """
    checkpoint = Checkpoint(
        seed=seed,
        request=request,
        limits=limits,
        created_at=now,
        updated_at=now,
        messages=messages,
        history_messages=len(history.messages),
        omitted_turns=history.omitted_turns,
        is_history_shortened=history.is_shortened,
        outside_text=history.outside_text,
        agent=agent,
    )
    builder = StepBuilder(checkpoint, "RunRequest", now)
    effect = request_first_turn(builder)
    session_id, thread_id = request.session_id, request.thread_id
    events = (
        Start(message=_RECEIVED, session_id=session_id, thread_id=thread_id, state=State.PLANNING.value),
        Thought(thought_type="analysis", content="사용자의 요청을 분석하고 있습니다..."),
    )
    return Step(builder.checkpoint, events, effect)


def advance(checkpoint: Checkpoint, fact: Fact, now: float) -> Step:
    """Return the step that `fact` leads to at `now` (Unix s). Raises `FactRefused` if the fact is not legal."""
    if checkpoint.state not in ACCEPTED[type(fact)]:
        raise FactRefused(type(fact).__name__, checkpoint.state, "the fact is not legal here")
    builder = StepBuilder(checkpoint, type(fact).__name__, now)
    return builder.build(_apply(builder, fact))


def advance_all(checkpoint: Checkpoint, facts: Iterable[Fact], now: float) -> Step:
    """Return one step for several facts of the same moment.

    It ends at the first fact whose effect is not `Continue`; the facts after that one are ignored.
    """
    step = Step(checkpoint, (), Continue())
    for fact in facts:
        following = advance(step.checkpoint, fact, now)
        step = Step(following.checkpoint, step.events + following.events, following.effect)
        if not isinstance(step.effect, Continue):
            break
    return step


def _apply(builder: StepBuilder, fact: Fact) -> Effect:  # noqa: C901, PLR0911, PLR0912 - one case for each fact
    match fact:
        case ThoughtArrived(text=text, thought_type=thought_type):
            builder.add_event(Thought(thought_type=thought_type, content=text))
            return Continue()
        case AnswerArrived():
            return _answer_arrived(builder, fact)
        case ToolsRequested():
            return tools_requested(builder, fact)
        case AnswerFinished():
            return _answer_finished(builder, fact)
        case ModelFailed():
            return _model_failed(builder, fact)
        case ToolFinished():
            return tool_finished(builder, fact)
        case ApprovalGranted():
            return approval_granted(builder, fact)
        case ApprovalRejected():
            return approval_rejected(builder, fact)
        case DeadlinePassed():
            return deadline_passed(builder)
        case CancelRequested():
            return endings.cancel(builder, fact.cancelled_by)
        case InternalErrorOccurred():
            return endings.fail(builder, fact.error_type, fact.error_code, fact.message, retryable=True)
        case RunRecovered():
            return _run_recovered(builder, fact)
        case RunResumed():
            return _await_open_approval(builder)
        case _:
            assert_never(fact)


# --- the model's turn -------------------------------------------------------------------------------------------------


def _answer_arrived(builder: StepBuilder, fact: AnswerArrived) -> Effect:
    builder.add_event(Content(content=_enter_content(builder) + fact.text, chunk=True))
    return Continue()


def _answer_finished(builder: StepBuilder, fact: AnswerFinished) -> Effect:
    rest = _enter_content(builder) + fact.rest
    builder.add_message(with_provider_fields({"role": "assistant", "content": fact.text}, fact.source, fact.extras))
    builder.end_turn("answer", fact.usage, fact.source, wrote=builder.checkpoint.messages[-1])
    builder.add_event(Content(content=rest, chunk=False))
    return endings.complete(builder)


def _enter_content(builder: StepBuilder) -> str:
    """Enter `content` unless the run is in it already.

    Return the separator that must precede this turn's text: a blank line if an earlier turn has streamed text.
    """
    if builder.checkpoint.state is not State.PLANNING:
        return ""
    has_text = any(record.dest is State.CONTENT for record in builder.checkpoint.path)
    builder.transition(Trigger.ANSWER)
    return "\n\n" if has_text else ""


_BACKOFF_SECONDS = 0.5
_MAX_RETRY_DELAY_SECONDS = 30.0


def _model_failed(builder: StepBuilder, fact: ModelFailed) -> Effect:
    """Retry the turn if that can help and the pause is short; else end the run with the precise cause."""
    was_accepted = fact.failure not in REFUSALS or bool(fact.streamed)
    builder.end_turn("failed", fact.usage, fact.source, wrote=fact.streamed or None, was_accepted=was_accepted)
    if fact.failure == "context_too_long" and builder.checkpoint.history_messages:
        return _request_without_history(builder, fact)
    attempt = builder.checkpoint.model_attempt
    pause = fact.retry_after_seconds or _BACKOFF_SECONDS * 2 ** (attempt - 1)
    can_retry = fact.failure in ("unavailable", "interrupted") and pause <= _MAX_RETRY_DELAY_SECONDS
    if can_retry and attempt < builder.checkpoint.limits.model_attempts:
        builder.update(model_attempt=attempt + 1, retry_at=builder.now + pause)
        return request_turn(builder, fact.streamed)
    match fact.failure:
        case "not_configured":
            return endings.fail(builder, "LLMNotConfigured", "E5000", fact.message, retryable=False)
        case "timeout":
            return endings.fail(builder, "ModelTimeout", "E5001", fact.message, retryable=True)
        case "truncated":
            if builder.checkpoint.state is State.CONTENT:  # the user has this text, so the thread has it, too
                builder.add_message({"role": "assistant", "content": fact.streamed})
            return endings.fail(builder, "LimitExceeded", "E5000", fact.message, retryable=False)
        case "context_too_long":
            return endings.fail(builder, "LimitExceeded", "E5000", f"{_TOO_LONG} ({fact.message})", retryable=False)
        case "refused" | "unavailable" | "interrupted":
            return endings.fail(builder, "ModelError", "E5000", fact.message, retryable=fact.failure != "refused")
        case _:
            assert_never(fact.failure)


_TOO_LONG = (
    "이 작업의 대화(요청과 도구 결과)가 모델이 읽을 수 있는 길이를 넘었습니다."
    " 요청을 줄이거나 여러 번으로 나누어 다시 보내주세요."
)


def _request_without_history(builder: StepBuilder, fact: ModelFailed) -> Effect:
    """Request the turn again without the earlier runs of the thread.

    It is another attempt, which `limits.model_attempts` does not prevent: it can happen once in a run.
    """
    messages, omitted_turns = without_history(builder.checkpoint)
    builder.update(
        messages=messages,
        history_messages=0,
        omitted_turns=omitted_turns,
        is_history_shortened=False,
        model_attempt=builder.checkpoint.model_attempt + 1,
        retry_at=None,
    )
    explanation = "대화가 모델이 읽을 수 있는 길이를 넘어, 이전 대화 없이 다시 요청합니다."
    builder.add_event(Thought(thought_type="decision", content=explanation))
    return request_turn(builder, fact.streamed)


# --- recovery ---------------------------------------------------------------------------------------------------------


def _run_recovered(builder: StepBuilder, fact: RunRecovered) -> Effect:
    """Perform the effect again after a takeover.

    A started call without an outcome is repeated only if it is idempotent. Any other needs a new approval, whose
    question states that the call may have run already.
    """
    checkpoint = builder.checkpoint
    if checkpoint.state is State.TOOL:
        for call in reversed([call for call in checkpoint.running if not call.idempotent]):
            queue_repetition(builder, call)
        return next_tool_effect(builder)
    if checkpoint.state is State.AWAITING_APPROVAL:
        return _await_open_approval(builder)
    builder.end_turn("lost", wrote=fact.streamed or None)
    return request_turn(builder, fact.streamed)


def _await_open_approval(builder: StepBuilder) -> Effect:
    """Continue to wait for the open approval, until the same deadline."""
    checkpoint = builder.checkpoint
    if checkpoint.open_approval is None or checkpoint.deadline_at is None:
        raise FactRefused("RunResumed", checkpoint.state, "the run does not wait for a decision")
    return AwaitDecision(checkpoint.open_approval, checkpoint.deadline_at)
