"""Requests model turns. It is the only module that makes the effect `CallModel`: each is reserved first.

Before a turn is requested, its tokens are reserved within the budget of the run (`Limits.tokens`), and the reservation
is part of the checkpoint that is committed before the model is called. `StepBuilder.end_turn` settles it. So a crash
costs what it may have used.
"""

from __future__ import annotations

from statemachine import endings
from statemachine.messages import CallModel, Continue, Stop
from statemachine.prompt import with_continuation
from statemachine.step_builder import StepBuilder
from statemachine.tokens import estimate_prompt


def request_first_turn(builder: StepBuilder) -> CallModel | Continue:
    """Request the turn that a run begins with.

    If the budget does not allow it, nothing is requested: the run has to exist before it can end.
    """
    reservation = _reservation(builder, "")
    return _reserve(builder, reservation, "") if _is_affordable(builder, reservation) else Continue()


def request_turn(builder: StepBuilder, streamed: str = "") -> CallModel | Stop:
    """Request an attempt at the present turn, not before `retry_at`; or end the run if its budget does not allow it.

    `streamed` is the text of the turn's answer that clients have received already.
    """
    reservation = _reservation(builder, streamed)
    if _is_affordable(builder, reservation):
        return _reserve(builder, reservation, streamed)
    budget, spent = builder.checkpoint.limits.tokens, builder.checkpoint.spent_tokens
    message = (
        f"토큰 한도({budget}개)에 도달하여 작업을 중단했습니다."
        f" (AURA_RUN_TOKENS is {budget}: {spent} are spent, and the next model turn needs about {reservation})"
    )
    return endings.fail(builder, "LimitExceeded", "E1000", message, retryable=False)


def _reservation(builder: StepBuilder, streamed: str) -> int:
    """Return the estimate of the prompt, plus the tokens that the model may write where that number is configured."""
    messages = builder.checkpoint.messages
    prompt = estimate_prompt(with_continuation(messages, streamed) if streamed else messages)
    return prompt + builder.checkpoint.limits.completion_tokens


def _is_affordable(builder: StepBuilder, reservation: int) -> bool:
    budget = builder.checkpoint.limits.tokens
    return not budget or builder.checkpoint.spent_tokens + reservation <= budget


def _reserve(builder: StepBuilder, reservation: int, streamed: str) -> CallModel:
    retry_at = builder.checkpoint.retry_at
    builder.begin_turn(max(builder.now, retry_at or 0), reservation)
    return CallModel(tuple(builder.checkpoint.messages), streamed, retry_at)
