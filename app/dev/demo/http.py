"""A small HTTP/1.1 server on raw asyncio, for the demo's stand-ins: keep-alive, fixed and chunked answers.

Only what well-behaved local clients need; it must cost next to nothing beside what is measured through it.
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
    """One request as it came in. Header names are lower case; of repeated ones the last counts."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises `ValueError` where the body is not JSON."""
        return json.loads(self.body)


class Response:
    """The answer to one request: either `json()`, or `begin()`, any number of `write()`, then `end()`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.is_complete = False
        """Whether the client has all of it, so that the connection can carry the next request."""

    async def json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        fields = {"Content-Type": "application/json; charset=utf-8", **(headers or {}), "Content-Length": len(body)}
        self._writer.write(_head(status, fields) + body)
        await self._writer.drain()
        self.is_complete = True

    async def begin(self, content_type: str) -> None:
        """The head of a 200 whose body comes in pieces."""
        fields = {"Content-Type": content_type, "Cache-Control": "no-cache", "Transfer-Encoding": "chunked"}
        self._writer.write(_head(200, fields))

    async def write(self, piece: bytes) -> None:
        """One piece, sent at once. Raises `ConnectionError` when the client has left."""
        if self._writer.is_closing():  # uvloop's own error is none of the connection's
            raise ConnectionResetError("the client has left")
        self._writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        self.is_complete = True

    async def cut(self) -> None:
        """Close the connection in the middle of the answer; what was written still arrives."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def wait_until_client_closes(self) -> None:
        """Wait until the client closes its end."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(1024):
                pass


Handler = Callable[[Request, Response], Awaitable[None]]


class HttpServer:
    """The server, also an async context manager: 127.0.0.1, any free port."""

    def __init__(self, handler: Handler) -> None:
        """`handler` answers each request; one that returns without a whole answer closes the connection."""
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:{port}`; the server must have started."""
        if self._server is None:
            raise RuntimeError("the server is not started")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> Self:
        self._server = await asyncio.start_server(
            self._connection, "127.0.0.1", 0, limit=_HEAD_LIMIT_BYTES, backlog=_BACKLOG
        )
        return self

    async def stop(self) -> None:
        """Close the port and every connection."""
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
            # A client that leaves is no error; neither is stop(), which cancels this task and waits for it.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection can go on."""
        response = Response(reader, writer)
        try:
            request = await _read(reader)
        except (ValueError, asyncio.LimitOverrunError) as error:
            await response.json(400, {"error": {"message": f"malformed request: {error}"}}, {"Connection": "close"})
            return False
        await self._handler(request, response)
        return response.is_complete and request.headers.get("connection", "").lower() != "close"


async def _read(reader: asyncio.StreamReader) -> Request:
    """The next request. Raises `ValueError` (malformed) or `IncompleteReadError` (the client has left)."""
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
    """A service on an HTTP server of its own, in place of a real one; also an async context manager."""

    def __init__(self) -> None:
        self._http = HttpServer(self._handle)

    @abstractmethod
    async def _handle(self, request: Request, response: Response) -> None:
        """Answer one request."""

    async def start(self) -> Self:
        await self._http.start()
        return self

    async def stop(self) -> None:
        await self._http.stop()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
