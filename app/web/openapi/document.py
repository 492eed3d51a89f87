"""The OpenAPI 3.1 document: from the routes' operations, the models that read and write, the table of errors (§1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus

from app.errors import (
    AuraError,
    AuthenticationRequired,
    BodyTooLarge,
    FieldInvalid,
    PermissionDenied,
    RequestMalformed,
    RequestTimedOut,
    StorageUnavailable,
    TenantMissing,
    TokenExpired,
    TokenInvalid,
)
from app.web.openapi.events import EVENT, event_definitions
from app.web.openapi.operations import Operation, Route
from app.web.openapi.schemas import Definitions, Types, draw
from statemachine.checkpoint import JsonObject
from statemachine.events import EVENT_TYPES
from statemachine.frames import Shape

_SCHEMAS = "#/components/schemas/"
_HEADERS = "#/components/headers/"
_ALWAYS: tuple[type[AuraError], ...] = (AuraError,)
_AUTHENTICATED = (
    AuthenticationRequired,
    TokenExpired,
    TokenInvalid,
    PermissionDenied,
    TenantMissing,
    FieldInvalid,
    StorageUnavailable,
)
_WITH_BODY = (RequestMalformed, FieldInvalid, BodyTooLarge, RequestTimedOut)
_STREAM = "text/event-stream"
_JSON = "application/json"
_ABOUT = """\
The AI-agent service of the DWP. A run is started by `POST /aura/test/stream` and read as server-sent events; behind the
gateway every path begins with `/api`. Every JSON answer is an envelope; null fields are left out of it.

