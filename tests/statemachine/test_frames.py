"""Frames: one line of compact JSON; answer text in pieces of at most 2 KiB; whole arguments; a result is cut (§2.1)."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from statemachine.events import (
    Content,
    End,
    ErrorRaised,
    Event,
    Hitl,
    PlanStepDeclared,
    PlanStepUpdated,
    Thought,
    ToolExecution,
)
from statemachine.frames import (
    BODY_LIMIT_BYTES,
    DONE_BODY,
    FRAME_LIMIT_BYTES,
    RESULT_LIMIT_BYTES,
    Shape,
    compact_json,
    encode,
)
from tests.statemachine.runs import SESSION

ID_LINE = b"id: 1706156400123\n"
SHAPES: tuple[Shape, ...] = get_args(Shape)
HUGE = ["x" * 5000, "한글" * 3000, "😀" * 3000, '"\\\n\t' * 2000, "\u2028" * 2000, "\x00" * 2000]


def frames(event: Event, shape: Shape = "both") -> list[bytes]:
    return [ID_LINE + body for body in encode(event, SESSION, 1_706_156_400, shape)]


def message(frame: bytes) -> dict[str, Any]:
    id_line, event_line, data_line, *rest = frame.decode().split("\n")
    assert id_line.startswith("id: ")
    assert event_line.startswith("event: ")
    assert rest == ["", ""], "one data line, one blank line"
    parsed: dict[str, Any] = json.loads(data_line.removeprefix("data: "))
    assert event_line == f"event: {parsed['type']}"
    return parsed


def fields(frame: bytes) -> dict[str, Any]:
    parsed = message(frame)
    own: dict[str, Any] = parsed.get("data", parsed)
    return own


def one_line(frame: bytes) -> bool:
    """Return whether the frame has exactly its four lines, whichever characters a client takes for line ends."""
    return len(frame.decode().splitlines()) == 4


def tool(**changes: Any) -> ToolExecution:
    values: dict[str, Any] = {
        "tool_name": "search",
        "tool_args": {},
        "status": "completed",
        "requires_approval": False,
        "tool_call_id": "c1",
    }
    return ToolExecution(**{**values, **changes})


def test_frame_has_the_exact_bytes_of_the_contract() -> None:
    (frame,) = frames(Content(content="안녕", chunk=True))
    assert frame.decode() == (
        "id: 1706156400123\nevent: content\n"
        f'data: {{"type":"content","version":"1.0","timestamp":1706156400,"sessionId":"{SESSION}",'
        '"content":"안녕","format":"markdown","chunk":true,'
        '"data":{"timestamp":1706156400,"content":"안녕","format":"markdown","chunk":true}}\n\n'
    )


def test_end_marker_is_a_frame_without_an_event_line() -> None:
    assert DONE_BODY == b"data: [DONE]\n\n"
    assert FRAME_LIMIT_BYTES == 2048


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_line_separators_of_any_language_are_escaped(end: str) -> None:
    (frame,) = frames(Content(content=f"a{end}b", chunk=True))
    assert one_line(frame)
    assert fields(frame)["content"] == f"a{end}b"


def test_json_is_compact_and_korean_is_not_escaped() -> None:
    assert compact_json({"가": [1, 2.5, None, True], "b": {"c": "d: e, f"}}) == (
        '{"가":[1,2.5,null,true],"b":{"c":"d: e, f"}}'
    )


TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=3000) | st.text(
    'a한😀\u0301\u200d👨‍👩‍👧\u2028"\\\n', max_size=3000
)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.booleans(), st.sampled_from(SHAPES))
@example("한글" * 3000, True, "both")
def test_joined_content_is_the_exact_text(text: str, chunk: bool, shape: Shape) -> None:
    got = frames(Content(content=text, chunk=chunk), shape)
    assert "".join(fields(frame)["content"] for frame in got) == text.encode("utf-8", "replace").decode()
    assert [fields(frame)["chunk"] for frame in got] == [True] * (len(got) - 1) + [chunk]
    assert all(len(frame) <= FRAME_LIMIT_BYTES and one_line(frame) for frame in got)


@pytest.mark.parametrize("text", HUGE)
@pytest.mark.parametrize("shape", SHAPES)
def test_events_other_than_answer_text_are_one_whole_frame(text: str, shape: Shape) -> None:
    sources = tuple({"id": f"evt-{n}", "title": text, "name": text} for n in range(3))
    whole: list[Event] = [
        Thought(thought_type="reasoning", content=text, sources=sources),
        PlanStepDeclared(
            step_id="s",
            title=text,
            description=text,
            status="pending",
            confidence=0.5,
            confidence_source="none",
            order=1,
        ),
        PlanStepUpdated(step_id="s", status="completed", progress=1, description=text),
        ErrorRaised(message=text, error_type="ToolError", error_code="E5000", retryable=False),
        End(message=text, status="failed"),
        tool(error=text),
        tool(tool_args={"rows": [{"a": text, "b": [text]}] * 5, text: 1}),
    ]
    for event in whole:
        (frame,) = frames(event, shape)
        shown = {name: value for name, value in fields(frame).items() if name in event.fields()}
        assert shown == json.loads(json.dumps(event.fields()))
        assert one_line(frame)


@pytest.mark.parametrize("status", ["pending", "executing", "completed", "failed", "rejected"])
@pytest.mark.parametrize("shape", SHAPES)
def test_arguments_of_64_kib_are_whole_in_every_frame_of_a_call(status: str, shape: Shape) -> None:
    arguments = {"to": ["team@example.com"] * 50, "body": "본문 " * 9000}
    (frame,) = frames(tool(tool_args=arguments, status=status, result="x" * 50_000), shape)
    assert fields(frame)["toolArgs"] == fields(frame)["params"] == fields(frame)["parameters"] == arguments


@pytest.mark.parametrize("result", [*HUGE, {"rows": HUGE}, HUGE])
@pytest.mark.parametrize("repeats", [1, 5])
def test_result_is_cut_at_16_kib_and_marked_as_truncated(result: Any, repeats: int) -> None:
    result = result * repeats if isinstance(result, str) else result
    (frame,) = frames(tool(result=result))
    shown = fields(frame)["result"]
    if len(compact_json(result).encode()) <= RESULT_LIMIT_BYTES:
        assert shown == result
        assert "truncated" not in fields(frame)
        return
    whole = result if isinstance(result, str) else compact_json(result)
    assert fields(frame)["truncated"] is True
    assert shown == whole or (shown.endswith("…") and whole.startswith(shown[:-1]))
    assert len(shown.encode()) <= RESULT_LIMIT_BYTES
    assert one_line(frame)


def test_result_of_exactly_16_kib_is_whole() -> None:
    for text, is_cut in (("x" * (RESULT_LIMIT_BYTES - 2), False), ("x" * (RESULT_LIMIT_BYTES - 1), True)):
        (frame,) = frames(tool(result=text))
        assert (fields(frame)["result"] != text) is is_cut
        assert ("truncated" in fields(frame)) is is_cut


@pytest.mark.parametrize("shape", SHAPES)
def test_approval_request_is_never_shortened(shape: Shape) -> None:
    body = "본문" * 5000
    hitl = Hitl(
        request_id="req-1",
        session_id=SESSION,
        action_type="send_email",
        message="보낼까요?",
        context={"body": body},
        expires_at=1,
        timeout_seconds=300,
    )
    (frame,) = frames(hitl, shape)
    assert fields(frame)["context"] == fields(frame)["params"] == {"body": body}


def test_single_surrogate_does_not_break_the_stream() -> None:
    (frame,) = frames(tool(result=["\ud83d", "a\udc00"]))
    assert fields(frame)["result"] == ["?", "a?"]


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=4000))
def test_body_leaves_room_for_any_id_line(text: str) -> None:
    for body in encode(Content(content=text, chunk=True), SESSION, 1_706_156_400):
        assert len(body) <= BODY_LIMIT_BYTES
        assert len(b"id: 1706156400123456\n" + body) <= FRAME_LIMIT_BYTES
