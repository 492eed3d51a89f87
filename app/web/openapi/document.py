"""The OpenAPI 3.1 document, derived from the routes' operations, the request and response types and the error table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, get_args

from app.errors import (
    AuraError,
    AuthenticationRequired,
    BodyTooLarge,
    FieldInvalid,
    PermissionDenied,
    RequestMalformed,
    RequestTimedOut,
    ServiceBusy,
    StorageUnavailable,
    TenantMissing,
    TokenExpired,
    TokenInvalid,
)
from app.ports.responses import AgentMetadata
from app.web.openapi.events import EVENT, event_definitions
from app.web.openapi.operation_ids import OPERATION_IDS
from app.web.openapi.operations import Operation, Route
from app.web.openapi.schemas import Definitions, TypeSchemas, generate_schemas
from statemachine.frames import Shape
from statemachine.stored import JsonObject

_SCHEMAS = "#/components/schemas/"
_HEADERS = "#/components/headers/"
_ERRORS_OF_ALL: tuple[type[AuraError], ...] = (AuraError,)
_ERRORS_OF_AUTHENTICATION = (
    AuthenticationRequired,
    TokenExpired,
    TokenInvalid,
    PermissionDenied,
    TenantMissing,
    FieldInvalid,
    StorageUnavailable,
)
_ERRORS_OF_BODIES = (RequestMalformed, FieldInvalid, BodyTooLarge, RequestTimedOut, ServiceBusy)
_STREAM = "text/event-stream"
_JSON = "application/json"
_DESCRIPTION = """\
The AI-agent service of the DWP. `POST /aura/test/stream` starts a run and returns its events as server-sent events.
Behind the gateway every path begins with `/api`. Every JSON response is an envelope, which omits null fields.

A stream consists of frames with `id:`, `event:` and one `data:` line. The schema of a stream is that of this line: the
JSON of an `Event`, or in the last frame the text `[DONE]`. Later versions may send further types of events, and further
fields: ignore what you do not know.

