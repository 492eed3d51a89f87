"""Hidden characters: they are found, shown and escaped."""

from __future__ import annotations

import json

import pytest

from app.text.hidden import blank_gaps, describe, escape_hidden, find_hidden, is_order_ambiguous, make_visible
from tests.harness.hidden_texts import VISIBLE_FORMS


@pytest.mark.parametrize(("text", "visible"), VISIBLE_FORMS.items(), ids=range(len(VISIBLE_FORMS)))
def test_hidden_characters_become_visible_and_others_stay(text: str, visible: str) -> None:
    assert make_visible(text) == visible


@pytest.mark.parametrize("text", VISIBLE_FORMS, ids=range(len(VISIBLE_FORMS)))
def test_escaped_json_has_the_same_value_and_no_hidden_character(text: str) -> None:
    escaped = escape_hidden(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(escaped) == {"a": text}
    assert list(find_hidden(escaped)) == []


def test_writing_direction_is_told_apart_from_other_hidden_characters() -> None:
    assert list(find_hidden("a\u200b\u202e")) == [("invisible", "\u200b"), ("bidirectional", "\u202e")]
    assert list(find_hidden("\ud800x")) == [("invisible", "\ud800")]
    assert (describe("\u202e"), describe("\x00")) == ("U+202E RIGHT-TO-LEFT OVERRIDE", "U+0000")


def test_blanks_count_only_before_more_text() -> None:
    assert list(blank_gaps("a" + "\n" * 30)) == []
    assert list(blank_gaps("a" + "\n" * 30 + "b" + " " * 50 + "c")) == [("lines", 29), ("spaces", 50)]
    assert list(blank_gaps("a" + "\n\u200b" * 30 + "\nb")) == [("lines", 30)], (
        "lines of hidden characters are empty too"
    )


def test_word_of_both_writing_directions_is_ambiguous() -> None:
    assert is_order_ambiguous("see invoice\u05d0\u05d1.exe")
    assert not is_order_ambiguous("שלום world")
    assert not is_order_ambiguous("한글 text")
