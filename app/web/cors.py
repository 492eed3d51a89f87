"""Cross-origin requests of browsers (CORS), for the origins in `AURA_CORS_ORIGINS`; off by default.

quart-cors was tried. It adds its headers to what Quart answers, so a browser could not read the refusals that are sent
before Quart has the request; these few lines cover both. No cookie is ever used, so credentials are not allowed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hypercorn.typing import HTTPScope
from quart import Quart, Response, request

from app.web.responses import PreparedResponse

_SENT_HEADERS = (
    "Accept, Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, X-Agent-ID, X-Correlation-ID,"
    " X-DWP-Caller-Type, X-DWP-Source, X-Session-ID, X-Tenant-ID, X-User-ID, traceparent"
)
_READ_HEADERS = "Retry-After, X-Correlation-ID, X-Session-ID"
_METHODS = "GET, HEAD, POST, DELETE"
_MAX_AGE_SECONDS = 600

Check = Callable[[HTTPScope], Awaitable[PreparedResponse | None]]


class CorsPolicy:
    """Which origins may read answers. Requests of others are answered too, but their browsers do not show it."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    def install(self, app: Quart) -> None:
        """Add the headers to every answer of an app; without any origin nothing is added."""
        if self._origins:
            app.after_request(self._finish_response)

    def covers(self, check: Check) -> Check:
        """Return the check of a request, with the headers in the responses that it makes."""

        async def covered(scope: HTTPScope) -> PreparedResponse | None:
            response = await check(scope)
            if response is not None and self._origins:
                sent = (value.decode("latin-1") for name, value in scope["headers"] if name == b"origin")
                response.headers.update(self._headers(next(sent, None)))
                response.headers["Vary"] = "Origin"
            return response

        return covered

    def _headers(self, origin: str | None) -> dict[str, str]:
        if origin not in self._origins:
            return {}
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _READ_HEADERS}

    async def _finish_response(self, response: Response) -> Response:
        headers = self._headers(request.headers.get("Origin"))
        if headers and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            headers |= {
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _SENT_HEADERS,
                "Access-Control-Max-Age": str(_MAX_AGE_SECONDS),
            }
        response.headers.update(headers)
        response.vary.add("Origin")  # a cache must not give one origin's answer to another
        return response
