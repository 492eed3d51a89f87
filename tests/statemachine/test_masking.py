"""What people see of a call's arguments: the same with masks in place of secrets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.masking import Path, find_masked, mask_values

ARGUMENTS = {"to": "lee", "login": {"name": "kim", "password": "1234"}, "keys": ["a", {"key": "b"}]}


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        ([], ARGUMENTS),
        ([["to"]], {**ARGUMENTS, "to": "***"}),
        (
            [["login", "password"], ["keys", 0]],
            {**ARGUMENTS, "login": {"name": "kim", "password": "***"}, "keys": ["***", {"key": "b"}]},
        ),
        ([["keys", 1, "key"]], {**ARGUMENTS, "keys": ["a", {"key": "***"}]}),
        ([["login"]], {**ARGUMENTS, "login": "***"}),
        ([[]], {"***": "***"}),
        ([["gone"], ["keys", 7], ["keys", -1], ["keys", "x"], ["to", "x"], ["login", 0]], ARGUMENTS),
    ],
)
def test_values_at_the_paths_are_masked(paths: list[Path], shown: dict[str, Any]) -> None:
    before = repr(ARGUMENTS)
    assert mask_values(ARGUMENTS, paths) == shown
    assert repr(ARGUMENTS) == before


@pytest.mark.parametrize(
    ("value", "shown", "paths"),
    [
        (ARGUMENTS, ARGUMENTS, []),
        ({"a": 1}, {"a": 2}, [["a"]]),
        ({"a": {"secret-key": 1}}, {"a": {"***": 1}}, [["a"]]),
        ({"secret-key": 1}, {"***": 1}, [[]]),
        ({"a": [1, 2]}, {"a": [1]}, [["a"]]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": "***"}]}, [["a", 1, "b"]]),
        ({"a": [1]}, {"a": "***"}, [["a"]]),
    ],
)
def test_secrets_are_where_the_shown_arguments_differ(value: Any, shown: Any, paths: list[Path]) -> None:
    assert find_masked(value, shown) == paths


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=2), JSON), st.dictionaries(st.text(max_size=2), JSON))
def test_nothing_of_a_value_is_shown_that_the_shown_arguments_do_not_have(
    value: dict[str, Any], shown: dict[str, Any]
) -> None:
    masked = mask_values(value, find_masked(value, shown))
    assert _is_part(masked, shown)


def _is_part(masked: Any, shown: Any) -> bool:
    if masked in ("***", {"***": "***"}):
        return True
    if isinstance(masked, dict):
        return isinstance(shown, dict) and all(key in shown and _is_part(masked[key], shown[key]) for key in masked)
    if isinstance(masked, list):
        return isinstance(shown, list) and all(map(_is_part, masked, shown))
    return bool(masked == shown)
