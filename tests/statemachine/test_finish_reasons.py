"""What the reasons of servers say of a turn."""

from __future__ import annotations

import pytest

from statemachine.finish_reasons import TurnEnd, turn_end


@pytest.mark.parametrize("reason", ["stop", "STOP", " Stop ", "tool_calls", "function_call", "eos", "Reason.STOP"])
def test_only_known_reasons_say_that_a_turn_is_whole(reason: str) -> None:
    assert turn_end(reason) is TurnEnd.WHOLE


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length", "FinishReason.MAX_TOKENS"])
def test_reasons_of_a_token_limit(reason: str) -> None:
    assert turn_end(reason) is TurnEnd.CAPPED


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "recitation", "sensitive"])
def test_reasons_of_a_filter(reason: str) -> None:
    assert turn_end(reason) is TurnEnd.FILTERED


@pytest.mark.parametrize("reason", ["error", "network_error", "insufficient_resource", "stopped", "멈춤", "7", ""])
def test_every_other_reason_says_that_the_turn_was_cut(reason: str) -> None:
    assert turn_end(reason) is TurnEnd.CUT
