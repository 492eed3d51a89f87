"""Thoughts that a server sends in tags at the start of the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.think_tags import ThinkTags


def split(*pieces: str) -> tuple[str, str]:
    """The whole thought and the whole answer in these pieces of text."""
    tags = ThinkTags()
    parts = [*(tags.split(piece) for piece in pieces), tags.finish()]
    return "".join(thought for thought, _ in parts), "".join(answer for _, answer in parts)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("안녕하세요", "", "안녕하세요"),
        ("<think>생각</think>답", "생각", "답"),
        ("\n <THINK>생각</Think>\n\n 답 <think>x</think>", "생각", "답 <think>x</think>"),
        ("<thinking>생각</thinking>답", "생각", "답"),
        ("<think>하나</think>\n<think>둘</think>답", "하나둘", "답"),
        ("<think></think>\n\n답", "", "답"),
        ("<think>a < b </th c</think>답", "a < b </th c", "답"),
        ("<think>끝나지 않는 생각 </thi", "끝나지 않는 생각 </thi", ""),
        ("답 <think>은 글자다", "", "답 <think>은 글자다"),
        ("<thin", "", "<thin"),
        (" \n", "", " \n"),
        ("<thinker>", "", "<thinker>"),
        ("", "", ""),
    ],
)
def test_thoughts_are_separated_however_the_text_is_split(text: str, thought: str, answer: str) -> None:
    assert split(text) == (thought, answer)
    assert split(*text) == (thought, answer)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<th", "ink>", "\n", "답", "<", "생각"]), max_size=8))
def test_any_split_gives_the_same(pieces: list[str]) -> None:
    assert split(*pieces) == split("".join(pieces)) == split(*"".join(pieces))


def test_text_that_cannot_begin_a_tag_is_not_held_back() -> None:
    tags = ThinkTags()
    assert tags.split("안") == ("", "안")
    assert tags.split("<think>") == ("", "<think>")


def test_thought_is_not_held_back() -> None:
    tags = ThinkTags()
    assert tags.split("<think>긴 생각") == ("긴 생각", "")
    assert tags.split(" 계속</thi") == (" 계속", "")
    assert tags.split("s") == ("</this", "")
