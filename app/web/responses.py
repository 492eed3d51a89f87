"""Builds every response: the `ApiResponse` envelope, errors as JSON or as an event stream, the trace id (§1.4)."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import parse_qsl

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
from app.ports.responses import AgentMetadata
from app.web.naming import naming_of_refused
from app.web.sse import MEDIA_TYPE
from app.web.stream_frames import error_frames
from statemachine.event_names import EventNames
from statemachine.frames import Shape, compact_json
from statemachine.stored import JsonObject

STREAM_PATH = "/aura/test/stream"
BODY_LIMIT_BYTES = 1024 * 1024
REST_SECONDS = 2.0
"""How long the end of a response waits for the rest of a request body that is discarded."""
_JSON = "application/json"
_SUCCESS = "요청이 성공적으로 처리되었습니다."
"""The message of a success that says nothing more (§1.4)."""
_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_JSON_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Answers are of one user and of one moment, and no browser may take them for a page."""
_MAX_LOGGED_CHARACTERS = 64

log = structlog.get_logger(__name__)


class PreparedResponse(NamedTuple):
    """A response that is ready to be sent; each chunk of the body is one write."""

    status: int
    headers: dict[str, str]
    chunks: list[bytes]


class ResponseBuilder:
    """Builds responses; `install` makes an app turn every error into one of them."""

    def __init__(
        self,
        clock: Clock,
        shape: Shape,
        on_refused: Callable[[AuraError], None] = lambda _: None,
        *,
        names: EventNames = "aura",
    ) -> None:
        """`on_refused` is called with each error of the current request, within its context.

        Errors on a stream have these `names` where the request asks for no others.
        """
        self._clock = clock
        self._shape = shape
        self._names: EventNames = names
        self._on_refused = on_refused

    def install(self, app: Quart) -> None:
        """Register the hooks and error handlers. All are coroutines, because Quart runs other functions in a thread."""
        app.before_request(self._bind_trace_id)
        app.after_request(self._finish_response)
        app.register_error_handler(AuraError, self.error)
        app.register_error_handler(HTTPException, self._http_error)
        app.register_error_handler(Exception, self._unexpected_error)

    def success(
        self,
        data: object = None,
        *,
        message: str = _SUCCESS,
        status: int = 200,
        agent_metadata: AgentMetadata | None = None,
    ) -> Response:
        """Return a SUCCESS envelope. Null fields are omitted, also `data`."""
        body: JsonObject = {
            "status": "SUCCESS",
            "message": message,
            "data": data,
            "success": True,
            "agentMetadata": agent_metadata,
        }
        return Response(self._envelope(body, g.get("trace_id")), status, content_type=_JSON)

    async def error(self, error: AuraError) -> Response:
        """Return an error response: an event stream on the stream path, unless the client prefers JSON; else JSON."""
        if error.status >= 500 and not isinstance(error, ServiceBusy):  # overload would log thousands of lines
            log.warning("request.failed", code=error.code, cause=error.log_cause)
        self._on_refused(error)
        # A stream that only says that there is nothing to resume is one for every client (§3).
        as_stream = _is_stream_path(request.path) and (error.status == 200 or not _prefers_json(request.headers))
        query = request.args if as_stream else None
        headers, chunks = self._encode_error(error, g.get("trace_id"), request.http_version, request.path, query)
        response = Response(_in_chunks(chunks) if as_stream else chunks[0], error.status)
        response.headers.update(headers)
        return response

    def prepare_error(self, error: AuraError, scope: HTTPScope, *, closes: bool = False) -> PreparedResponse:
        """Return the same error response, built from an ASGI scope before Quart has the request.

        With `closes` the connection ends with the response.
        """
        if 400 <= error.status < 500:
            log.info("request.refused", status=error.status, code=error.code, method=scope["method"], route=None)
        received = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        trace_id, path = _trace_id(received), scope["path"]
        as_stream = _is_stream_path(path) and not _prefers_json(received)
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"))) if as_stream else None
        headers, chunks = self._encode_error(error, trace_id, scope["http_version"], path, query)
        headers["X-Correlation-ID"] = trace_id
        if closes:
            headers["Connection"] = "close"
        if not as_stream:
            headers["Content-Length"] = str(len(chunks[0]))
        return PreparedResponse(error.status, headers, chunks)

    def _encode_error(
        self, error: AuraError, trace_id: str | None, http_version: str, path: str, query: Mapping[str, str] | None
    ) -> tuple[dict[str, str], list[bytes]]:
        """Return the headers and the chunks of the body; each chunk is one write.

        `query` is that of a request which is answered by a stream; None: by JSON.
        """
        if query is not None:
            headers = stream_headers(http_version)
            naming = naming_of_refused(query, self._names)
            chunks = error_frames(error, "", int(self._clock.now() * 1000), self._shape, naming)
        else:
            headers = {"Content-Type": _JSON, **_JSON_HEADERS}
            body: JsonObject = {"status": "ERROR", "message": error.message, "errorCode": error.code, "success": False}
            encoded = self._envelope(body, trace_id)
            if _is_stream_path(path) and b"id:" not in encoded:  # else the gateway puts a line with an id before it
                body["message"] = f"{error.message} (trace id: {trace_id})"
                encoded = self._envelope(body, trace_id)
            chunks = [encoded]
        if error.retry_after_seconds is not None:
            headers["Retry-After"] = str(error.retry_after_seconds)
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers, chunks

    def _envelope(self, body: JsonObject, trace_id: str | None) -> bytes:
        # The platform's services write local date-times without a zone.
        local_time = datetime.fromtimestamp(self._clock.now(), UTC).astimezone().replace(tzinfo=None)
        body |= {"timestamp": local_time.isoformat(timespec="seconds"), "traceId": trace_id}
        present = {name: value for name, value in body.items() if value is not None}
        return compact_json(present).encode("utf-8", "replace")

    async def _http_error(self, error: HTTPException) -> Response:
        response = await self.error(_as_aura_error(error))
        if isinstance(error, WrongMethod) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    async def _unexpected_error(self, error: Exception) -> Response:
        log.error("request.crashed", exc_info=error)
        return await self.error(AuraError())

    async def _bind_trace_id(self) -> None:
        g.trace_id = _trace_id(request.headers)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            traceId=g.trace_id,
            source=_short(request.headers.get("X-DWP-Source")),
            callerType=_short(request.headers.get("X-DWP-Caller-Type")),
        )

    async def _finish_response(self, response: Response) -> Response:
        if request.method == "OPTIONS" and response.status_code == 200:  # the allowed methods are in `Allow`
            response.status_code = 204
        if response.status_code == 204:  # RFC 9110: it has no content, and no length
            response.headers.pop("Content-Type", None)
            response.headers.pop("Content-Length", None)
        if response.mimetype == _JSON:
            for name, value in _JSON_HEADERS.items():
                response.headers.setdefault(name, value)
        response.headers["X-Correlation-ID"] = g.get("trace_id") or _trace_id(request.headers)
        return response


