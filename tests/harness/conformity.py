"""Checks every response of a test against the service's own documents: `/openapi.json` and the events' schema."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
from jsonschema import Draft202012Validator
from quart import Quart
from werkzeug.exceptions import HTTPException

from app.web.openapi.document import Document
from app.web.openapi.events import events_schema
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


class Conformity:
    """Validates responses against the OpenAPI document of one app."""

    def __init__(self, app: Quart) -> None:
        self._map = app.url_map.bind("aura")
        self._app = app
        self._document: dict[str, Any] | None = None

    def hook(self) -> Callable[[httpx2.Response], Awaitable[None]]:
        """Return a response hook for an HTTP client; it fails for a status, type or body that is not documented."""
        return self._check

    @property
    def document(self) -> dict[str, Any]:
        if self._document is None:
            self._document = Document(described_routes(self._app), version="0", shape="both").build()
        return self._document

    async def _check(self, response: httpx2.Response) -> None:
        request = response.request
        if request.method in ("HEAD", "OPTIONS"):
            return  # Quart answers these for every route
        try:
            rule, _ = self._map.match(request.url.path, request.method, return_rule=True)
        except HTTPException:
            return  # not a route of the app
        path = next(path for path in self.document["paths"] if _normalize(path, "{") == _normalize(str(rule.rule), "<"))
        responses = self.document["paths"][path][request.method.lower()]["responses"]
        where = f"{request.method} {path}: {response.status_code}"
        assert str(response.status_code) in responses, f"{where} is not documented"
        contents = responses[str(response.status_code)].get("content", {})
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        assert media_type in contents or not contents, f"{where} {media_type} is not documented"
        if contents and media_type == "application/json":
            await response.aread()
            self._validator(path, request.method.lower(), str(response.status_code)).validate(response.json())

    @functools.cache  # noqa: B019 - the instance lives as long as a test
    def _validator(self, path: str, method: str, status: str) -> Draft202012Validator:
        documented = self.document["paths"][path][method]["responses"][status]
        schema = documented["content"]["application/json"]["schema"]
        return Draft202012Validator({**schema, "components": self.document["components"]})


def _normalize(path: str, opening: str) -> list[str]:
    return ["*" if part.startswith(opening) else part for part in path.split("/")]