A stream is frames of `id:`, `event:` and one `data:` line that holds an `Event`; the last frame is `data: [DONE]`. Only
a replica that shuts down closes without it: come back with `Last-Event-ID`.
"""


class Document:
    """Builds the document for one set of routes."""

    def __init__(self, routes: Iterable[Route], *, version: str, shape: Shape) -> None:
        self._routes = sorted(routes, key=lambda route: (route.path, route.method))
        self._version = version
        self._types, self._definitions = _drawn([route.operation for route in self._routes])
        self._definitions |= event_definitions(shape, _SCHEMAS) | {"ApiError": _error_envelope()}

    def build(self) -> JsonObject:
        paths: dict[str, JsonObject] = {}
        for route in self._routes:
            paths.setdefault(route.path, {})[route.method.lower()] = self._operation(route)
        return {
            "openapi": "3.1.0",
            "info": {"title": "Aura-Platform", "version": self._version, "description": _ABOUT},
            "servers": [{"url": "/", "description": "Aura itself"}, {"url": "/api", "description": "the gateway"}],
            "security": [{"bearer": []}],
            "paths": paths,
            "components": {
                "schemas": dict(sorted(self._definitions.items())),
                "headers": _answer_headers(),
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "bearerFormat": "JWT",
                        "description": "HS256; claims sub, tenant_id, exp, iat (§1.3)",
                    }
                },
            },
        }

    def _operation(self, route: Route) -> JsonObject:
        said = route.operation
        built: JsonObject = {
            "operationId": _operation_id(route),
            "tags": [route.group],
            "summary": said.summary,
            "parameters": [*_path_parameters(route), *self._parameters(said)],
        }
        if said.access != "caller":
            built["security"] = [] if said.access == "anybody" else [{}, {"bearer": []}]
        if said.body is not None:
            schema = self._types[said.body, "validation"]
            built["requestBody"] = {"required": said.is_body_required, "content": {_JSON: {"schema": schema}}}
        built["responses"] = {str(status): answer for status, answer in sorted(self._answers(said).items())}
        return built

    def _parameters(self, said: Operation) -> Iterable[JsonObject]:
        yield _parameter("header", "X-Correlation-ID", {"type": "string"}, "the run's trace id; made where absent")
        yield _parameter("header", "traceparent", {"type": "string"}, "W3C trace context, for the same")
        if said.access != "anybody":
            needed = said.access == "caller"
            yield _parameter("header", "X-Tenant-ID", {"type": "string"}, "the token's tenant_id", required=needed)
            yield _parameter(
                "header", "X-User-ID", {"type": "string"}, "the token's sub", required=said.is_user_required
            )
        for place, model in (("query", said.query), ("header", said.headers)):
            if model is not None:
                drawn = self._types[model, "validation"]
                drawn = self._definitions[drawn["$ref"].removeprefix(_SCHEMAS)] if "$ref" in drawn else drawn
                for name, schema in drawn["properties"].items():
                    bare = {key: value for key, value in schema.items() if key != "description"}
                    yield _parameter(place, name, bare, schema.get("description", ""))

    # --- answers ------------------------------------------------------------------------------------------------------

    def _answers(self, said: Operation) -> dict[int, JsonObject]:
        responses = {said.status: self._success(said)}
        for status, data in said.also.items():
            responses[status] = _answer(status)
            if data is not None:
                responses[status]["content"] = {_JSON: {"schema": self._envelope(data)}}
        for status, errors in _by_status(_errors(said)).items():
            responses.setdefault(status, {**_answer(status), "description": "", "content": {}})
            _add_errors(responses[status], errors, is_stream=said.is_stream)
        return responses

    def _success(self, said: Operation) -> JsonObject:
        answer = _answer(said.status)
        if said.is_stream:
            answer["content"] = {_STREAM: {"schema": _stream_schema()}}
            answer["headers"] |= {"X-Session-ID": {"$ref": _HEADERS + "X-Session-ID"}}
            answer["links"] = self._links()
            return answer
        content: dict[str, JsonObject] = {}
        if said.data is not None:
            content[_JSON] = {"schema": self._envelope(said.data, may_lack_data=said.may_lack_data)}
        for media_type in said.media_types:
            schema: JsonObject = {"type": "object"} if media_type == _JSON else {}
            content[media_type] = {"schema": _either(content.get(media_type), schema)}
        return answer | {"content": content}

    def _envelope(self, data: object, *, may_lack_data: bool = False) -> JsonObject:
        envelope = _envelope("SUCCESS", is_success=True)
        if data is not None:
            envelope["properties"]["data"] = self._types[data, "serialization"]
            if not may_lack_data:
                envelope["required"].append("data")
        return envelope

    def _links(self) -> JsonObject:
        """What can be asked of a run once its stream is open."""
        return {
            _operation_id(route): {
                "operationId": _operation_id(route),
                "parameters": {"path.sessionId": "$response.header.X-Session-ID"},
            }
            for route in self._routes
            if "sessionId" in route.parameters
        }


def _drawn(operations: Sequence[Operation]) -> tuple[Types, Definitions]:
    struct_as_typed_dict = [
        data for said in operations for data in (said.data, *said.also.values()) if data is not None
    ]
    read = [model for said in operations for model in (said.query, said.headers, said.body) if model is not None]
    return draw(
        [*((data, "serialization") for data in struct_as_typed_dict), *((model, "validation") for model in read)],
        _SCHEMAS,
    )


def _operation_id(route: Route) -> str:
    words = [word.strip("{}") for word in route.path.replace(".", "/").split("/") if word]
    return "_".join([route.method.lower(), *words])


def _path_parameters(route: Route) -> Iterable[JsonObject]:
    for name in route.parameters:
        yield _parameter("path", name, {"type": "string", "minLength": 1}, "", required=True)


def _parameter(place: str, name: str, schema: JsonObject, about: str, *, required: bool = False) -> JsonObject:
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]  # it is absent, never null
    parameter: JsonObject = {
        "name": name,
        "in": place,
        "required": required,
        "schema": kinds[0] if len(kinds) == 1 else schema,
    }
    return parameter | ({"description": about} if about else {})


def _answer(status: int) -> JsonObject:
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {"X-Correlation-ID": {"$ref": _HEADERS + "X-Correlation-ID"}},
    }


def _answer_headers() -> JsonObject:
    return {
        "X-Correlation-ID": {"description": "the trace id", "required": True, "schema": {"type": "string"}},
        "X-Session-ID": {"description": "the run; absent where there is none", "schema": {"type": "string"}},
        "Retry-After": {"description": "seconds", "schema": {"type": "integer"}},
        "WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}},
    }


def _stream_schema() -> JsonObject:
    """OpenAPI 3.1 has no word for the items of a stream: tools read this as the schema of each frame."""
    id: JsonObject = {"type": "string", "pattern": "^[0-9]+$", "description": "milliseconds; rises within a run"}
    data: JsonObject = {"type": "string", "contentMediaType": _JSON, "contentSchema": {"$ref": _SCHEMAS + EVENT}}
    event: JsonObject = {"enum": list(EVENT_TYPES), "description": "the type of the event"}
    kinds: list[JsonObject] = [{"id": id, "event": event, "data": data}, {"id": id, "data": {"const": "[DONE]"}}]
    return {
        "description": "one frame of the stream; the last one has the data [DONE]",
        "oneOf": [{"type": "object", "properties": kind, "required": list(kind)} for kind in kinds],
    }


def _envelope(status: str, *, is_success: bool) -> JsonObject:
    """§1.4."""
    return {
        "type": "object",
        "properties": {
            "status": {"const": status},
            "message": {"type": "string"},
            "success": {"const": is_success},
            "timestamp": {"type": "string", "description": "local, without zone", "examples": ["2024-01-16T12:00:00"]},
            "traceId": {"type": "string"},
        },
        "required": ["status", "message", "success", "timestamp"],
        "additionalProperties": False,
    }


def _error_envelope() -> JsonObject:
    envelope = _envelope("ERROR", is_success=False)
    envelope["properties"]["errorCode"] = {"type": "string", "pattern": "^E[0-9]{4}$"}
    envelope["required"].append("errorCode")
    return envelope


def _errors(said: Operation) -> Iterable[type[AuraError]]:
    return dict.fromkeys(
        (
            *_ALWAYS,
            *(() if said.access == "anybody" else _AUTHENTICATED),
            *(() if said.body is None else _WITH_BODY),
            *(() if said.query is None and said.headers is None else (FieldInvalid,)),
            *said.errors,
        )
    )


def _by_status(errors: Iterable[type[AuraError]]) -> dict[int, list[type[AuraError]]]:
    found: dict[int, list[type[AuraError]]] = {}
    for error in errors:
        found.setdefault(error.status, []).append(error)
    return found


def _either(before: JsonObject | None, schema: JsonObject) -> JsonObject:
    return schema if before is None else {"anyOf": [before["schema"], schema]}


def _add_errors(answer: JsonObject, errors: list[type[AuraError]], *, is_stream: bool) -> None:
    """An answer of this status that says what went wrong, beside one that may be there already."""
    words = "; ".join(f"{error.code} {error.prefix}" for error in sorted(errors, key=lambda error: error.code))
    answer["description"] = f"{answer['description']}; or {words}" if answer["description"] else words
    codes = sorted({error.code for error in errors})
    schema = {"allOf": [{"$ref": _SCHEMAS + "ApiError"}, {"properties": {"errorCode": {"enum": codes}}}]}
    content = answer["content"]
    content[_JSON] = {"schema": _either(content.get(_JSON), schema)}
    if is_stream:
        content[_STREAM] = {"schema": _stream_schema()}
    if any(error.retry_after_seconds is not None for error in errors):
        answer["headers"] |= {"Retry-After": {"$ref": _HEADERS + "Retry-After"}}
    if any(error.status == HTTPStatus.UNAUTHORIZED for error in errors):
        answer["headers"] |= {"WWW-Authenticate": {"$ref": _HEADERS + "WWW-Authenticate"}}
