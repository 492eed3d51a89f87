"""HTTP for outgoing requests: an httpx2 transport on aiohttp, whose parser is written in C (measured: tests/bench).

It pools connections. Timeouts, proxies, certificates and errors behave as httpx2's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import cache, partial
from types import SimpleNamespace
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from yarl import URL

from app.http.aiohttp_internals import PausableConnection, create_connector


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """A transport that opens its aiohttp session with the first request, in the event loop of that request."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return (await self.prepare(request).send(await request.aread())).as_response()

    def prepare(self, request: httpx2.Request, *, may_repeat: bool = False) -> PreparedRequest:
        """Prepare a request that can be sent any number of times. Needs a running event loop.

        With `may_repeat`, it is sent again on another connection where the server has closed one that it had kept open.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=create_connector(httpx2.create_ssl_context()),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trace_configs=[_trace_reuse()],
            )
        return PreparedRequest(self._session, request, may_repeat=may_repeat)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class PreparedRequest:
    """A request without its body. All that is the same for each body is computed once."""

    def __init__(self, session: aiohttp.ClientSession, request: httpx2.Request, *, may_repeat: bool = False) -> None:
        seconds = request.extensions.get("timeout", {})
        headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() != "content-length"]
        self._request = request
        self._may_repeat = may_repeat
        self._send = partial(
            session.request,
            request.method,
            URL(str(request.url), encoded=True),
            headers=headers,  # without the length, which each body has for itself
            allow_redirects=False,
            proxy=_proxy(request.url.scheme, request.url.host),
            timeout=aiohttp.ClientTimeout(sock_connect=seconds.get("connect"), sock_read=seconds.get("read")),
        )

    async def send(self, body: bytes) -> StreamedResponse:
        """Send the request with `body`; return the response when its head has arrived. Raises `httpx2.HTTPError`."""
        while True:
            connection = _Connection()
            try:
                return StreamedResponse(await self._send(data=body, trace_request_ctx=connection), self._request)
            except _AIOHTTP_ERRORS as error:
                is_closed = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError)
                if not (is_closed and connection.is_reused and self._may_repeat):
                    raise _translated(error, self._request) from error


class _Connection:
    """The connection of one request. `is_reused`: it has served another request before.

    A server may close such a connection at any time, also while the next request is on its way (RFC 9112 §9.3.1).
    llama.cpp closes it after each stream, although it promises to keep it open.
    """

    is_reused = False


def _trace_reuse() -> aiohttp.TraceConfig:
    async def on_reuse(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.is_reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(on_reuse)
    return trace


class StreamedResponse(httpx2.AsyncByteStream):
    """A response whose head has arrived.

    Iterating over it yields all bytes of the body that have arrived since the last step, as one piece. Between two
    steps further bytes stay in the kernel, so that the process does not wake up for each packet.
    """

    def __init__(self, response: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._response = response
        self._request = request

    @property
    def is_success(self) -> bool:
        return 200 <= self._response.status < 300

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; their names are case-insensitive."""
        return self._response.headers

    @property
    def is_complete(self) -> bool:
        """Whether the whole body has arrived; its connection serves the next request then."""
        return self._response.connection is None

    def as_response(self) -> httpx2.Response:
        """Return it as httpx2's response, which also decodes the body."""
        return httpx2.Response(
            self._response.status, headers=self._response.raw_headers, stream=self, request=self._request
        )

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.content.iter_any():
                protocol = None if self._response.connection is None else self._response.connection.protocol
                if not isinstance(protocol, PausableConnection):  # the last piece, or the fallback
                    yield piece
                    continue
                protocol.pause()
                yield piece
                protocol.resume()
        except _AIOHTTP_ERRORS as error:
            raise _translated(error, self._request) from error

    async def aclose(self) -> None:
        """Release the connection. It serves the next request only if the whole body was read."""
        self._response.release()


@cache
def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names, looked up once; aiohttp would look it up in a thread for every request."""
    proxies = getproxies()
    return None if proxy_bypass(host) else proxies.get(scheme) or proxies.get("all")


_AIOHTTP_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)
"""What aiohttp raises. Callers see httpx2's errors instead."""


def _translated(error: Exception, request: httpx2.Request) -> httpx2.HTTPError:
    match error:
        case aiohttp.ConnectionTimeoutError():
            kind: type[httpx2.RequestError] = httpx2.ConnectTimeout
        case TimeoutError():
            kind = httpx2.ReadTimeout
        case aiohttp.ClientConnectorError():
            kind = httpx2.ConnectError
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            kind = httpx2.UnsupportedProtocol
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientResponseError():
            kind = httpx2.RemoteProtocolError
        case _:
            kind = httpx2.ReadError
    return kind(str(error), request=request)
