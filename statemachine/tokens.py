"""Estimates of tokens, and what a model turn costs of the token budget of its run (`Limits.tokens`)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from statemachine.checkpoint import Limits, ModelTurn
from statemachine.stored import JsonObject

_BYTES_PER_TOKEN = 3
"""A cautious estimate for English and Korean, because the tokenizer of the model is not available."""

_PRIVATE_KEY = "provider_fields"
"""The key of a message under which the fields of its provider are kept. It is no part of what is sent."""


def estimate_tokens(value: object) -> int:
    """Return about how many tokens the JSON of a value has, rounded up; 0 for None."""
    return 0 if value is None else -(-len(msgspec.json.encode(value)) // _BYTES_PER_TOKEN)


def estimate_prompt(messages: Sequence[JsonObject]) -> int:
    """Return about how many tokens a conversation has, without the tools that are offered with it."""
    return estimate_tokens([_sent(message) for message in messages])


def turn_cost(ended: ModelTurn, reserved: int, limits: Limits, wrote: object) -> int:
    """Return the tokens that an ended attempt at a model turn counts.

    Reported tokens count as reported. Without a report, the prompt counts as estimated when the turn was requested, and
    so does `wrote`, the message or text of the model. An attempt that failed, was lost or was stopped may have written
    more than is known, so it counts at least its reservation.
    """
    usage = ended.usage
    reported = 0 if usage is None else max(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    if reported:
        return reported
    estimated = reserved - limits.completion_tokens + estimate_tokens(wrote)
    return estimated if ended.outcome in ("tools", "answer") else max(reserved, estimated)


def _sent(message: JsonObject) -> JsonObject:
    if _PRIVATE_KEY not in message:
        return message
    return {key: value for key, value in message.items() if key != _PRIVATE_KEY}
