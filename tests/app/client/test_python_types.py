"""The types of the Python client: they are current, and read events as the service's own types do."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_type_hints

import msgspec
import pytest

from app.client import events, response_types
from app.client.decoding import decode_event
from app.web.openapi.python import MODULES
from statemachine.call import ArgumentWarning
from statemachine.events import (
    EVENT_TYPES,
    Content,
    End,
    ErrorRaised,
    Event,
    Hitl,
    PlanStepDeclared,
    PlanStepUpdated,
    Start,
    Thought,
    TimelineStepUpdated,
    ToolExecution,
)
from tests.test_architecture import CLIENT

SENT: list[Event] = [
    Start(message="", session_id="s-1", thread_id="t-1", state="planning"),
    Thought(thought_type="analysis", content="생각", sources=({"title": "견적서"},)),
    PlanStepDeclared("p-1", "메일", "", "pending", 0.5, "none", 1),
    PlanStepUpdated("p-1", "completed", 1.0, confidence=0.9, confidence_source="model"),
    TimelineStepUpdated("s-1", "", "completed", 1.0, {"from": "planning", "to": "tool", "trigger": "request_tools"}),
    ToolExecution(
        tool_name="time", tool_args={"zone": "KST"}, status="completed", result=[1], requires_approval=False,
        tool_call_id="c-1", truncated=True,
    ),
    Hitl(
        request_id="req-1", session_id="s-1", action_type="send_email", message="발송?", context={"to": ["a@b.c"]},
        expires_at=1, timeout_seconds=300, arguments_digest="d", position=2, total=3, step_id="p-1",
        confidence=0.5, confidence_source="logprobs", outcome_unknown=True,
        warnings=(ArgumentWarning(code="invisible", field="to[0]", message="보이지 않는 문자"),),
    ),
    Content(content="답", chunk=False, metadata={"result": {"title": "답변"}}),
    ErrorRaised("실패", "ModelError", "E5000", retryable=True),
    End("", "completed", {"totalTokens": 3}),
]  # fmt: skip
ODD_VALUES: list[Any] = [
    None, True, 0, 1, 2.0, 2.5, "", "x", "none", "pending", [], ["x"], [1], {}, {"x": "y"}, {"x": 1}, [{"code": "a"}],
    [{"code": "a", "field": "b", "message": "c", "later": 1}], [{"code": 1, "field": "b", "message": "c"}],
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_types_are_generated_from_those_of_the_service(module: str) -> None:
    """`.ci/clients` generates them."""
    assert (CLIENT / f"{module}.py").read_text(encoding="utf-8") == MODULES[module]()


def test_every_event_type_is_sent_in_these_tests() -> None:
    assert [event.TYPE for event in SENT] == list(EVENT_TYPES) == list(events.EVENT_TYPES)


@pytest.mark.parametrize("sent", SENT, ids=lambda event: event.TYPE)
def test_event_has_the_values_that_the_service_sent(sent: Event) -> None:
    received = decode_event(sent.TYPE, {**_fields(sent), "later": 1})
    assert received is not None
    assert type(received).__name__ == type(sent).__name__
    assert _plain(received) == msgspec.to_builtins(msgspec.structs.asdict(type(sent).of(_fields(sent))))


@pytest.mark.parametrize("sent", SENT, ids=lambda event: event.TYPE)
def test_event_with_an_odd_field_is_typed_where_the_types_of_the_service_allow_it(sent: Event) -> None:
    fields = _fields(sent)
    for name in fields:
        for odd in ODD_VALUES:
            _compare(sent, {**fields, name: odd})
        _compare(sent, {other: value for other, value in fields.items() if other != name})


def _fields(event: Event) -> dict[str, Any]:
    """Return the fields as they arrive: as JSON."""
    fields: dict[str, Any] = json.loads(json.dumps(event.fields()))
    return fields


def _compare(sent: Event, fields: dict[str, Any]) -> None:
    received = decode_event(sent.TYPE, fields)
    try:
        expected = type(sent).of(fields)
    except ValueError:
        assert received is None, fields
    else:
        assert received is not None, fields
        assert _plain(received) == msgspec.to_builtins(msgspec.structs.asdict(expected)), fields


def _plain(event: events.Event) -> Any:
    return msgspec.to_builtins(dataclasses.asdict(event))


def test_types_of_responses_can_be_resolved_at_run_time() -> None:
    for name in ("RunDetails", "RunPage", "RequestPage", "ApprovalDetails", "Timeline", "ServiceInfo"):
        assert get_type_hints(getattr(response_types, name))
