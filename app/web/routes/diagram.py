"""`/aura/fsm/diagram`: the state machine, which is public, or a run in it, for callers who may see the run."""

from __future__ import annotations

import asyncio

from quart import Blueprint, Response, request

from app.errors import FormatUnavailable, NotFound
from app.runs.queries import RunQueries
from app.runs.resume import RunLocator
from app.web.auth import Authenticator
from app.web.diagrams import MEDIA_TYPES, draw
from app.web.openapi.operations import operation
from app.web.validation import DiagramQuery, read_query


def diagram_routes(auth: Authenticator, queries: RunQueries, locator: RunLocator) -> Blueprint:
    routes = Blueprint("diagram", __name__, url_prefix="/aura/fsm")
    png_lock = asyncio.Lock()  # at most one rendering process, so that runs keep the other cores

    @routes.get("/diagram")
    @operation(
        "Return the state machine in a format; with sessionId a run in it, if the caller may see the run.",
        media_types=tuple(type.partition(";")[0] for type in MEDIA_TYPES.values()),
        access="optional",
        query=DiagramQuery,
        errors=(FormatUnavailable, NotFound),
    )
    async def show() -> Response:
        query = read_query(request, DiagramQuery)
        format, session_id, snapshot = query.format, query.session_id, None
        if session_id:
            principal = auth.authenticate(request.headers)
            _, checkpoint = await locator.load(principal, session_id)
            snapshot = queries.snapshot(checkpoint)
        if format == "png":
            async with png_lock:
                drawing = await asyncio.to_thread(draw, format, snapshot)
        else:
            drawing = draw(format, snapshot)
        response = Response(drawing, content_type=MEDIA_TYPES[format])
        response.headers["Cache-Control"] = "no-store" if session_id else "max-age=300"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
        return response

    return routes
