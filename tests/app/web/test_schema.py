"""The service's documents: they are complete and valid, and the service behaves as documented."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from openapi_spec_validator import validate
from quart import Quart

from app.bootstrap import create_app
from app.clock import SystemClock
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import AuraError
from app.settings import Settings
from app.web.one_time_codes import OneTimeCodes
from app.web.openapi.events import events_schema
from app.web.openapi.operation_ids import OPERATION_IDS
from app.web.openapi.operations import operation_of
from statemachine.events import EVENT_TYPES
from statemachine.frames import Shape
from tests.harness.conformity import check_event, document_routes
from tests.harness.service import Aura, headers, running
from tests.harness.tools import calling, risky

MakeSettings = Callable[..., Settings]
OWN_METHODS = {"HEAD", "OPTIONS"}


@pytest.fixture
def app(settings: MakeSettings) -> Quart:
    """An app with all optional routes."""
    return create_app(settings(aura_console=True), one_time_codes=OneTimeCodes(SystemClock(), lambda: ""))


def document(app: Quart) -> dict[str, Any]:
    return document_routes(app).document


# --- OpenAPI --------------------------------------------------------------------------------------------------------


def test_document_is_valid_openapi(app: Quart) -> None:
    openapi = document(app)
    validate(openapi)
    for name, schema in openapi["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema), name


def test_every_route_is_in_the_document_and_nothing_else(app: Quart) -> None:
    """To add one that is missing, write `@operation(...)` under its `@routes.…`."""
    rules = list(app.url_map.iter_rules())
    undescribed = [rule.rule for rule in rules if operation_of(app.view_functions[rule.endpoint]) is None]
    assert undescribed == [], "these routes have no @operation"
    served = {
        (method, "/".join("{}" if part.startswith("<") else part for part in rule.rule.split("/")))
        for rule in rules
        for method in (rule.methods or set()) - OWN_METHODS
    }
    described = {
        (method.upper(), "/".join("{}" if part.startswith("{") else part for part in path.split("/")))
        for path, methods in document(app)["paths"].items()
        for method in methods
    }
    assert described == served


def operations(app: Quart) -> dict[str, dict[str, Any]]:
    """Return the operations of the document by their id."""
    described = [it for methods in document(app)["paths"].values() for it in methods.values()]
    assert len({it["operationId"] for it in described}) == len(described)
    return {it["operationId"]: it for it in described}


def test_operations_have_short_ids_that_never_change(app: Quart) -> None:
    """Add a new route to `app/web/openapi/operation_ids.py`. An id that is there is a function's name in other code."""
    assert operations(app).keys() == set(OPERATION_IDS.values())
    assert all(id.isidentifier() and id[0].islower() and len(id) <= 20 for id in OPERATION_IDS.values())
    pinned = {"startRun", "attachToRun", "listApprovals", "getApproval", "approve", "reject", "listRuns", "getRun"}
    assert pinned <= set(OPERATION_IDS.values())


def test_every_error_has_the_one_shared_schema(app: Quart) -> None:
    shared = {"$ref": "#/components/schemas/ApiError"}
    earlier_decision = {"$ref": "#/components/schemas/DecisionResultResponse"}
    for id, described in operations(app).items():
        for status, response in described["responses"].items():
            if int(status) >= 400:
                schema = response["content"]["application/json"]["schema"]
                allowed = [shared, earlier_decision] if status == "409" else [shared]
                assert all(it in allowed for it in schema.get("anyOf", [schema])), (id, status)


def test_each_decision_has_a_body_of_its_own(app: Quart) -> None:
    found = operations(app)
    schemas = document(app)["components"]["schemas"]
    bodies = {
        id: found[id]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for id in ("approve", "reject", "approveForPlatform", "rejectForPlatform")
    }
    assert len(set(bodies.values())) == 4
    for id, name in bodies.items():
        only = {"params"} if id.startswith("approve") else {"skip"}
        assert schemas[name]["properties"].keys() == {"userId", "reason", "argumentsDigest"} | only


def test_a_stream_that_begins_is_nothing_but_an_event_stream(app: Quart) -> None:
    found = operations(app)
    for id in ("startRun", "attachToRun"):
        assert set(found[id]["responses"]["200"]["content"]) == {"text/event-stream"}
    assert "404" in found["attachToRun"]["responses"]
    assert "404" not in found["startRun"]["responses"]


def test_every_schema_has_its_name_as_title_and_is_used(app: Quart) -> None:
    openapi = document(app)
    text = json.dumps(openapi)
    for name, schema in openapi["components"]["schemas"].items():
        assert schema["title"] == name
        assert f'"#/components/schemas/{name}"' in text, f"nothing refers to {name}"


async def test_a_client_that_prefers_json_gets_a_stream_where_nothing_can_be_resumed(settings: MakeSettings) -> None:
    async with running(settings()) as aura:
        sent = headers(**{"Accept": "application/json", "Last-Event-ID": "1"})
        expired = await aura.client.post("/aura/test/stream", json={"prompt": "메모"}, headers=sent)
        nothing = await aura.client.get("/aura/test/stream", headers=sent)
    assert (expired.status_code, expired.headers["Content-Type"]) == (200, "text/event-stream")
    assert "ResumeExpired" in expired.text
    assert (nothing.status_code, nothing.json()["errorCode"]) == (404, "E1004")


