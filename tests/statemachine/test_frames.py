"""Frames: one line of compact JSON, at most 2 KiB if the event can be shortened, no loss of answer text (§2.1)."""

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
from statemachine.frames import BODY_LIMIT_BYTES, DONE_BODY, FRAME_LIMIT_BYTES, Shape, compact_json, encode
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
        '"data":{"content":"안녕","format":"markdown","chunk":true}}\n\n'
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
def test_long_thought_is_split_into_several_frames(text: str, shape: Shape) -> None:
    got = frames(Thought(thought_type="reasoning", content=text), shape)
    assert "".join(fields(frame)["content"] for frame in got) == text
    assert {fields(frame)["thoughtType"] for frame in got} == {"reasoning"}
    assert all(len(frame) <= FRAME_LIMIT_BYTES for frame in got)


@pytest.mark.parametrize("text", ["근거", "한글" * 3000])
@pytest.mark.parametrize("shape", SHAPES)
def test_many_sources_are_split_over_frames_without_loss(text: str, shape: Shape) -> None:
    sources = tuple({"id": f"evt-{n}", "title": "분기 보고서 " * 12} for n in range(9))
    got = frames(Thought(thought_type="analysis", content=text, sources=sources), shape)
    assert [source for frame in got for source in fields(frame)["sources"]] == list(sources)
    contents = [fields(frame)["content"] for frame in got]
    assert "".join(content for content in contents if content != "…") == text
    assert len(got) < 200
    assert all(len(frame) <= FRAME_LIMIT_BYTES for frame in got)


@pytest.mark.parametrize("text", HUGE)
@pytest.mark.parametrize("shape", SHAPES)
def test_events_that_can_be_shortened_fit_into_a_frame(text: str, shape: Shape) -> None:
    cut: list[Event] = [
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
        tool(result=text),
        tool(error=text),
        tool(tool_name=text),
        tool(result={"rows": [text] * 3}),
        tool(tool_args={"body": text}),
        tool(tool_args={text: 1}),
        tool(tool_args={"rows": [{"a": text[:500], "b": [text]}] * 5, "n": 1}),
        tool(tool_name=text, tool_args={f"k{n}": text[:200] for n in range(300)}, result=[text], error=text),
    ]
    for event in cut:
        (frame,) = frames(event, shape)
        assert len(frame) <= FRAME_LIMIT_BYTES
        assert one_line(frame)


def test_shortened_text_keeps_its_beginning_and_an_ellipsis() -> None:
    (frame,) = frames(ErrorRaised(message="가나다" * 2000, error_type="ToolError", error_code="E", retryable=True))
    shown = fields(frame)["message"]
    assert shown.startswith("가나다가나다")
    assert shown.endswith("…")
    assert fields(frame)["error"] == shown


def test_description_is_shortened_before_the_title() -> None:
    step = PlanStepDeclared(
        step_id="s",
        title="제목" * 50,
        description="설명" * 1000,
        status="pending",
        confidence=0.5,
        confidence_source="none",
        order=1,
    )
    (frame,) = frames(step)
    assert fields(frame)["title"] == "제목" * 50
    assert fields(frame)["description"].endswith("…")


def test_only_a_shortened_tool_result_is_marked_as_truncated() -> None:
    (whole,) = frames(tool(result={"ok": True}, tool_args={"q": "회의"}))
    assert "truncated" not in fields(whole)
    (short,) = frames(tool(result="x" * 5000, tool_args={"q": "회의"}))
    assert fields(short)["truncated"] is True
    assert fields(short)["toolArgs"] == fields(short)["params"] == fields(short)["parameters"] == {"q": "회의"}
    assert fields(short)["result"].startswith("xxx")


def test_long_arguments_are_shortened_before_a_result_that_fits() -> None:
    (frame,) = frames(tool(result={"ok": True}, tool_args={"body": "본문" * 1000, "to": "a@example.com"}))
    assert fields(frame)["result"] == {"ok": True}
    assert fields(frame)["toolArgs"]["to"] == "a@example.com"
    assert fields(frame)["toolArgs"]["body"].endswith("…")


def test_arguments_that_cannot_be_shortened_are_omitted() -> None:
    (frame,) = frames(tool(tool_args={"k" * 3000: 1}))
    assert fields(frame)["toolArgs"] == {}


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
