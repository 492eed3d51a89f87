"""HTTP to the model's server: httpx2's transport on aiohttp, whose parser is C (measured: tests/bench).

Knows nothing of models. Pools connections; timeouts, proxies, certificates and errors are as httpx2 has them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache, partial
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from yarl import URL


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Opens its session with the first request: it belongs to that event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self.prepared(request).send(await request.aread())

    def prepared(self, request: httpx2.Request) -> Prepared:
        """The request, to be sent as often as one likes. Wants a running event loop."""
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=httpx2.create_ssl_context(), limit=0)
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

    async def send(self, body: bytes) -> httpx2.Response:
        """The answer, when its head has come; its `stream` is a `Body`. Raises `httpx2.HTTPError`."""
        with _httpx_errors(self._request):
            response = await self._send(data=body)
        stream = Body(response, self._request)
        return httpx2.Response(response.status, headers=response.raw_headers, stream=stream, request=self._request)


class Body(httpx2.AsyncByteStream):
    """What has arrived, as soon as it is asked for, in one piece. Until it is, the kernel keeps it: nobody wakes up."""

    def __init__(self, response: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._response = response
        self._request = request

    @property
    def is_whole(self) -> bool:
        """All of it has arrived, and the connection is free for the next request."""
        return self._response.connection is None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors(self._request):
            async for piece in self._response.content.iter_any():
                connection = self._response.connection
                if connection is None or connection.protocol is None:  # that was the last
                    yield piece
                    continue
                connection.protocol.pause_reading()
                yield piece
                connection.protocol.resume_reading()

    async def aclose(self) -> None:
        """Keeps the connection for the next request only where all of this one's answer has been read."""
        self._response.release()


@cache
def _proxy(scheme: str, host: str) -> str | None:
    """The environment's, looked up once: aiohttp itself would ask a thread for it at every request."""
    proxies = getproxies()
    return None if proxy_bypass(host) else proxies.get(scheme) or proxies.get("all")


@contextmanager
def _httpx_errors(request: httpx2.Request) -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx2.ConnectTimeout(str(error), request=request) from error
    except TimeoutError as error:
        raise httpx2.ReadTimeout(str(error), request=request) from error
    except aiohttp.ClientConnectorError as error:
        raise httpx2.ConnectError(str(error), request=request) from error
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise httpx2.UnsupportedProtocol(str(error), request=request) from error
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientResponseError) as error:
        raise httpx2.RemoteProtocolError(str(error), request=request) from error
    except (aiohttp.ClientError, OSError) as error:
        raise httpx2.ReadError(str(error), request=request) from error
