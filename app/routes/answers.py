"""What every answer looks like: the `ApiResponse` envelope, the errors, the trace id (§1.4)."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import cast

import structlog
from quart import Quart, Request, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from app.errors import (
    AuraError,
    BodyTooLarge,
    MethodNotAllowed,
    NotFound,
    RequestMalformed,
    RequestTimedOut,
    ServiceBusy,
)
from app.ports import Clock
from app.routes.incoming import IncomingRequest
from app.sse import MEDIA_TYPE, refusal
from statemachine.checkpoint import JsonObject
from statemachine.frames import Shape, compact_json

STREAM_PATH = "/aura/test/stream"
BODY_LIMIT_BYTES = 1024 * 1024
_PATIENCE_SECONDS = 2.0
"""For the rest of a body that was refused unread."""
_JSON = "application/json"
_CORRELATION = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

log = structlog.get_logger(__name__)


class Answers:
    """Builds answers; `install` makes every error of the app one of them."""

    def __init__(self, clock: Clock, shape: Shape) -> None:
        self._clock = clock
        self._shape = shape

    def install(self, app: Quart) -> None:
        """Every hook is a coroutine: what is not Quart calls in a thread, which costs a busy process far more."""
        app.before_request(self._begin)
        app.after_request(self._finish)
        app.register_error_handler(AuraError, self.error)
        app.register_error_handler(HTTPException, self._http_error)
        app.register_error_handler(Exception, self._unexpected)

    def success(self, data: object = None, *, message: str = "OK", status: int = 200) -> Response:
        """`data` None is left out, as all null fields are."""
        body: JsonObject = {"status": "SUCCESS", "message": message, "data": data, "success": True}
        return self._json(body, status)

    async def error(self, error: AuraError) -> Response:
        """On the stream path an event stream, unless the client prefers JSON; everywhere with its HTTP status."""
        if error.status >= 500 and not isinstance(error, ServiceBusy):  # of which there may be thousands
            log.warning("request.failed", code=error.code, cause=error.cause)
        if request.path.rstrip("/") == STREAM_PATH and not _prefers_json(request):
            frames = refusal(error, "", int(self._clock.now() * 1000), self._shape)
            response = Response(_one_by_one(frames), error.status)
            stream_headers(response)
        else:
            body: JsonObject = {
                "status": "ERROR",
                "message": error.message,
                "errorCode": error.code,
                "success": False,
            }
            response = self._json(body, error.status)
        if error.retry_after_seconds is not None:
            response.headers["Retry-After"] = str(error.retry_after_seconds)
        if error.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _json(self, body: JsonObject, status: int) -> Response:
        # "without zone": the platform's services write their local date-time
        moment = datetime.fromtimestamp(self._clock.now(), UTC).astimezone().replace(tzinfo=None)
        body |= {"timestamp": moment.isoformat(timespec="seconds"), "traceId": g.get("trace_id")}
        kept = {name: value for name, value in body.items() if value is not None}
        return Response(compact_json(kept).encode("utf-8", "replace"), status, content_type=_JSON)

    async def _http_error(self, error: HTTPException) -> Response:
        response = await self.error(_translated(error))
        if isinstance(error, WrongMethod) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    async def _unexpected(self, error: Exception) -> Response:
        log.error("request.broke", exc_info=error)
        return await self.error(AuraError())

    async def _begin(self) -> None:
        g.trace_id = _trace_id(request)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            traceId=g.trace_id,
            tenant=request.headers.get("X-Tenant-ID"),
            source=request.headers.get("X-DWP-Source"),
            caller=request.headers.get("X-DWP-Caller-Type"),
        )

    async def _finish(self, response: Response) -> Response:
        if response.status_code >= 400:
            await cast("IncomingRequest", request).body.read_away(_PATIENCE_SECONDS)
        if request.method == "OPTIONS" and response.status_code == 200:  # what is allowed stands in `Allow`
            response.status_code = 204
            response.headers.pop("Content-Type", None)
        response.headers["X-Correlation-ID"] = g.get("trace_id") or _trace_id(request)
        return response


async def _one_by_one(frames: Iterable[bytes]) -> AsyncIterator[bytes]:
    """One frame is one write (§2.1)."""
    for frame in frames:
        yield frame


def stream_headers(response: Response) -> None:
    """§2: exactly this media type, no buffering on the way, a connection that stays."""
    response.headers["Content-Type"] = MEDIA_TYPE
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    if request.http_version.startswith("1."):
        response.headers["Connection"] = "keep-alive"


def _prefers_json(incoming: Request) -> bool:
    accept = incoming.accept_mimetypes
    return accept[_JSON] > accept[MEDIA_TYPE]


def _trace_id(incoming: Request) -> str:
    """The caller's id, where it is one that can be answered and logged safely; else a new one."""
    given = incoming.headers.get("X-Correlation-ID", "")
    if _CORRELATION.fullmatch(given):
        return given
    parent = _TRACEPARENT.fullmatch(incoming.headers.get("traceparent", ""))
    return parent[1] if parent else secrets.token_hex(16)


def _translated(error: HTTPException) -> AuraError:
    match error.code:
        case 404:
            return NotFound(f"{request.method} {request.path[:200]}")
        case 405:
            return MethodNotAllowed(f"{request.method} is not offered here")
        case 408:
            return RequestTimedOut("the body did not arrive in time")
        case 413:
            return BodyTooLarge(BODY_LIMIT_BYTES)
        case code if code is not None and 400 <= code < 500:
            return RequestMalformed(error.description or error.name)
        case _:
            return AuraError()
