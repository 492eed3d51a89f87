"""HTTP to a remote MCP server, so that no error of the transport ends the connection and no answer is without a limit.

The SDK lets an error of one request cancel all of its work. So each becomes an answer of that request alone: an error
of JSON-RPC, with a mark that no server can know, and with what is certain: whether anything was sent.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2

from app.tools.mcp.inflow import MAX_MESSAGE_BYTES, Flood, Inflow

CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 330.0
"""A stream of changes may be silent; proxies and servers send something more often than every five minutes."""
_CONNECTION_ERROR = -32000
_READABLE = ("application/json", "text/event-stream")
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


class RemoteTransport(httpx2.AsyncBaseTransport):
    """A transport that raises nothing, and bounds each answer. It belongs to one server."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, on_flood: Callable[[str], None]) -> None:
        self._inner = inner
        self._on_flood = on_flood
        self._mark = secrets.token_hex(16)
        self._inflow = Inflow()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["Accept-Encoding"] = "identity"  # the limits count what arrives
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError as error:
            return self._failure(request, 502, type(error).__name__, was_sent=not isinstance(error, _NOT_SENT))
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            return self._failure(request, 502, "the answer is compressed, which was not accepted", was_sent=True)
        response.stream = _BoundedBody(response, self._inflow, self._on_flood)
        if response.status_code >= 400:
            return await self._refusal(request, response)
        kind = response.headers.get("content-type", "").lower()
        if request.method == "POST" and response.status_code == 200 and not kind.startswith(_READABLE):
            await response.aclose()
            return self._failure(request, 502, "the answer is neither JSON nor a stream of events", was_sent=True)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    def failure_of(self, data: Any) -> dict[str, Any] | None:
        """Return what this transport knows of an error, by its `data`; None if the error is the server's own.

        It has `was_sent` and, if the server answered, `status`.
        """
        return data if isinstance(data, dict) and data.get("mark") == self._mark else None

    async def _refusal(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """Return the error answer; one that is not JSON-RPC is replaced by one that has its status and its headers."""
        try:
            body = await response.aread()
        except httpx2.HTTPError:
            body = b""
        headers = {k: v for k, v in response.headers.items() if k.lower() in ("www-authenticate", "retry-after")}
        kind = response.headers.get("content-type", "")
        if kind.lower().startswith("application/json") and b'"error"' in body and b'"jsonrpc"' in body:
            return httpx2.Response(
                response.status_code, request=request, content=body, headers={**headers, "Content-Type": kind}
            )
        if response.status_code == 404:  # the SDK reads from it that a session has ended
            return httpx2.Response(404, request=request, headers=headers)
        cause = f"HTTP status {response.status_code}"
        return self._failure(
            request, response.status_code, cause, was_sent=True, headers=headers, status=response.status_code
        )

    def _failure(
        self,
        request: httpx2.Request,
        status_code: int,
        cause: str,
        *,
        was_sent: bool,
        headers: dict[str, str] | None = None,
        status: int | None = None,
    ) -> httpx2.Response:
        data = {"mark": self._mark, "was_sent": was_sent, "status": status}
        error = {"code": _CONNECTION_ERROR, "message": cause, "data": data}
        body = {"jsonrpc": "2.0", "id": None, "error": error}
        return httpx2.Response(status_code, request=request, json=body, headers=headers)


class _BoundedBody(httpx2.AsyncByteStream):
    """The body of an answer. Over a limit, or when the connection breaks, it raises what the SDK survives."""

    def __init__(self, response: httpx2.Response, inflow: Inflow, on_flood: Callable[[str], None]) -> None:
        self._inner: Any = response.stream
        self._inflow = inflow
        self._on_flood = on_flood
        is_stream = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        self._limit = math.inf if is_stream else MAX_MESSAGE_BYTES  # the SDK bounds each event of a stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        try:
            async for chunk in self._inner:
                received += len(chunk)
                if received > self._limit:
                    raise httpx2.StreamError(f"the answer has more than {MAX_MESSAGE_BYTES // 1024} KiB")
                self._inflow.count(len(chunk), chunk.count(b"data:"))
                yield chunk
        except httpx2.TransportError as error:
            raise httpx2.StreamError(type(error).__name__) from error
        except Flood as error:
            self._on_flood(str(error))
            raise httpx2.StreamError(str(error)) from error

    async def aclose(self) -> None:
        await self._inner.aclose()


def http_client(
    transport: RemoteTransport, headers: dict[str, str], auth: httpx2.Auth | None = None
) -> httpx2.AsyncClient:
    """Return a client that uses no proxy of the environment and follows no redirect to another origin."""
    return httpx2.AsyncClient(
        transport=transport,
        headers=headers,
        auth=auth,
        timeout=httpx2.Timeout(CONNECT_SECONDS, read=_IDLE_SECONDS),
        trust_env=False,
        follow_redirects=False,
    )


def remote_transport(on_flood: Callable[[str], None]) -> RemoteTransport:
    return RemoteTransport(httpx2.AsyncHTTPTransport(trust_env=False), on_flood)
