"""The events of §2.2, written out a second time, so that an accidental change of a field fails here."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from statemachine import events
from statemachine.call import ArgumentWarning
from statemachine.checkpoint import StepStatus
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
from statemachine.frames import encode
from tests.statemachine.runs import SESSION

FULL: dict[str, Event] = {
    "start": Start(message="m", session_id=SESSION, thread_id="t", state="planning"),
    "thought": Thought(thought_type="analysis", content="c"),
    "plan_step": PlanStepDeclared(
        step_id="s", title="t", description="d", status="pending", confidence=0.5, confidence_source="none", order=1
    ),
    "plan_step_update": PlanStepUpdated(
        step_id="s", status="completed", progress=1, description="d", confidence=0.5, confidence_source="model"
    ),
    "timeline_step_update": TimelineStepUpdated(
        step_id="1-tool",
        title="t",
        status="in_progress",
        progress=0.5,
        metadata={"from": "planning", "to": "tool", "trigger": "request_tools"},
    ),
    "tool_execution": ToolExecution(
        tool_name="n",
        tool_args={"a": 1},
        status="completed",
        result={"r": 1},
        error="e",
        requires_approval=True,
        tool_call_id="c",
        truncated=True,
    ),
    "hitl": Hitl(
        request_id="req-1",
        session_id=SESSION,
        action_type="send_email",
        message="m",
        context={"to": "x"},
        confidence=0.5,
        confidence_source="none",
        step_id="s",
        expires_at=1,
        timeout_seconds=300,
        outcome_unknown=True,
        warnings=(ArgumentWarning("invisible", "to", "w"),),
    ),
    "content": Content(content="c", chunk=True),
    "error": ErrorRaised(message="m", error_type="ToolError", error_code="E5000", retryable=False),
    "end": End(message="m", status="completed", usage={"totalTokens": 1}),
}

# field · /alias of the field before it · ?optional field
FIELDS = {
    "start": "message sessionId threadId state",
    "thought": "thoughtType content sources",
    "plan_step": "stepId /id title description status confidence confidenceSource order",
    "plan_step_update": "stepId /id status progress ?description ?confidence ?confidenceSource",
    "timeline_step_update": "stepId /id title status progress metadata",
    "tool_execution": "toolName /tool toolArgs /params /parameters status result error requiresApproval toolCallId"
    " /stepId ?truncated",
    "hitl": "requestId sessionId actionType /action message context /params requiresApproval ?confidence"
    " ?confidenceSource ?stepId expiresAt timeoutSeconds ?outcomeUnknown argumentsDigest position total warnings",
    "content": "content format chunk",
    "error": "message /error errorType errorCode retryable",
    "end": "message status ?usage",
}

MINIMAL: dict[str, Event] = {
    "plan_step_update": PlanStepUpdated(step_id="s", status="completed", progress=1),
    "tool_execution": ToolExecution(
        tool_name="n", tool_args={}, status="executing", requires_approval=False, tool_call_id="c"
    ),
    "hitl": Hitl(
        request_id="r", session_id="s", action_type="a", message="m", context={}, expires_at=1, timeout_seconds=300
    ),
    "end": End(message="m", status="failed"),
}


def data(event: Event, shape: Any) -> dict[str, Any]:
    (body,) = encode(event, SESSION, 1_706_156_400, shape)
    message: dict[str, Any] = json.loads(body.decode().split("data: ")[1])
    return message


def test_all_event_types_are_tested() -> None:
    assert set(EVENT_TYPES) == set(FIELDS) == set(FULL)
    assert {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)} == {
        Event,
        *EVENT_TYPES.values(),
    }


@pytest.mark.parametrize("type", FIELDS)
def test_event_has_exactly_the_fields_of_the_contract_in_all_shapes(type: str) -> None:
    names = {field.strip("/?") for field in FIELDS[type].split()}
    envelope = {"type", "version", "timestamp", "sessionId"}
    both = data(FULL[type], "both")
    assert set(both) == names | envelope | {"data"}
    assert set(both["data"]) == names
    assert set(data(FULL[type], "flat")) == names | envelope
    nested = data(FULL[type], "nested")
    assert set(nested) == envelope | {"data"}
    assert nested["data"] == both["data"]
    assert {name: both[name] for name in names} == both["data"]
    assert (both["type"], both["version"], both["timestamp"], both["sessionId"]) == (
        type,
        "1.0",
        1_706_156_400,
        SESSION,
    )


@pytest.mark.parametrize("type", FIELDS)
def test_alias_has_the_value_of_its_field(type: str) -> None:
    message, field = data(FULL[type], "flat"), ""
    for word in FIELDS[type].split():
        if word.startswith("/"):
            assert message[word[1:]] == message[field]
        else:
            field = word.strip("?")


@pytest.mark.parametrize("type", MINIMAL)
def test_only_optional_fields_are_omitted(type: str) -> None:
    required = {word.strip("/") for word in FIELDS[type].split() if not word.startswith("?")}
    assert set(data(MINIMAL[type], "nested")["data"]) == required


@pytest.mark.parametrize("event", [*FULL.values(), *MINIMAL.values()], ids=lambda event: event.TYPE)
def test_event_round_trips_through_its_fields(event: Event) -> None:
    read = json.loads(json.dumps(event.fields())) | {"unheardOf": True}
    assert type(event).of(read) == event
    with pytest.raises(ValueError, match="required field"):
        type(event).of({"unheardOf": True})


def test_tool_execution_without_a_result_has_null() -> None:
    assert data(MINIMAL["tool_execution"], "nested")["data"]["result"] is None
    assert data(MINIMAL["tool_execution"], "nested")["data"]["error"] is None


@pytest.mark.parametrize("type", sorted(set(FIELDS) - {"thought", "content"}))
def test_no_other_type_has_a_field_named_content(type: str) -> None:
    for shape in ("both", "flat", "nested"):
        assert "content" not in data(FULL[type], shape)


def test_enumerations_are_those_of_the_contract() -> None:
    def words(kind: Any) -> str:
        return " ".join(get_args(kind))

    assert words(events.ThoughtType) == "analysis planning reasoning decision reflection"
    assert words(StepStatus) == "pending in_progress completed failed skipped"
    assert words(events.ToolStatus) == "pending executing completed failed rejected"
    assert words(events.EndStatus) == "completed rejected timed_out cancelled failed"
    assert words(events.ErrorType) == (
        "ValidationError AuthenticationError PermissionError LLMNotConfigured ModelError ModelTimeout ToolError"
        " TimeoutError RejectionError ResumeExpired LimitExceeded StorageUnavailable Cancelled InternalError"
    )


def test_constant_fields_are_those_of_the_contract() -> None:
    assert data(FULL["content"], "nested")["data"]["format"] == "markdown"
    assert data(FULL["hitl"], "nested")["data"]["requiresApproval"] is True
