"""Reading JSON of other services: within bounds, and so that it can be written again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.foreign_json import LIMIT_BYTES, ForeignJsonInvalid, parse_object, read_number, read_text


@pytest.mark.parametrize("raw", ['{"a": 1}', b'{"a": 1}', '"{\\"a\\": 1}"'])
def test_object_is_read_also_where_it_was_encoded_twice(raw: str | bytes) -> None:
    assert parse_object(raw) == {"a": 1}


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        ("[]", "not a JSON object"),
        ('"[]"', "not a JSON object"),
        ("{", "not JSON"),
        ('"{"', "not JSON"),
        (b"\xff", "not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "not"),
        ('{"a":' * 49 + "1" + "}" * 49, "nested more than 48 levels"),
        ("[" * 100_000, "nested more than"),
        ("9" * 5000, "too many digits"),
        ('{"a": 1, "a": 2}', "more than once"),
        (" " * (LIMIT_BYTES + 1), f"more than {LIMIT_BYTES} bytes"),
    ],
)
def test_what_is_no_object_within_bounds_is_refused_with_its_cause(raw: str | bytes, cause: str) -> None:
    with pytest.raises(ForeignJsonInvalid, match=cause):
        parse_object(raw)


@pytest.mark.parametrize("raw", ['{"a": "\\ud83d"}', b'{"a": "\\uD83D"}', '{"a": "\ud83d"}'])
def test_half_a_character_is_replaced(raw: str | bytes) -> None:
    assert parse_object(raw) == {"a": "\ufffd"}


def test_text_is_the_first_that_is_one_and_is_cut() -> None:
    assert read_text({"a": 5, "b": "", "c": "x" * 3000}, "a", "b", "c") == "x" * 2000
    assert read_text({"a": None}, "a", "b") is None


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5.0),
        (5.5, 5.5),
        (0, 0.0),
        (-1, None),
        (True, None),
        ("5", None),
        (None, None),
        (10**400, None),
        (2e15, None),
    ],
)
def test_number_is_within_bounds(value: Any, number: float | None) -> None:
    assert read_number({"a": value}, "a") == number


JSON = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.binary() | st.text() | st.dictionaries(st.text(), JSON).map(json.dumps))
def test_what_is_read_can_be_written_again(raw: str | bytes) -> None:
    try:
        value = parse_object(raw)
    except ForeignJsonInvalid:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
