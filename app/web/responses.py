"""What every answer looks like: the `ApiResponse` envelope, the errors, the trace id (§1.4)."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import NamedTuple, cast

import structlog
from hypercorn.typing import HTTPScope
from quart import Quart, Response, g, request
from werkzeug.datastructures import Headers, MIMEAccept
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod
from werkzeug.http import parse_accept_header

from app.errors import (
    AuraError,
    BodyTooLarge,
    MethodNotAllowed,
    NotFound,
    RequestMalformed,
    RequestTimedOut,
    ServiceBusy,
)
from app.ports.clock import Clock
from app.web.requests import IncomingRequest
from app.web.sse import MEDIA_TYPE, refusal
from statemachine.checkpoint import JsonObject
from statemachine.frames import Shape, compact_json

STREAM_PATH = "/aura/test/stream"
BODY_LIMIT_BYTES = 1024 * 1024
REST_SECONDS = 2.0
"""For the rest of a body that was refused unread."""
_JSON = "application/json"
_CORRELATION = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

log = structlog.get_logger(__name__)


class PreparedResponse(NamedTuple):
    """An answer that is ready to be sent; each piece of the body is one write."""

    status: int
    headers: dict[str, str]
    pieces: list[bytes]


class ResponseBuilder:
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
        return Response(self._envelope(body, g.get("trace_id")), status, content_type=_JSON)

    async def error(self, error: AuraError) -> Response:
        """On the stream path an event stream, unless the client prefers JSON; everywhere with its HTTP status."""
        if error.status >= 500 and not isinstance(error, ServiceBusy):  # of which there may be thousands
            log.warning("request.failed", code=error.code, cause=error.cause)
        as_stream = request.path.rstrip("/") == STREAM_PATH and not _prefers_json(request.headers)
        headers, pieces = self._told(error, g.get("trace_id"), request.http_version, as_stream=as_stream)
        response = Response(_one_by_one(pieces) if as_stream else pieces[0], error.status)
        response.headers.update(headers)
        return response

    def without_request(self, error: AuraError, scope: HTTPScope) -> PreparedResponse:
        """The same for somebody on the stream path of whose request nothing has been looked at yet."""
        given = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        trace_id, as_stream = _trace_id(given), not _prefers_json(given)
        headers, pieces = self._told(error, trace_id, scope["http_version"], as_stream=as_stream)
        headers["X-Correlation-ID"] = trace_id
        if not as_stream:
            headers["Content-Length"] = str(len(pieces[0]))
        return PreparedResponse(error.status, headers, pieces)

    def _told(
        self, error: AuraError, trace_id: str | None, http_version: str, *, as_stream: bool
    ) -> tuple[dict[str, str], list[bytes]]:
        """Headers and body, in pieces of which each is one write."""
        if as_stream:
            headers = stream_headers(http_version)
            pieces = refusal(error, "", int(self._clock.now() * 1000), self._shape)
        else:
            headers = {"Content-Type": _JSON}
            body = {"status": "ERROR", "message": error.message, "errorCode": error.code, "success": False}
            pieces = [self._envelope(body, trace_id)]
        if error.retry_after_seconds is not None:
            headers["Retry-After"] = str(error.retry_after_seconds)
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers, pieces

    def _envelope(self, body: JsonObject, trace_id: str | None) -> bytes:
        # "without zone": the platform's services write their local date-time
        moment = datetime.fromtimestamp(self._clock.now(), UTC).astimezone().replace(tzinfo=None)
        body |= {"timestamp": moment.isoformat(timespec="seconds"), "traceId": trace_id}
        kept = {name: value for name, value in body.items() if value is not None}
        return compact_json(kept).encode("utf-8", "replace")

    async def _http_error(self, error: HTTPException) -> Response:
        response = await self.error(_translated(error))
        if isinstance(error, WrongMethod) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    async def _unexpected(self, error: Exception) -> Response:
        log.error("request.broke", exc_info=error)
        return await self.error(AuraError())

    async def _begin(self) -> None:
        g.trace_id = _trace_id(request.headers)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            traceId=g.trace_id,
            tenant=request.headers.get("X-Tenant-ID"),
            source=request.headers.get("X-DWP-Source"),
            caller=request.headers.get("X-DWP-Caller-Type"),
        )

    async def _finish(self, response: Response) -> Response:
        if response.status_code >= 400:
            await cast("IncomingRequest", request).body.discard_rest(REST_SECONDS)
        if request.method == "OPTIONS" and response.status_code == 200:  # what is allowed stands in `Allow`
            response.status_code = 204
            response.headers.pop("Content-Type", None)
        response.headers["X-Correlation-ID"] = g.get("trace_id") or _trace_id(request.headers)
        return response


async def _one_by_one(frames: Iterable[bytes]) -> AsyncIterator[bytes]:
    """One frame is one write (§2.1)."""
    for frame in frames:
        yield frame


def stream_headers(http_version: str) -> dict[str, str]:
    """§2: exactly this media type, no buffering on the way, a connection that stays."""
    headers = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    if http_version.startswith("1."):
        headers["Connection"] = "keep-alive"
    return headers


def _prefers_json(headers: Headers) -> bool:
    accept = parse_accept_header(headers.get("Accept"), MIMEAccept)
    return accept[_JSON] > accept[MEDIA_TYPE]


def _trace_id(headers: Headers) -> str:
    """The caller's id, where it is one that can be answered and logged safely; else a new one."""
    given = headers.get("X-Correlation-ID", "")
    if _CORRELATION.fullmatch(given):
        return given
    parent = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
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
