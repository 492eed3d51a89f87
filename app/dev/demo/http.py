"""A small HTTP/1.1 server on asyncio streams for the stand-ins: keep-alive, fixed-length and chunked responses.

It supports only what well-behaved local clients need. It must cost little CPU, because benchmarks run against it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

_HEAD_LIMIT_BYTES = 64 * 1024
_BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Header names are in lower case; the last value of a repeated header is kept."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises `ValueError` where the body is not JSON."""
        return json.loads(self.body)


class Response:
    """The response to one request: call `json()`, or `begin()`, any number of `write()`, then `end()`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.is_complete = False
        """Whether the whole response was sent, so that the connection can be used for the next request."""

    async def json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        body = text.encode(errors="backslashreplace")  # half a surrogate pair is sent as JSON's escape of it
        fields = {"Content-Type": "application/json; charset=utf-8", **(headers or {}), "Content-Length": len(body)}
        self._writer.write(_head(status, fields) + body)
        await self._writer.drain()
        self.is_complete = True

    async def begin(self, content_type: str) -> None:
        """Send the head of a chunked response with status 200."""
        fields = {"Content-Type": content_type, "Cache-Control": "no-cache", "Transfer-Encoding": "chunked"}
        self._writer.write(_head(200, fields))

    async def write(self, piece: bytes) -> None:
        """Send one chunk at once. Raises `ConnectionError` where the client has disconnected."""
        if self._writer.is_closing():  # uvloop raises a RuntimeError here instead
            raise ConnectionResetError("the client has disconnected")
        self._writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        self.is_complete = True

    async def cut(self) -> None:
        """Close the connection before the end of the response; what was written is still delivered."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def wait_until_client_closes(self) -> None:
        """Wait until the client closes its side of the connection."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(1024):
                pass


Handler = Callable[[Request, Response], Awaitable[None]]


class HttpServer:
    """The server on a free port of 127.0.0.1; also an async context manager."""

    def __init__(self, handler: Handler) -> None:
        """`handler` responds to each request; if it returns before the response is complete, the connection closes."""
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def origin(self) -> str:
        """The base address `http://127.0.0.1:{port}`. Raises `RuntimeError` where the server is not started."""
        if self._server is None:
            raise RuntimeError("the server is not started")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> Self:
        self._server = await asyncio.start_server(
            self._connection, "127.0.0.1", 0, limit=_HEAD_LIMIT_BYTES, backlog=_BACKLOG
        )
        return self

    async def stop(self) -> None:
        """Close the listening socket and every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # A client may disconnect at any time, and stop() cancels this task and waits for it.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request; return whether the connection can be used for another one."""
        response = Response(reader, writer)
        try:
            request = await _read(reader)
        except (ValueError, asyncio.LimitOverrunError) as error:
            await response.json(400, {"error": {"message": f"malformed request: {error}"}}, {"Connection": "close"})
            return False
        await self._handler(request, response)
        return response.is_complete and request.headers.get("connection", "").lower() != "close"


async def _read(reader: asyncio.StreamReader) -> Request:
    """Read a request. Raises `ValueError` if it is malformed, `IncompleteReadError` if the client disconnected."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head[:-4].split("\r\n")
    method, target, _ = request_line.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if "transfer-encoding" in headers:
        raise ValueError("send a Content-Length, not a Transfer-Encoding")
    url = urlsplit(target)
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, unquote(url.path), dict(parse_qsl(url.query)), headers, body)


def _head(status: int, fields: Mapping[str, object]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class StandIn(ABC):
    """A service with its own HTTP server, in place of a real one; also an async context manager."""

    def __init__(self) -> None:
        self._http = HttpServer(self._handle)

    @abstractmethod
    async def _handle(self, request: Request, response: Response) -> None:
        """Respond to one request."""

    async def start(self) -> Self:
        await self._http.start()
        return self

    async def stop(self) -> None:
        await self._http.stop()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
