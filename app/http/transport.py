"""HTTP to the model's server: httpx2's transport on aiohttp, whose parser is C (measured: tests/bench).

Knows nothing of models. Pools connections; timeouts, proxies, certificates and errors are as httpx2 has them.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from functools import cache, partial
from typing import cast
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from yarl import URL


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Opens its session with the first request: it belongs to that event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return (await self.prepared(request).send(await request.aread())).as_response()

    def prepared(self, request: httpx2.Request) -> Prepared:
        """The request, to be sent as often as one likes. Wants a running event loop."""
        if self._session is None:
            connector = _Connector(ssl=httpx2.create_ssl_context(), limit=0)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
        return Prepared(self._session, request)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class Prepared:
    """A request but for its body: all that is the same each time is worked out once."""

    def __init__(self, session: aiohttp.ClientSession, request: httpx2.Request) -> None:
        seconds = request.extensions.get("timeout", {})
        headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() != "content-length"]
        self._request = request
        self._send = partial(
            session.request,
            request.method,
            URL(str(request.url), encoded=True),
            headers=headers,  # each body has a length of its own
            allow_redirects=False,
            proxy=_proxy(request.url.scheme, request.url.host),
            timeout=aiohttp.ClientTimeout(sock_connect=seconds.get("connect"), sock_read=seconds.get("read")),
        )

    async def send(self, body: bytes) -> Answer:
        """The answer, when its head has come. Raises `httpx2.HTTPError`."""
        try:
            return Answer(await self._send(data=body), self._request)
        except _TROUBLE as error:
            raise _translated(error, self._request) from error


class Answer(httpx2.AsyncByteStream):
    """Its body is what has arrived, as soon as it is asked for, in one piece. Until it is, the kernel keeps it: nobody
    wakes up."""

    def __init__(self, response: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._response = response
        self._request = request

    @property
    def is_success(self) -> bool:
        return 200 <= self._response.status < 300

    @property
    def headers(self) -> Mapping[str, str]:
        """By their names in any case."""
        return self._response.headers

    @property
    def is_whole(self) -> bool:
        """All of it has arrived, and the connection is free for the next request."""
        return self._response.connection is None

    def as_response(self) -> httpx2.Response:
        """The same, as httpx2 has it: which also decodes the body."""
        return httpx2.Response(
            self._response.status, headers=self._response.raw_headers, stream=self, request=self._request
        )

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.content.iter_any():
                connection = None if self._response.connection is None else self._response.connection.protocol
                if connection is None:  # that was the last
                    yield piece
                    continue
                held = cast("_Connection", connection)
                held.hold()
                yield piece
                held.go_on()
        except _TROUBLE as error:
            raise _translated(error, self._request) from error

    async def aclose(self) -> None:
        """Keeps the connection for the next request only where all of this one's answer has been read."""
        self._response.release()


class _Connector(aiohttp.TCPConnector):
    """Its connections are `_Connection`s."""

    def __init__(self, *, ssl: ssl.SSLContext, limit: int) -> None:
        super().__init__(ssl=ssl, limit=limit)
        self._factory = cast("partial[ResponseHandler]", partial(_Connection, loop=self._loop))


class _Connection(ResponseHandler):
    """aiohttp's own pause makes its parser stop after the next chunk, and to go on is said again after each chunk that
    is read: a quarter of what an answer of many chunks takes (tests/bench). And whoever reads an answer in whose middle
    is no HTTP would wait for ever: it is told to nobody but the next request."""

    def hold(self) -> None:
        """What comes stays in the kernel, and that nothing comes is nobody's fault."""
        self._pause_transport_reading()
        self._drop_timeout()

    def go_on(self) -> None:
        if not self._reading_paused:
            self._resume_transport_reading()
            self._reschedule_timeout()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        super().set_exception(exc, exc if exc_cause is None else exc_cause)
        if isinstance(exc, HttpProcessingError) and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(aiohttp.ClientPayloadError(str(exc)), exc)


@cache
def _proxy(scheme: str, host: str) -> str | None:
    """The environment's, looked up once: aiohttp itself would ask a thread for it at every request."""
    proxies = getproxies()
    return None if proxy_bypass(host) else proxies.get(scheme) or proxies.get("all")


_TROUBLE = (aiohttp.ClientError, TimeoutError, OSError)
"""What aiohttp raises; the words for it are httpx2's."""


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
