"""One HTTP exchange, as Quart has it, but for streams: an open one keeps nothing of its request, and no task but the
one that hears the client leave. Thousands of them may wait for a person."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPResponseBodyEvent, HTTPScope
from quart import Quart, Response
from quart.asgi import ASGIHTTPConnection
from quart.utils import encode_headers

from app.web.responses import REST_SECONDS, PreparedResponse
from app.web.sse import CLIENT_WRITER, ClientWriter, EventStream

if TYPE_CHECKING:
    from quart.typing import ResponseTypes

_LAST: HTTPResponseBodyEvent = {"type": "http.response.body", "body": b"", "more_body": False}


class StreamResponse(Response):
    """A response whose head is Quart's business, and whose body is not."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(b"")
        self.stream = stream
        self.timeout = None  # Quart would set a timer, and make a task for it
        del self.headers["Content-Length"]


class HttpConnection(ASGIHTTPConnection):
    """`Quart.asgi_http_class`. Whom `shed_load` has an answer for is given that, and nothing else is done for him."""

    _stream: EventStream | None = None
    _is_left = False

    def __init__(self, app: Quart, scope: HTTPScope, shed_load: Callable[[HTTPScope], PreparedResponse | None]) -> None:
        super().__init__(app, scope)
        self._turn_away = shed_load

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        told = self._turn_away(self.scope)
        if told is not None:
            await _dismiss(told, receive, send)
            return
        await self._answer(receive, send)
        if self._stream is None or self._is_left:
            return
        line = self.scope.get("state", {}).get(CLIENT_WRITER)
        self._stream.begin(_Messages(send) if line is None else cast("ClientWriter", line), partial(send, _LAST))
        try:
            while (await receive())["type"] != "http.disconnect":  # which is also said after the last byte
                pass
        finally:
            self._stream.close()

    async def _answer(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """In this task, where Quart would make one of its own; a client who leaves ends it."""
        request, task = self._create_request_from_scope(send), cast("asyncio.Task[None]", asyncio.current_task())
        listener, is_answering = asyncio.create_task(self.handle_messages(request, receive)), True

        def heard(listener: asyncio.Task[None]) -> None:
            self._is_left = not listener.cancelled()
            if self._is_left and is_answering:
                task.cancel()

        listener.add_done_callback(heard)
        try:
            await self.handle_request(request, send)
        except asyncio.CancelledError:
            if not self._is_left:
                raise
            task.uncancel()
        finally:
            is_answering = False
            listener.cancel()
            await asyncio.wait([listener])

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        if not isinstance(response, StreamResponse):
            await super()._send_response(send, response)
            return
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": encode_headers(response.headers),
            }
        )
        self._stream = response.stream


async def _dismiss(told: PreparedResponse, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """With the rest of his body read away: else the connection is reset, and he never sees the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REST_SECONDS):
            while (message := await receive())["type"] == "http.request" and message["more_body"]:
                pass
    headers = [(name.lower().encode(), value.encode()) for name, value in told.headers.items()]
    await send({"type": "http.response.start", "status": told.status, "headers": headers})
    for piece in told.chunks:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send(_LAST)


class _Messages:
    """The way to a client of any other server than ours: a message each, that is waited for."""

    is_gone = False
    """Nobody can tell."""

    def __init__(self, send: ASGISendCallable) -> None:
        self._send = send
        self._unsent: list[bytes] = []

    @property
    def is_writable(self) -> bool:
        return not self._unsent

    def write(self, data: bytes) -> None:
        self._unsent.append(data)

    async def drain(self) -> None:
        while self._unsent:
            await self._send({"type": "http.response.body", "body": self._unsent[0], "more_body": True})
            del self._unsent[0]
