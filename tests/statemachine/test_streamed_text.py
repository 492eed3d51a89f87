"""The answer text of the current model turn, read from the frames of a log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from statemachine.events import Content, Thought
from statemachine.frames import DONE_BODY, Shape, encode
from statemachine.streamed_text import decode_body, streamed_text

SESSION = "session_user1_1700000000_ab12"
SHAPES: list[Shape] = ["both", "flat", "nested"]


def frame(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def step(to: str) -> bytes:
    return frame({"type": "timeline_step_update", "metadata": {"to": to}})


def content(text: str, shape: Shape = "both") -> list[bytes]:
    return encode(Content(content=text, chunk=True), SESSION, 1700000000, shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_text_of_all_content_frames_is_joined(shape: Shape) -> None:
    assert streamed_text([*content("가나", shape), *content("다", shape)]) == "가나다"


def test_only_the_text_of_the_last_turn_counts() -> None:
    assert (
        streamed_text([step("content"), *content("one"), step("thinking"), step("content"), *content("two")]) == "two"
    )


def test_other_frames_and_the_end_marker_are_skipped() -> None:
    thought = encode(Thought(thought_type="analysis", content="hm"), SESSION, 1700000000)
    assert streamed_text([*thought, *content("one"), DONE_BODY]) == "one"
    assert decode_body(DONE_BODY) == {}
