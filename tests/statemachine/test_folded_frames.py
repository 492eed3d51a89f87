"""Frames that an earlier release stored, each with one copy of its fields, are read as the same bytes."""

from __future__ import annotations

from typing import Any

import pytest

from statemachine.events import Content, End, Event, Hitl, Start, Thought, ToolExecution
from statemachine.folded_frames import unfold
from statemachine.frames import DONE_BODY, Shape, encode

SESSION = "session_user1_1706156400_a1b2"
ODD: Any = {"data": {"data": {}}, 'a,"data":{': ',"data":{"x":1}}\n\n', "줄\n바꿈": ["\u2028", 0.5, None]}
EVENTS: list[Event] = [
    Start("요청을 받았습니다.", SESSION, SESSION, "planning"),
    Thought("analysis", "생각", ({"title": "data", "id": '"data":{'},)),
    Content(content='그가 말했다: ,"data":{"type":"content"}}', chunk=True),
    ToolExecution(tool_name="t", tool_args=ODD, status="pending", requires_approval=False, tool_call_id="c1"),
    ToolExecution(
        tool_name="t", tool_args={}, status="completed", result=ODD, requires_approval=False, tool_call_id="c"
    ),
    Hitl(
        request_id="req-1",
        session_id=SESSION,
        action_type="send_email",
        message="?",
        context={"body": "가" * 20_000, "data": ODD},
        expires_at=1,
        timeout_seconds=300,
    ),
    End("끝", "completed", {"totalTokens": 3}),
]


def fold(body: bytes) -> bytes:
    """Return a frame as the earlier release stored it."""
    data, end = b',"data":{', b"}}\n\n"
    at = body.rfind(data) if body.endswith(end) else -1
    while at != -1:
        text, nested = body[:at], body[at + len(data) : -len(end)]
        if nested and text.endswith(nested):
            return b"%b\n\n%d" % (text, len(text) - len(nested))
        first = nested[: nested.find(b",") + 1]
        same = nested[len(first) :]
        if same and text.endswith(same):
            position = text.find(first)
            return b"%b\n%b\n%d" % (text, b"%d" % position if position != -1 else first, len(text) - len(same))
        at = body.rfind(data, 0, at)
    return body


@pytest.mark.parametrize("shape", ["both", "flat", "nested"])
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.TYPE)
def test_a_folded_frame_comes_back_byte_for_byte(event: Event, shape: Shape) -> None:
    for body in encode(event, SESSION, 1706156400, shape):
        assert unfold(fold(body)) == body


@pytest.mark.parametrize(("first", "kept"), [(b'"at":1,', b"20"), (b'"at":2,', b'"at":2,'), (b"", b"")])
def test_the_first_field_of_data_is_kept_where_it_stands_nowhere_else(first: bytes, kept: bytes) -> None:
    text = b'data: {"type":"end","at":1,"sessionId":"s","message":"x"'
    body = text + b',"data":{' + first + b'"message":"x"}}\n\n'
    assert fold(body) == text + b"\n" + kept + b"\n43"
    assert unfold(fold(body)) == body


@pytest.mark.parametrize("body", [DONE_BODY, b'data: {"a":1}\n\n', b'data: {"a":1,"data":{"b":2}}\n\n', b"}}\n\n"])
def test_a_frame_without_a_second_copy_is_kept_as_it_is(body: bytes) -> None:
    assert fold(body) == body == unfold(body)
