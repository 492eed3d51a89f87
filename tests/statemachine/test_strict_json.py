"""Strict JSON: what is read, and the cause that each refusal names."""

from __future__ import annotations

from typing import Any

import pytest

from statemachine.strict_json import JsonInvalid, check_depth, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, true, null, "가"]}', {"a": [1, 2.5, True, None, "가"]}),
        ('{"a": 1}'.encode("utf-16"), {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": {"b": 1}, "b": {"a": 1}}', {"a": {"b": 1}, "b": {"a": 1}}),
        ("[[1]]", [[1]]),
        ("7", 7),
    ],
)
def test_strict_json_is_parsed(text: str | bytes, value: Any) -> None:
    assert parse(text, max_depth=2) == value


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "Expecting value at line 1 column 1"),
        ('{"a":\n}', "Expecting value at line 2 column 1"),
        (b'{"a": "\xff"}', "the text is not UTF-8"),
        ('{"to": 1, "to": 2}', "the key 'to' occurs more than once"),
        ('{"a": {"\\ud800": 1, "\\ud800": 2}}', r"the key '\ud800' occurs more than once"),
        ("[NaN]", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("[-1e999]", "-1e999 is too large a number"),
        ("9" * 5000, "a number has too many digits"),
        ("[[[]]]", "objects and arrays are nested more than 2 levels deep"),
        ('{"a": [{}]}', "objects and arrays are nested more than 2 levels deep"),
        ("[" * 100_000, "objects and arrays are nested more than 2 levels deep"),
    ],
)
def test_other_text_is_refused_with_its_cause(text: str | bytes, cause: str) -> None:
    with pytest.raises(JsonInvalid) as error:
        parse(text, max_depth=2)
    assert str(error.value) == cause


def test_the_depth_of_an_object_that_contains_itself_is_refused() -> None:
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic
    with pytest.raises(JsonInvalid, match="nested"):
        check_depth(cyclic, max_depth=32)
