"""Estimates of tokens, and the cost of an attempt: as reported, else as estimated and never less than it may be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.checkpoint import Limits, ModelTurn, TurnOutcome, Usage
from statemachine.tokens import estimate_prompt, estimate_tokens, turn_cost

RESERVED, ALLOWANCE = 130, 30
WROTE = "x" * 28  # 30 bytes as JSON
FINISHED: list[TurnOutcome] = ["tools", "answer"]
UNFINISHED: list[TurnOutcome] = ["failed", "lost", "stopped"]


def cost(outcome: TurnOutcome, usage: Usage | None = None, wrote: object = WROTE) -> int:
    turn = ModelTurn(turn=1, attempt=1, started_at=0, ended_at=1, outcome=outcome, usage=usage)
    return turn_cost(turn, RESERVED, Limits(completion_tokens=ALLOWANCE), wrote)


@pytest.mark.parametrize(
    ("value", "tokens"), [(None, 0), ("", 1), ("a", 1), ("ab", 2), ("한글", 3), ({"a": [1, 2]}, 4)]
)
def test_estimate_is_a_third_of_the_bytes_of_the_json_rounded_up(value: object, tokens: int) -> None:
    assert estimate_tokens(value) == tokens


@given(st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), st.text(max_size=20)), max_size=4))
def test_estimate_of_a_prompt_covers_the_json_that_is_sent(messages: list[dict[str, Any]]) -> None:
    size = len(json.dumps(messages, ensure_ascii=False, separators=(",", ":")).encode())
    assert estimate_prompt(messages) * 3 >= size


def test_fields_of_the_provider_are_no_part_of_the_prompt() -> None:
    message = {"role": "assistant", "content": "답"}
    with_fields = {**message, "provider_fields": {"origin": "o", "message": {"reasoning_content": "생각" * 500}}}
    assert estimate_prompt([with_fields, message]) == estimate_prompt([message, message])
    assert "provider_fields" in with_fields


@pytest.mark.parametrize("outcome", [*FINISHED, *UNFINISHED])
def test_reported_tokens_count_as_reported(outcome: TurnOutcome) -> None:
    assert cost(outcome, Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7)) == 7


def test_more_of_total_and_sum_counts() -> None:
    assert cost("answer", Usage(prompt_tokens=5, completion_tokens=2)) == 7
    assert cost("answer", Usage(prompt_tokens=5, completion_tokens=2, total_tokens=11)) == 11, (
        "thoughts, on some servers"
    )


@pytest.mark.parametrize("usage", [None, Usage()], ids=["no report", "a report of zeros"])
def test_without_a_report_a_finished_turn_costs_its_prompt_and_what_it_wrote(usage: Usage | None) -> None:
    assert [cost(outcome, usage) for outcome in FINISHED] == [100 + 10, 100 + 10]


@pytest.mark.parametrize("outcome", UNFINISHED)
def test_without_a_report_an_unfinished_attempt_costs_at_least_its_reservation(outcome: TurnOutcome) -> None:
    assert cost(outcome, wrote=None) == RESERVED
    assert cost(outcome) == RESERVED
    assert cost(outcome, wrote="x" * 298) == 200
