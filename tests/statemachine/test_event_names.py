"""The names of the platform's workspace page (§2.2): a pure translation of frames that are read."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from statemachine.event_names import WORKSPACE_NAMES, Naming, to_workspace
from statemachine.events import (
    EVENT_TYPES,
    Content,
    End,
    ErrorRaised,
    Event,
    Hitl,
    PlanStepUpdated,
    Start,
    Thought,
    TimelineStepUpdated,
    ToolExecution,
    ToolStatus,
)
from statemachine.frames import DONE_BODY, Shape, encode
from tests.statemachine.runs import SESSION

SHAPES: tuple[Shape, ...] = get_args(Shape)
START = Start(message="시작", session_id=SESSION, thread_id="t1", state="planning")
THOUGHT = Thought("analysis", "분석 \u2028 중", sources=({"title": "회의록"},))
HITL = Hitl(
    request_id="req-1",
    session_id=SESSION,
    action_type="send_email",
    message="발송하시겠습니까?",
    context={"to": ["a@example.com"], "id": 10**30, "rate": 100.0, "text": "\u2028"},
    step_id="c1",
    expires_at=1_706_156_700,
    timeout_seconds=300,
)
END = End(message="끝", status="rejected", usage={"totalTokens": 3})
UNCHANGED: tuple[Event, ...] = (
    Content(content="답", chunk=False),
    PlanStepUpdated(step_id="1", status="completed", progress=1.0),
    TimelineStepUpdated(step_id="1", title="t", status="completed", progress=1.0, metadata={}),
    ErrorRaised(message="오류", error_type="ModelError", error_code="E5000", retryable=True),
)


def tool(status: ToolStatus) -> ToolExecution:
    return ToolExecution(
        tool_name="search",
        tool_args={"query": "메일"},
        status=status,
        error="아니요" if status == "rejected" else None,
        requires_approval=True,
        tool_call_id="c1",
    )


def stored(event: Event, shape: Shape = "both") -> bytes:
    (body,) = encode(event, SESSION, 1_706_156_400, shape)
    return body


def read(event: Event, shape: Shape = "both") -> dict[str, Any]:
    """Return the message that the workspace page gets; its `event:` line and its `type` are equal."""
    body = to_workspace(stored(event, shape))
    assert body is not None
    assert len(body.decode().splitlines()) == 3, "one event line, one data line, one blank line"
    event_line, data_line = body.decode().splitlines()[:2]
    message: dict[str, Any] = json.loads(data_line.removeprefix("data: "))
    assert event_line == f"event: {message['type']}"
    return message


@pytest.mark.parametrize("shape", SHAPES)
def test_workspace_page_finds_the_fields_of_a_renamed_event_under_data_in_every_shape(shape: Shape) -> None:
    names = {"start": START, "thought": THOUGHT, "tool_execution": tool("completed"), "hitl": HITL, "end": END}
    assert names.keys() == WORKSPACE_NAMES.keys() <= EVENT_TYPES.keys()
    for type, event in names.items():
        message = read(event, shape)
        assert message["type"] == WORKSPACE_NAMES[type]
        assert (message["version"], message["timestamp"], message["sessionId"]) == ("1.0", 1_706_156_400, SESSION)
        fields = json.loads(json.dumps(event.fields()))
        assert fields.items() <= message["data"].items()
        if shape == "nested":
            assert message.keys() == {"type", "version", "timestamp", "sessionId", "data"}


@pytest.mark.parametrize("shape", SHAPES)
def test_hitl_request_has_its_request_id_as_id_and_its_arguments_unchanged(shape: Shape) -> None:
    message = read(HITL, shape)
    body = message["data"]
    assert body["id"] == body["requestId"] == "req-1"
    assert (body["action"], body["stepId"], body["message"]) == ("send_email", "c1", "발송하시겠습니까?")
    assert body["params"] == HITL.context
    assert b'"rate":100.0' in stored(HITL, shape)
    translated = to_workspace(stored(HITL, shape))
    assert translated is not None
    assert b'"rate":100.0' in translated, "no value is spelled in another way"
    assert shape == "nested" or message["id"] == "req-1"


@pytest.mark.parametrize("shape", SHAPES)
def test_thought_chain_has_the_thought_type_as_type_of_its_body_and_no_content_beside_it(shape: Shape) -> None:
    message = read(THOUGHT, shape)
    assert (message["data"]["type"], message["data"]["content"]) == ("analysis", THOUGHT.content)
    assert "content" not in message, "an older reader appends the content of every type but thoughts to the answer"
    assert message["data"]["sources"] == [{"title": "회의록", "name": "회의록"}]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("status", "shown"),
    [("executing", "executing"), ("completed", "completed"), ("failed", "failed"), ("rejected", "failed")],
)
def test_action_execution_has_one_of_three_statuses(status: ToolStatus, shown: str, shape: Shape) -> None:
    message = read(tool(status), shape)
    body = message["data"]
    assert (body["tool"], body["params"], body["status"]) == ("search", {"query": "메일"}, shown)
    assert body["error"] == ("아니요" if status == "rejected" else None)
    assert body["stepId"] == body["toolCallId"] == "c1"
    assert shape == "nested" or message["status"] == shown


@pytest.mark.parametrize("shape", SHAPES)
def test_workspace_page_gets_nothing_for_a_pending_tool_call(shape: Shape) -> None:
    assert to_workspace(stored(tool("pending"), shape)) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_stream_status_says_that_a_stream_has_started_and_how_it_ended(shape: Shape) -> None:
    assert read(START, shape)["data"]["status"] == "started"
    assert read(END, shape)["data"]["status"] == "rejected"
    assert shape == "nested" or (read(START, shape)["status"], read(END, shape)["status"]) == ("started", "rejected")


@pytest.mark.parametrize("event", UNCHANGED, ids=lambda event: event.TYPE)
def test_other_events_have_the_same_name_for_every_reader(event: Event) -> None:
    assert event.TYPE not in WORKSPACE_NAMES
    assert to_workspace(stored(event)) == stored(event)


def test_the_end_of_the_stream_is_the_same_for_every_reader() -> None:
    for naming in (Naming(), Naming("workspace"), Naming("aura", "aura-error"), Naming("workspace", "aura-error")):
        assert naming.apply(DONE_BODY) == DONE_BODY


def test_only_the_event_line_of_an_error_is_renamed() -> None:
    error = stored(UNCHANGED[-1])
    assert Naming().apply(error) == error
    assert Naming("workspace").apply(error) == error
    renamed = error.replace(b"event: error\n", b"event: aura-error\n")
    assert Naming(error_event="aura-error").apply(error) == renamed
    assert Naming("workspace", "aura-error").apply(error) == renamed
    assert b'"type":"error"' in renamed
    assert Naming(error_event="aura-error").apply(stored(END)) == stored(END)


def test_own_names_leave_every_frame_as_it_is_stored() -> None:
    for event in (START, THOUGHT, HITL, END, tool("pending"), *UNCHANGED):
        assert Naming().apply(stored(event)) == stored(event)
