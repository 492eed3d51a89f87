"""The patterns of the cases match what fixtures/README.md says, so that a wrong expectation is not silently true."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.patterns import matches

MESSAGE = {"role": "assistant", "content": "답", "tool_calls": [{"id": "a", "n": 1}, {"id": "b", "n": 2}]}


@pytest.mark.parametrize(
    "pattern",
    [
        {},
        {"role": "assistant"},
        {"missing": None},
        {"tool_calls": []},
        {"tool_calls": [{"id": "b"}, {"id": "a"}]},
        {"content": {"$matches": "^답$"}},
        {"content": {"$not": {"$matches": "문"}}},
        {"$is": MESSAGE},
        {"tool_calls": [{"$is": {"id": "a", "n": 1}}]},
    ],
)
def test_pattern_matches_what_has_its_fields(pattern: Any) -> None:
    assert matches(pattern, MESSAGE)


@pytest.mark.parametrize(
    "pattern",
    [
        {"role": "user"},
        {"role": None},
        {"missing": {}},
        {"content": []},
        {"tool_calls": {}},
        {"tool_calls": [{"id": "c"}]},
        {"tool_calls": [{"id": "a", "n": 2}]},
        {"content": {"$matches": "문"}},
        {"missing": {"$matches": ""}},
        {"$not": {}},
        {"$is": {**MESSAGE, "more": 1}},
        {"tool_calls": {"$is": []}},
    ],
)
def test_pattern_does_not_match_what_lacks_something(pattern: Any) -> None:
    assert not matches(pattern, MESSAGE)


@pytest.mark.parametrize(
    ("text", "is_match"), [('{"a": 1, "b": 2}', True), ('{"a": 2}', False), ("", False), (5, False)]
)
def test_pattern_of_json_matches_the_value_in_a_text(text: Any, is_match: bool) -> None:
    assert matches({"$json": {"a": 1}}, text) is is_match
