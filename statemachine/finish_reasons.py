"""What a `finish_reason` says of a model's turn: that it is whole, or why it is not.

Servers and proxies spell the reasons in many ways (`STOP`, `MAX_TOKENS`, `eos`). Only the reasons listed here say that
a turn is whole. An unknown reason never does: half an answer that is shown as a whole one, or a mail that is sent from
half a turn, is worse than a turn that is requested again.
"""

from __future__ import annotations

from enum import Enum


class TurnEnd(Enum):
    """How a turn ended: by the model itself, at a limit of its length, at a filter, or by a fault."""

    WHOLE = "whole"
    CAPPED = "capped"
    FILTERED = "filtered"
    CUT = "cut"


_ENDS = {
    **dict.fromkeys(("stop", "tool_calls", "function_call", "eos"), TurnEnd.WHOLE),
    **dict.fromkeys(
        (
            *("length", "max_length", "max_tokens", "max_output_tokens", "max_completion_tokens", "token_limit"),
            *("model_length", "context_length", "context_length_exceeded", "model_context_window_exceeded"),
        ),
        TurnEnd.CAPPED,
    ),
    **dict.fromkeys(
        (
            *("content_filter", "content_filtered", "content_filter_error", "safety", "image_safety", "sensitive"),
            *("recitation", "blocklist", "prohibited_content", "spii", "guardrail_intervened", "guardrails"),
            *("refusal", "moderation", "language"),
        ),
        TurnEnd.FILTERED,
    ),
}


def turn_end(finish_reason: str) -> TurnEnd:
    """Return what the reason says. Case, blanks around it and a prefix such as `FinishReason.` are ignored."""
    return _ENDS.get(finish_reason.strip().lower().rpartition(".")[2], TurnEnd.CUT)
