"""The same bytes are the same turn, however they are split into buffers: also inside of a character or of a CRLF."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.model.reader import TurnReader
from statemachine.messages import AnswerArrived
from statemachine.turn import TurnBuffer
from tests.harness.stream_cases import Turn, load_cases

TOOLS = frozenset({"get_current_time", "send_email", "update_plan"})
_LONG_AFTER = 1e9
"""A time at which no text is held back any more."""

_BODIES = list(dict.fromkeys(turn.body for case in load_cases() for turn in case.responses))
_RANDOM_SPLITS = 300


def read_turn(pieces: Iterable[bytes], *, done_is_whole: bool = False) -> tuple[Any, ...]:
    """Return what a run makes of a response that comes in these pieces: its thoughts, its answer, its end."""
    reader, turn = TurnReader(done_is_whole=done_is_whole), TurnBuffer(tool_names=TOOLS)
    for piece in pieces:
        if (delta := reader.feed(piece)) is not None:
            turn.add_delta(delta, 0.0)
    if (delta := reader.finish()) is not None:
        turn.add_delta(delta, 0.0)
    end: Any
    if reader.failure is not None:
        facts, end = turn.take_facts(_LONG_AFTER), (reader.failure.kind, reader.failure.cause)
    else:
        facts, end = turn.finish()
    thoughts = "".join(fact.text for fact in facts if not isinstance(fact, AnswerArrived))
    shown = "".join(fact.text for fact in facts if isinstance(fact, AnswerArrived))
    return thoughts, shown, end, turn.usage, reader.has_ended, reader.is_done


def split(body: bytes, places: Iterable[int]) -> list[bytes]:
    """Split the bytes at these places."""
    ends = [*sorted({place for place in places if 0 < place < len(body)}), len(body)]
    return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("done_is_whole", [False, True])
def test_every_body_byte_by_byte_is_the_same_turn(done_is_whole: bool) -> None:
    for body in _BODIES:
        whole = read_turn([body], done_is_whole=done_is_whole)
        assert read_turn(split(body, range(len(body))), done_is_whole=done_is_whole) == whole, body


@pytest.mark.slow
def test_every_body_in_two_pieces_is_the_same_turn() -> None:
    """At every fifth place, another one for each body: most bodies are alike, so that each kind of place is tried."""
    for number, body in enumerate(_BODIES):
        whole = read_turn([body])
        for place in range(1 + number % 5, len(body), 5):
            assert read_turn([body[:place], body[place:]]) == whole, (body[:place], body[place:])


@settings(max_examples=_RANDOM_SPLITS, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.sampled_from(_BODIES), seed=st.integers(0, 2**32), density=st.floats(0.002, 0.5))
def test_any_split_is_the_same_turn(body: bytes, seed: int, density: float) -> None:
    chance = random.Random(seed)  # noqa: S311 - a place to split
    places = [place for place in range(len(body)) if chance.random() < density]
    assert read_turn(split(body, places)) == read_turn([body])


@settings(max_examples=_RANDOM_SPLITS, deadline=None, suppress_health_check=list(HealthCheck))
@given(bodies=st.lists(st.sampled_from(_BODIES), min_size=2, max_size=3), seed=st.integers(0, 2**32))
def test_any_split_of_streams_in_a_row_is_the_same_turn(bodies: list[bytes], seed: int) -> None:
    """Streams after one another are what no server sends, and must be read without surprises all the same."""
    chance = random.Random(seed)  # noqa: S311 - a place to split
    body = b"".join(bodies)
    places = [place for place in range(len(body)) if chance.random() < 0.05]
    assert read_turn(split(body, places)) == read_turn([body])


@settings(max_examples=_RANDOM_SPLITS, deadline=None, suppress_health_check=list(HealthCheck))
@given(turn=st.sampled_from([turn for case in load_cases() for turn in case.responses]), end=st.integers(0, 3000))
def test_no_beginning_of_a_body_says_more_than_the_whole(turn: Turn, end: int) -> None:
    """A response that breaks off is never read as a whole turn with other calls."""
    body = turn.body
    *_, whole_end, _, _, _ = read_turn([body])
    *_, cut_end, _, has_ended, _ = read_turn([body[:end]])
    if not has_ended:
        assert not hasattr(cut_end, "calls"), "calls of a turn without its end"
        assert not hasattr(cut_end, "rest"), "an answer without its end"
    elif hasattr(whole_end, "calls") and hasattr(cut_end, "calls"):
        assert len(cut_end.calls) <= len(whole_end.calls)