def test_every_error_of_the_service_is_documented(app: Quart) -> None:
    """Except errors that never reach a client, and those that belong to no operation."""
    internal = {
        "RunLost",
        "RunExists",
        "ModelError",
        "ToolError",
        "OutcomeUnknown",
        "ConfigurationError",
        "MethodNotAllowed",
        "EventLogLost",
    }
    known = {
        (error.status, error.code): error.__name__ for error in _errors(AuraError) if error.__name__ not in internal
    }
    documented = {
        (int(status), code)
        for methods in document(app)["paths"].values()
        for described in methods.values()
        for status, response in described["responses"].items()
        for code in response["description"].replace(";", " ").split()
        if code.startswith("E") and code[1:].isdigit()
    }
    assert {key: name for key, name in known.items() if key not in documented} == {}


def test_every_error_that_names_a_time_to_wait_documents_the_header(app: Quart) -> None:
    for methods in document(app)["paths"].values():
        for described in methods.values():
            for status in {"429", "503"} & set(described["responses"]):
                assert "Retry-After" in described["responses"][status]["headers"], (described["operationId"], status)


def _errors(error: type[AuraError]) -> list[type[AuraError]]:
    """Return the error and all its subclasses."""
    return [error, *(inner for child in error.__subclasses__() for inner in _errors(child))]


async def test_documents_are_served_and_revalidated(settings: MakeSettings) -> None:
    async with running(settings(aura_event_shape="flat")) as aura:
        openapi = (await aura.client.get("/openapi.json")).json()
        events = await aura.client.get("/aura/events.schema.json")
        again = await aura.client.get("/aura/events.schema.json", headers={"If-None-Match": events.headers["ETag"]})
        for name, type in (("js", "text/javascript"), ("d.ts", "text/plain"), ("ts", "text/plain")):
            client = await aura.client.get(f"/aura/client.{name}")
            assert client.headers["Content-Type"].startswith(type)
            assert "class AuraClient" in client.text
    assert openapi["info"]["version"]
    assert "/aura/test/stream" in openapi["paths"]
    assert events.json() == events_schema("flat")
    assert (again.status_code, again.content) == (304, b"")


# --- events ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["both", "flat", "nested"])
def test_events_schema_describes_every_type(shape: Shape) -> None:
    schema = events_schema(shape)
    Draft202012Validator.check_schema(schema)
    known = schema["$defs"]["KnownEvent"]
    assert list(known["discriminator"]["mapping"]) == list(EVENT_TYPES)
    assert len(schema["$defs"]) - 2 == len(known["oneOf"]) == len(EVENT_TYPES)


@pytest.mark.parametrize("shape", ["both", "flat", "nested"])
async def test_frames_of_real_runs_match_the_schema(
    settings: MakeSettings, model: ScriptedModelServer, shape: Shape
) -> None:
    """For the shape `both`, the harness checks every complete stream of the test suite."""
    plan = {"steps": [{"id": "1", "title": "첫째", "status": "in_progress", "confidence": 0.5}]}
    model.play(
        calling(("update_plan", plan), ("send_note", {"to": "kim"}), reasoning="먼저"),
        ScriptedTurn(text="네.", chunk_chars=1),
        calling(("send_note", {"to": "kim", "text": "가" * 3000})),
        ScriptedTurn(status=400),
    )
    validator = Draft202012Validator(events_schema(shape, is_strict=True))
    seen: set[str] = set()
    async with running(settings(aura_event_shape=shape), tools=[risky()]) as aura:
        for verdict in ("approve", "reject", None):
            async for message in _messages(aura, verdict):
                validator.validate(message)
                check_event(message, shape)
                seen.add(message["type"])
    assert seen == set(EVENT_TYPES)


async def _messages(aura: Aura, verdict: str | None) -> Any:
    async with aura.stream("메모", headers=headers()) as stream:
        while True:
            frame = await stream.next()
            if frame.is_done:
                return
            yield frame.data
            if frame.type == "hitl":
                assert verdict is not None
                await aura.decide(verdict, frame.data.get("data", frame.data)["requestId"])


@pytest.mark.parametrize("shape", ["both", "flat", "nested"])
def test_events_of_later_versions_are_valid(shape: Shape) -> None:
    """A client that validates must not fail for a new type, nor for a new field of one that it knows."""
    validator = Draft202012Validator(events_schema(shape))
    fields = {"message": "", "status": "failed", "later": 1}
    known = {"type": "end", "version": "1.0", "timestamp": 1, "sessionId": "s"}
    known |= {} if shape == "nested" else fields
    known |= {} if shape == "flat" else {"data": fields}
    validator.validate(known)
    validator.validate({"type": "of_a_later_version", "anything": [1]})
    with pytest.raises(ValidationError):
        validator.validate({"data": {}})


def test_strict_schema_rejects_unknown_values_and_fields() -> None:
    good = {"type": "end", "version": "1.0", "timestamp": 1, "sessionId": "s", "message": "", "status": "failed"}
    validator = Draft202012Validator(events_schema("flat", is_strict=True))
    validator.validate(good)
    for bad in ({**good, "status": "lost"}, {**good, "content": "x"}, {**good, "type": "start"}):
        with pytest.raises(ValidationError):
            validator.validate(bad)
