"""`/aura/console`: the operator page and its files, and where there are one-time links their exchange."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, Response, request

from app.console.files import PAGE, PageFile, page_files
from app.errors import NotFound, PermissionDenied
from app.ports.responses import ConsoleToken
from app.web.one_time_codes import OneTimeCodes
from app.web.openapi.operations import operation
from app.web.responses import ResponseBuilder
from app.web.validation import OneTimeCodeBody, read

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # nothing but the sanitiser makes elements of text
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
_PUBLIC: dict[str, Any] = {"access": "anybody", "also": {304: None}}
_TYPES = ("text/javascript", "text/css", "image/svg+xml")
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, and asked for again with its ETag
}


def console_routes(responses: ResponseBuilder, one_time_codes: OneTimeCodes | None) -> Blueprint:
    routes = Blueprint("console", __name__, url_prefix="/aura/console")
    files = page_files()

    @routes.get("")
    @operation("The operator page", media_types=("text/html",), **_PUBLIC)
    async def page() -> Response:
        return await _served(files[PAGE])

    @routes.get("/<name>")
    @operation("A script, style or picture of the page", media_types=_TYPES, errors=(NotFound,), **_PUBLIC)
    async def file(name: str) -> Response:
        return await _file(name)

    @routes.get("/vendor/<name>")
    @operation("A library of the page", media_types=_TYPES, errors=(NotFound,), **_PUBLIC)
    async def library(name: str) -> Response:
        return await _file(f"vendor/{name}")

    async def _file(name: str) -> Response:
        if name not in files or name == PAGE:
            raise NotFound(f"the console has no file {name[:80]}")
        return await _served(files[name])

    if one_time_codes is None:
        return routes

    @routes.post("/token")
    @operation(
        "The token behind a one-time code",
        data=ConsoleToken,
        body=OneTimeCodeBody,
        access="anybody",
        errors=(PermissionDenied,),
    )
    async def exchange() -> Response:
        body = await read(request, OneTimeCodeBody)
        token = one_time_codes.exchange(body.code)
        if token is None:
            raise PermissionDenied("code: it was used, has expired, or never was; take a new link")
        response = responses.success({"token": token})
        response.headers["Cache-Control"] = "no-store"
        return response

    return routes


async def _served(found: PageFile) -> Response:
    """304 without a body for who has it."""
    response = Response(found.content, content_type=found.media_type)
    response.headers.update(_HEADERS)
    response.set_etag(found.etag)
    made: Response = await response.make_conditional(request)
    return made
