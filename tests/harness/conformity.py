"""Checks every response of a test against the service's own documents: `/openapi.json` and the events' schema."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx2
from jsonschema import Draft202012Validator
from quart import Quart
from werkzeug.exceptions import HTTPException

from app.web.openapi.document import Document
from app.web.openapi.events import events_schema
from app.web.openapi.operations import Route
from app.web.routes.documents import described_routes
from statemachine.frames import Shape


@functools.cache
def _event_validators(shape: Shape) -> dict[str, Draft202012Validator]:
    definitions = events_schema(shape, is_strict=True)["$defs"]
    mapping = definitions["KnownEvent"]["discriminator"]["mapping"]
    return {type: Draft202012Validator(definitions[name.rpartition("/")[2]]) for type, name in mapping.items()}


def check_event(message: dict[str, Any], shape: Shape = "both") -> None:
    """Validate the JSON of one frame against the schema of its type."""
    _event_validators(shape)[message["type"]].validate(message)


class Documented:
    """The OpenAPI document of some routes, and the validators of its responses."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = routes
        self.document: dict[str, Any] = Document(routes, version="0", shape="both").build()

    @functools.cache  # noqa: B019 - the instance lives as long as the process
    def validator(self, path: str, method: str, status: str) -> Draft202012Validator:
        documented = self.document["paths"][path][method]["responses"][status]
        schema = documented["content"]["application/json"]["schema"]
        return Draft202012Validator({**schema, "components": self.document["components"]})


_documented: list[Documented] = []


def document_routes(app: Quart) -> Documented:
    """Document the routes of an app. To generate a document takes 0.2 s: apps with equal routes share it."""
    routes = list(described_routes(app))
    for known in _documented:
        if known.routes == routes:
            return known
    _documented.append(Documented(routes))
    return _documented[-1]


class Conformity:
    """Validates responses against the OpenAPI document of one app."""

    def __init__(self, app: Quart) -> None:
        self._map = app.url_map.bind("aura")
        self._app = app

    def hook(self) -> Callable[[httpx2.Response], Awaitable[None]]:
        """Return a response hook for an HTTP client; it fails for a status, type or body that is not documented."""
        return self._check

    @functools.cached_property
    def _documented(self) -> Documented:
        return document_routes(self._app)

    async def _check(self, response: httpx2.Response) -> None:
        request = response.request
        if request.method in ("HEAD", "OPTIONS"):
            return  # Quart answers these for every route
        try:
            rule, _ = self._map.match(request.url.path, request.method, return_rule=True)
        except HTTPException:
            return  # not a route of the app
        paths = self._documented.document["paths"]
        path = next(path for path in paths if _normalize(path, "{") == _normalize(str(rule.rule), "<"))
        method, status = request.method.lower(), str(response.status_code)
        responses = paths[path][method]["responses"]
        where = f"{request.method} {path}: {status}"
        assert status in responses, f"{where} is not documented"
        contents = responses[status].get("content", {})
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        assert media_type in contents or not contents, f"{where} {media_type} is not documented"
        if contents and media_type == "application/json":
            await response.aread()
            self._documented.validator(path, method, status).validate(response.json())


def _normalize(path: str, opening: str) -> list[str]:
    return ["*" if part.startswith(opening) else part for part in path.split("/")]