async def _in_chunks(frames: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the frames one by one, so that each is one write (§2.1)."""
    for frame in frames:
        yield frame


def stream_headers(http_version: str) -> dict[str, str]:
    """Return the headers of an event stream (§2): its media type, no buffering by proxies, a persistent connection."""
    headers = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    if http_version.startswith("1."):
        headers["Connection"] = "keep-alive"
    return headers


def _is_stream_path(path: str) -> bool:
    return path.rstrip("/") == STREAM_PATH


def _short(value: str | None) -> str | None:
    """Return what a log line keeps of a header that anybody may send."""
    return None if value is None else value[:_MAX_LOGGED_CHARACTERS]


def _prefers_json(headers: Headers) -> bool:
    accept = parse_accept_header(headers.get("Accept"), MIMEAccept)
    return accept[_JSON] > accept[MEDIA_TYPE]


def _trace_id(headers: Headers) -> str:
    """Return `X-Correlation-ID` or the trace id of `traceparent` where it is safe to log and return; else a new id."""
    correlation_id = headers.get("X-Correlation-ID", "")
    if _CORRELATION_ID.fullmatch(correlation_id):
        return correlation_id
    parent = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return parent[1] if parent else secrets.token_hex(16)


def _as_aura_error(error: HTTPException) -> AuraError:
    match error.code:
        case 404:
            return NotFound(f"{request.method} {request.path[:200]}")
        case 405:
            return MethodNotAllowed(
                f"{request.method} is not allowed for this path; the Allow header lists the methods that are"
            )
        case 408:
            return RequestTimedOut("the request body did not arrive in time; send the request again")
        case 413:
            return BodyTooLarge(BODY_LIMIT_BYTES)
        case code if code is not None and 400 <= code < 500:
            return RequestMalformed(error.description or error.name)
        case _:
            return AuraError()