Only a replica that shuts down closes a stream without it: reconnect with `Last-Event-ID` then.
"""


class Document:
    """Builds the document for one set of routes."""

    def __init__(self, routes: Iterable[Route], *, version: str, shape: Shape) -> None:
        self._routes = sorted(routes, key=lambda route: (route.path, route.method))
        self._version = version
        self._types, self._definitions = _generate_type_schemas([route.operation for route in self._routes])
        self._definitions |= event_definitions(shape, _SCHEMAS) | {"ApiError": _error_envelope()}
        for name, schema in self._definitions.items():
            schema.setdefault("title", name)

    def build(self) -> JsonObject:
        """Return the document as JSON."""
        models = (model for route in self._routes for model in (route.operation.query, route.operation.headers))
        parameters = {model.__name__ for model in models if model is not None}  # which are written out
        paths: dict[str, JsonObject] = {}
        for route in self._routes:
            paths.setdefault(route.path, {})[route.method.lower()] = self._operation(route)
        return {
            "openapi": "3.1.0",
            "info": {"title": "Aura-Platform", "version": self._version, "description": _DESCRIPTION},
            "servers": [
                {"url": "/", "description": "Aura itself."},
                {"url": "/api", "description": "Aura behind the gateway."},
            ],
            "security": [{"bearer": []}],
            "paths": paths,
            "components": {
                "schemas": {name: it for name, it in sorted(self._definitions.items()) if name not in parameters},
                "headers": _response_headers(),
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "bearerFormat": "JWT",
                        "description": "An HS256 JWT with the claims sub, tenant_id, exp and iat (§1.3).",
                    }
                },
            },
        }

    def _operation(self, route: Route) -> JsonObject:
        operation = route.operation
        built: JsonObject = {
            "operationId": _operation_id(route),
            "tags": [route.group],
            "summary": operation.summary,
            "parameters": [*_path_parameters(route), *self._parameters(operation)],
        }
        if operation.access != "authenticated":
            built["security"] = [] if operation.access == "public" else [{}, {"bearer": []}]
        if operation.body is not None:
            schema = self._types[operation.body, "validation"]
            built["requestBody"] = {"required": operation.is_body_required, "content": {_JSON: {"schema": schema}}}
        built["responses"] = {str(status): response for status, response in sorted(self._responses(operation).items())}
        return built

    def _parameters(self, operation: Operation) -> Iterable[JsonObject]:
        text = {"type": "string"}
        yield _parameter("header", "X-Correlation-ID", text, "The trace id of the run; generated where it is absent.")
        yield _parameter("header", "traceparent", text, "A W3C trace context, used where X-Correlation-ID is absent.")
        if operation.access != "public":
            is_required = operation.access == "authenticated"
            yield _parameter("header", "X-Tenant-ID", text, "The token's tenant_id.", required=is_required)
            yield _parameter("header", "X-User-ID", text, "The token's sub.", required=operation.is_user_required)
        for location, model in (("query", operation.query), ("header", operation.headers)):
            if model is not None:
                schema = self._types[model, "validation"]
                schema = self._definitions[schema["$ref"].removeprefix(_SCHEMAS)] if "$ref" in schema else schema
                for name, field in schema["properties"].items():
                    bare = {key: value for key, value in field.items() if key != "description"}
                    yield _parameter(location, name, bare, field.get("description", ""))

    # --- responses ----------------------------------------------------------------------------------------------------

    def _responses(self, operation: Operation) -> dict[int, JsonObject]:
        responses = {operation.status: self._success(operation)}
        for status, data in operation.further_responses.items():
            responses[status] = _response(status)
            if data is not None:
                responses[status]["content"] = {_JSON: {"schema": self._envelope(data)}}
        for status, errors in _group_by_status(_errors(operation)).items():
            responses.setdefault(status, {**_response(status), "description": "", "content": {}})
            _add_errors(responses[status], errors, is_stream=operation.is_stream)
        return responses

    def _success(self, operation: Operation) -> JsonObject:
        response = _response(operation.status)
        if operation.is_stream:
            response["content"] = {_STREAM: {"schema": _stream_schema()}}
            response["headers"] |= {"X-Session-ID": {"$ref": _HEADERS + "X-Session-ID"}}
            response["links"] = self._links_to_run()
            return response
        content: dict[str, JsonObject] = {}
        if operation.data is not None:
            schema = self._envelope(
                operation.data,
                may_lack_data=operation.may_lack_data,
                has_agent_metadata=operation.has_agent_metadata,
            )
            content[_JSON] = {"schema": schema}
        for media_type in operation.media_types:
            schema = {"type": "object"} if media_type == _JSON else {}
            content[media_type] = {"schema": _any_of(content.get(media_type), schema)}
        return response | {"content": content}

    def _envelope(self, data: object, *, may_lack_data: bool = False, has_agent_metadata: bool = False) -> JsonObject:
        """Return the schema of a SUCCESS envelope; one with data is shared by all responses with this type of data."""
        envelope = _envelope("SUCCESS", is_success=True)
        if data is not None:
            envelope["title"] = f"{_name(data)}Response"
            envelope["properties"]["data"] = self._types[data, "serialization"]
            if not may_lack_data:
                envelope["required"].append("data")
            if has_agent_metadata:
                envelope["properties"]["agentMetadata"] = self._types[AgentMetadata, "serialization"]
                envelope["required"].append("agentMetadata")
            self._definitions[envelope["title"]] = envelope
            return {"$ref": _SCHEMAS + envelope["title"]}
        return envelope

    def _links_to_run(self) -> JsonObject:
        """Return OpenAPI links from a stream to every operation on its run, by `X-Session-ID`."""
        return {
            _operation_id(route): {
                "operationId": _operation_id(route),
                "parameters": {"path.sessionId": "$response.header.X-Session-ID"},
            }
            for route in self._routes
            if "sessionId" in route.parameters
        }


def _generate_type_schemas(operations: Sequence[Operation]) -> tuple[TypeSchemas, Definitions]:
    written = [
        data
        for operation in operations
        for data in (operation.data, *operation.further_responses.values())
        if data is not None
    ] + [AgentMetadata for operation in operations if operation.has_agent_metadata][:1]
    read = [
        model
        for operation in operations
        for model in (operation.query, operation.headers, operation.body)
        if model is not None
    ]
    return generate_schemas(
        [*((data, "serialization") for data in written), *((model, "validation") for model in read)], _SCHEMAS
    )


def _operation_id(route: Route) -> str:
    return OPERATION_IDS[f"{route.method} {route.path}"]


def _name(data: Any) -> str:
    """Return the name of a type; for `Json[...]` that of the type which its text contains."""
    inner = next(iter(get_args(data)), data)
    return str(getattr(inner, "__name__", "Data"))


def _path_parameters(route: Route) -> Iterable[JsonObject]:
    for name in route.parameters:
        yield _parameter("path", name, {"type": "string", "minLength": 1}, "", required=True)


def _parameter(location: str, name: str, schema: JsonObject, description: str, *, required: bool = False) -> JsonObject:
    types = [type for type in schema.get("anyOf", ()) if type != {"type": "null"}]  # a parameter is absent, never null
    parameter: JsonObject = {
        "name": name,
        "in": location,
        "required": required,
        "schema": types[0] if len(types) == 1 else schema,
    }
    return parameter | ({"description": description} if description else {})


def _response(status: int) -> JsonObject:
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {"X-Correlation-ID": {"$ref": _HEADERS + "X-Correlation-ID"}},
    }


def _response_headers() -> JsonObject:
    return {
        "X-Correlation-ID": {"description": "The trace id.", "required": True, "schema": {"type": "string"}},
        "X-Session-ID": {
            "description": "The run's session id; absent where there is no run.",
            "schema": {"type": "string"},
        },
        "Retry-After": {"description": "Retry after this many seconds.", "schema": {"type": "integer"}},
        "WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}},
    }


def _stream_schema() -> JsonObject:
    """Return the schema of one item of a stream, for which OpenAPI 3.1 has no words.

    Most tools take it for the `data:` line of a frame, some for the frame with its texts `id`, `event` and `data`.
    """
    text: JsonObject = {"type": "string"}
    frame: JsonObject = {
        "type": "object",
        "title": "StreamFrame",
        "description": "For tools that describe a frame before its `data` is parsed.",
        "properties": {"id": text, "event": text, "data": text},
        "required": ["id", "data"],
    }
    done: JsonObject = {"type": "string", "title": "StreamEnd", "description": "The text `[DONE]`."}
    return {"title": "StreamData", "anyOf": [{"$ref": _SCHEMAS + EVENT}, frame, done]}


def _envelope(status: str, *, is_success: bool) -> JsonObject:
    """Return the schema of an `ApiResponse` (§1.4) without its `data`."""
    return {
        "type": "object",
        "properties": {
            "status": {"const": status},
            "message": {"type": "string"},
            "success": {"const": is_success},
            "timestamp": {
                "type": "string",
                "description": "The service's local date-time, without a zone.",
                "examples": ["2024-01-16T12:00:00"],
            },
            "traceId": {"type": "string"},
        },
        "required": ["status", "message", "success", "timestamp"],
        "additionalProperties": False,
    }


def _error_envelope() -> JsonObject:
    envelope = _envelope("ERROR", is_success=False)
    envelope["title"] = "ApiError"
    envelope["description"] = "An error, with its code and message (§1.4). Each status lists its codes."
    envelope["properties"]["errorCode"] = {"type": "string", "pattern": "^E[0-9]{4}$", "examples": ["E4000"]}
    envelope["required"].append("errorCode")
    return envelope


def _errors(operation: Operation) -> Iterable[type[AuraError]]:
    return dict.fromkeys(
        (
            *_ERRORS_OF_ALL,
            *(() if operation.access == "public" else _ERRORS_OF_AUTHENTICATION),
            *(() if operation.body is None else _ERRORS_OF_BODIES),
            *(() if operation.query is None and operation.headers is None else (FieldInvalid,)),
            *operation.errors,
        )
    )


def _group_by_status(errors: Iterable[type[AuraError]]) -> dict[int, list[type[AuraError]]]:
    groups: dict[int, list[type[AuraError]]] = {}
    for error in errors:
        groups.setdefault(error.status, []).append(error)
    return groups


def _any_of(media_type: JsonObject | None, schema: JsonObject) -> JsonObject:
    """Return `schema` as an alternative to the schema that the media type has already, if it has one."""
    return schema if media_type is None else {"anyOf": [media_type["schema"], schema]}


def _add_errors(response: JsonObject, errors: list[type[AuraError]], *, is_stream: bool) -> None:
    """Add the errors of one status to a response, which may describe a success of that status already."""
    codes = "; ".join(f"{error.code} {error.prefix}" for error in sorted(errors, key=lambda error: error.code))
    response["description"] = f"{response['description']}; or {codes}" if response["description"] else codes
    content = response["content"]
    if not (is_stream and all(error.status == HTTPStatus.OK for error in errors)):  # a stream that begins has no JSON
        content[_JSON] = {"schema": _any_of(content.get(_JSON), {"$ref": _SCHEMAS + "ApiError"})}
    if is_stream:
        content[_STREAM] = {"schema": _stream_schema()}
    if any(error.retry_after_seconds is not None for error in errors):
        response["headers"] |= {"Retry-After": {"$ref": _HEADERS + "Retry-After"}}
    if any(error.status == HTTPStatus.UNAUTHORIZED for error in errors):
        response["headers"] |= {"WWW-Authenticate": {"$ref": _HEADERS + "WWW-Authenticate"}}
