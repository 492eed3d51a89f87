"""What others build clients from: `/openapi.json`, the events' JSON Schema, the TypeScript client (§1, §2.2)."""

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
_TYPESCRIPT = "text/plain; charset=utf-8"  # the registered type of .ts is a video's
_CLIENTS = Path(__file__).parents[2] / "client"
_DOCUMENT: dict[str, Any] = {"access": "anybody", "also": {304: None}}
_UNDRAWN = frozenset({"HEAD", "OPTIONS"})
"""Answered by Quart itself for every route."""


def document_routes(shape: Shape) -> Blueprint:
    routes = Blueprint("documents", __name__)
    documents: dict[str, str] = {}

    @routes.get("/openapi.json")
    @operation("This document", media_types=(_JSON,), **_DOCUMENT)
    async def openapi() -> Response:
        if "openapi" not in documents:  # once all routes are there
            document = Document(described_routes(current_app), version=VERSION, shape=shape)
            documents["openapi"] = compact_json(document.build())
        return await _document(documents["openapi"], _JSON)

    @routes.get("/aura/events.schema.json")
    @operation("The events as JSON Schema, draft 2020-12", media_types=(_JSON,), **_DOCUMENT)
    async def events() -> Response:
        return await _document(compact_json(events_schema(shape)), _JSON)

    @routes.get("/aura/client.js")
    @operation("The client for browsers and Node, an ES module", media_types=("text/javascript",), **_DOCUMENT)
    async def javascript() -> Response:
        return await _document(_client("client.js"), _JAVASCRIPT)

    @routes.get("/aura/client.d.ts")
    @operation("Its types", media_types=("text/plain",), **_DOCUMENT)
    async def types() -> Response:
        return await _document(_client("client.d.ts"), _TYPESCRIPT)

    @routes.get("/aura/client.ts")
    @operation("Its source", media_types=("text/plain",), **_DOCUMENT)
    async def typescript() -> Response:
        return await _document(_client("client.ts"), _TYPESCRIPT)

    return routes


def described_routes(app: Quart) -> Iterable[Route]:
    """What `@operation` says, where the app serves it."""
    for rule in app.url_map.iter_rules():
        said = operation_of(app.view_functions[rule.endpoint])
        path, parameters = rule.rule, []
        for name in sorted(rule.arguments):
            path = path.replace(f"<{name}>", f"{{{to_camel(name)}}}")
            parameters.append(to_camel(name))
        for method in sorted((rule.methods or set()) - _UNDRAWN):
            if said is not None:
                yield Route(method, path, tuple(parameters), rule.endpoint.partition(".")[0], said)


def _client(name: str) -> str:
    return (_CLIENTS / name).read_text(encoding="utf-8")


async def _document(text: str, content_type: str) -> Response:
    """Asked for again with its ETag, it is 304 without a body."""
    response = Response(text, content_type=content_type)
    response.headers["Cache-Control"] = "no-cache"
    await response.add_etag()
    return await response.make_conditional(request)
