"""The documents for developers of clients: `/openapi.json`, the events' JSON Schema, the TypeScript client."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel
from quart import Blueprint, Quart, Response, current_app, request

from app.web.openapi.document import Document
from app.web.openapi.events import events_schema
from app.web.openapi.operations import Route, operation, operation_of
from app.web.routes.health import VERSION
from statemachine.frames import Shape, compact_json

_JSON = "application/json"
_JAVASCRIPT = "text/javascript; charset=utf-8"
_TYPESCRIPT = "text/plain; charset=utf-8"  # the registered media type of .ts is a video format
_CLIENTS = Path(__file__).parents[2] / "client"
_PUBLIC: dict[str, Any] = {"access": "public", "further_responses": {304: None}}
_IMPLICIT_METHODS = frozenset({"HEAD", "OPTIONS"})
"""Quart handles these methods for every route; they are not described."""


def document_routes(shape: Shape) -> Blueprint:
    routes = Blueprint("documents", __name__)
    documents: dict[str, str] = {}

    @routes.get("/openapi.json")
    @operation("Return this document.", media_types=(_JSON,), **_PUBLIC)
    async def openapi() -> Response:
        if "openapi" not in documents:  # not earlier, because routes are registered until the app starts
            document = Document(described_routes(current_app), version=VERSION, shape=shape)
            documents["openapi"] = compact_json(document.build())
        return await _document_response(documents["openapi"], _JSON)

    @routes.get("/aura/events.schema.json")
    @operation("Return the events as JSON Schema, draft 2020-12.", media_types=(_JSON,), **_PUBLIC)
    async def events() -> Response:
        return await _document_response(compact_json(events_schema(shape)), _JSON)

    @routes.get("/aura/client.js")
    @operation(
        "Return the client for browsers and Node, as one ES module without dependencies.",
        media_types=("text/javascript",),
        **_PUBLIC,
    )
    async def javascript() -> Response:
        return await _document_response(_read_client("client.js"), _JAVASCRIPT)

    @routes.get("/aura/client.d.ts")
    @operation("Return the TypeScript declarations of the client.", media_types=("text/plain",), **_PUBLIC)
    async def types() -> Response:
        return await _document_response(_read_client("client.d.ts"), _TYPESCRIPT)

    @routes.get("/aura/client.ts")
    @operation("Return the TypeScript source of the client.", media_types=("text/plain",), **_PUBLIC)
    async def typescript() -> Response:
        return await _document_response(_read_client("client.ts"), _TYPESCRIPT)

    return routes


def described_routes(app: Quart) -> Iterable[Route]:
    """Return every route of the app that has an `@operation`."""
    for rule in app.url_map.iter_rules():
        described = operation_of(app.view_functions[rule.endpoint])
        path, parameters = rule.rule, []
        for name in sorted(rule.arguments):
            path = path.replace(f"<{name}>", f"{{{to_camel(name)}}}")
            parameters.append(to_camel(name))
        for method in sorted((rule.methods or set()) - _IMPLICIT_METHODS):
            if described is not None:
                yield Route(method, path, tuple(parameters), rule.endpoint.partition(".")[0], described)


def _read_client(name: str) -> str:
    return (_CLIENTS / name).read_text(encoding="utf-8")


async def _document_response(text: str, content_type: str) -> Response:
    """Return the document, or 304 without a body where the client's `If-None-Match` names its ETag."""
    response = Response(text, content_type=content_type)
    response.headers["Cache-Control"] = "no-cache"
    await response.add_etag()
    return await response.make_conditional(request)
