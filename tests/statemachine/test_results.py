"""The whole answer in the last `content` frame (§2.2), added when it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from statemachine.events import Content, Thought
from statemachine.frames import RESULT_LIMIT_BYTES, Shape, encode
from statemachine.results import answer_text, is_last_content, with_result
from tests.statemachine.runs import SESSION
from tests.statemachine.test_frames import SHAPES


def body_of(text: str, shape: Shape = "both", *, chunk: bool = False) -> bytes:
    (body,) = encode(Content(content=text, chunk=chunk), SESSION, 1_706_156_400, shape)
    return body


def fields(body: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(body.partition(b"data: ")[2])
    own: dict[str, Any] = message.get("data", message)
    return own


@pytest.mark.parametrize("shape", SHAPES)
def test_last_content_gets_the_whole_answer_as_its_result_in_every_shape(shape: Shape) -> None:
    body = with_result(body_of("끝.", shape), "# 분기 보고서 #\n내용\u2028 끝.")
    assert body.count(b"\n") == 3
    assert "\u2028" not in body.decode()
    result = {"type": "markdown", "title": "분기 보고서", "content": "# 분기 보고서 #\n내용\u2028 끝."}
    assert fields(body)["metadata"] == {"result": result}
    message = json.loads(body.partition(b"data: ")[2])
    assert ("metadata" in message) == (shape != "nested")
    assert fields(body)["content"] == "끝."


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("안녕하세요", "답변"),
        ("\n\n### 제목\n본문", "제목"),
        ("#태그", "답변"),
        ("# " + "긴" * 200, "긴" * 120),
        ("#", "답변"),
    ],
)
def test_title_of_a_result_is_the_heading_of_the_answer(answer: str, title: str) -> None:
    assert fields(with_result(body_of("x"), answer))["metadata"]["result"]["title"] == title


def test_answer_of_over_16_kib_and_a_blank_one_are_no_result() -> None:
    body = body_of("끝.")
    assert "metadata" in fields(with_result(body, "x" * RESULT_LIMIT_BYTES))
    assert with_result(body, "x" * (RESULT_LIMIT_BYTES + 1)) == body
    assert with_result(body, " \n") == body


@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_piece_that_nothing_follows_is_the_last_one(shape: Shape) -> None:
    deceptive = '"chunk":false'
    assert is_last_content(body_of("끝.", shape))
    assert not is_last_content(body_of(deceptive, shape, chunk=True))
    (thought,) = encode(Thought(thought_type="reasoning", content=deceptive), SESSION, 1, shape)
    assert not is_last_content(thought)
    assert answer_text(thought) == ""
    assert answer_text(body_of(deceptive, shape)) == deceptive
    last = with_result(body_of(deceptive, shape), deceptive)
    assert (fields(last)["content"], fields(last)["metadata"]["result"]["content"]) == (deceptive, deceptive)
    assert answer_text(last) == deceptive
