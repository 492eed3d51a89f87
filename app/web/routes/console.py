"""`/aura/console`: the files of the operator page, and the exchange of one-time codes where they are enabled."""

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
    # only the sanitiser may create elements from text
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
_PUBLIC: dict[str, Any] = {"access": "public", "further_responses": {304: None}}
_MEDIA_TYPES = ("text/javascript", "text/css", "image/svg+xml")
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # cached, and revalidated by its ETag
}


def console_routes(responses: ResponseBuilder, one_time_codes: OneTimeCodes | None) -> Blueprint:
    routes = Blueprint("console", __name__, url_prefix="/aura/console")
    files = page_files()

    @routes.get("")
    @operation("Return the operator page.", media_types=("text/html",), **_PUBLIC)
    async def page() -> Response:
        return await _file_response(files[PAGE])

    @routes.get("/<name>")
    @operation(
        "Return a script, stylesheet or image of the page.", media_types=_MEDIA_TYPES, errors=(NotFound,), **_PUBLIC
    )
    async def file(name: str) -> Response:
        return await _find_file(name)

    @routes.get("/vendor/<name>")
    @operation("Return a vendored library of the page.", media_types=_MEDIA_TYPES, errors=(NotFound,), **_PUBLIC)
    async def library(name: str) -> Response:
        return await _find_file(f"vendor/{name}")

    async def _find_file(name: str) -> Response:
        if name not in files or name == PAGE:
            raise NotFound(f"the console has no file {name[:80]}")
        return await _file_response(files[name])

    if one_time_codes is not None:
        _add_token_exchange(routes, responses, one_time_codes)
    return routes


def _add_token_exchange(routes: Blueprint, responses: ResponseBuilder, one_time_codes: OneTimeCodes) -> None:
    @routes.post("/token")
    @operation(
        "Exchange a one-time code for a token.",
        data=ConsoleToken,
        body=OneTimeCodeBody,
        access="public",
        errors=(PermissionDenied,),
    )
    async def exchange() -> Response:
        body = await read(request, OneTimeCodeBody)
        token = one_time_codes.exchange(body.code)
        if token is None:
            raise PermissionDenied("code: the code is invalid, expired or already used; request a new link")
        response = responses.success({"token": token})
        response.headers["Cache-Control"] = "no-store"
        return response


async def _file_response(file: PageFile) -> Response:
    """Return the file, or 304 without a body where the client's `If-None-Match` names its ETag."""
    response = Response(file.content, content_type=file.media_type)
    response.headers.update(_HEADERS)
    response.set_etag(file.etag)
    conditional: Response = await response.make_conditional(request)
    return conditional
