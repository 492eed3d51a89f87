"""One HTTP exchange over ASGI, in place of Quart's own `ASGIHTTPConnection`.

Thousands of streams may be open and wait for a decision, so an open stream keeps neither its request nor a task besides
the one that waits for the client's disconnect. Only public names of Quart are used: its own class changes from version
to version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPResponseBodyEvent, HTTPScope
from quart import Quart, Response
from quart.utils import encode_headers
from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response as WerkzeugResponse

from app.web.requests import BodyBudget, IncomingRequest, RequestBody
from app.web.responses import REST_SECONDS, PreparedResponse
from app.web.sse import CLIENT_WRITER, ClientWriter, EventStream

if TYPE_CHECKING:
    from quart.typing import ResponseTypes

_END_OF_BODY: HTTPResponseBodyEvent = {"type": "http.response.body", "body": b"", "more_body": False}


class StreamResponse(Response):
    """A response whose head is sent as Quart's responses are; `HttpConnection` then starts `stream` as its body."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(b"")
        self.stream = stream
        del self.headers["Content-Length"]


class HttpConnection:
    """An ASGI application for one HTTP request, as `Quart.asgi_http_class` takes it.

    A request for which `shed_load` returns a response is rejected with it before anything of it is parsed. Its body
    counts in `bodies`.
    """

    def __init__(
        self,
        app: Quart,
        scope: HTTPScope,
        shed_load: Callable[[HTTPScope], Awaitable[PreparedResponse | None]],
        bodies: BodyBudget,
    ) -> None:
        self._app = app
        self._scope = scope
        self._shed_load = shed_load
        self._bodies = bodies
        self._is_disconnected = False

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        rejection = await self._shed_load(self._scope)
        if rejection is not None:
            await _reject(rejection, receive, send)
            return
        stream = await self._respond(receive, send)
        if stream is None:
            return
        if self._is_disconnected:
            stream.discard()
            return
        writer = self._scope.get("state", {}).get(CLIENT_WRITER)
        stream.begin(
            _MessageWriter(send) if writer is None else cast("ClientWriter", writer), partial(send, _END_OF_BODY)
        )
        try:
            while (await receive())["type"] != "http.disconnect":  # which also follows the last byte of the response
                pass
        finally:
            stream.close()

    async def _respond(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> EventStream | None:
        """Handle the request and send the response, in this task. A client that disconnects cancels the handler.

        Returns the stream that is to be the body of the response, if it is to be one; its head is sent then.
        """
        request, task = IncomingRequest.from_scope(self._app, self._scope), _current_task()
        request.body.share(self._bodies)
        receiver, is_responding = asyncio.create_task(_receive_body(request.body, receive)), True

        def on_receiver_done(receiver: asyncio.Task[None]) -> None:
            self._is_disconnected = not receiver.cancelled()
            if self._is_disconnected and is_responding:
                task.cancel()

        receiver.add_done_callback(on_receiver_done)
        try:
            return await self._send_response(await self._app.handle_request(request), request.body, send)
        except asyncio.CancelledError:
            if not self._is_disconnected:
                raise
            task.uncancel()
            return None
        finally:
            is_responding = False
            self._bodies.release(request.body)
            receiver.cancel()
            await asyncio.wait([receiver])

    async def _send_response(
        self, response: ResponseTypes, body: RequestBody, send: ASGISendCallable
    ) -> EventStream | None:
        """Send a response. Only its end, which has no bytes, waits for the rest of a body that nobody has read."""
        if isinstance(response, StreamResponse):
            try:
                await _send_head(response.status_code, response.headers, send)
            except BaseException:
                response.stream.discard()
                raise
            return response.stream
        limit = getattr(response, "timeout", ...)
        seconds = self._app.config["RESPONSE_TIMEOUT"] if limit is ... else limit
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await _send_head(response.status_code, response.headers, send)
                await _send_body(response, send)
                await body.discard_rest(REST_SECONDS)
                await send(_END_OF_BODY)
        return None


def _current_task() -> asyncio.Task[None]:
    return cast("asyncio.Task[None]", asyncio.current_task())


async def _receive_body(body: RequestBody, receive: ASGIReceiveCallable) -> None:
    """Fill the body; return when the client has disconnected."""
    while (message := await receive())["type"] != "http.disconnect":
        if message["type"] == "http.request":
            body.append(message.get("body", b""))
            if not message.get("more_body", False):
                body.set_complete()


async def _send_head(status: int, headers: Headers, send: ASGISendCallable) -> None:
    await send({"type": "http.response.start", "status": status, "headers": encode_headers(headers)})


async def _send_body(response: ResponseTypes, send: ASGISendCallable) -> None:
    """Send each piece of the body as a message of its own."""
    if isinstance(response, WerkzeugResponse):
        for piece in response.iter_encoded():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    else:
        async with response.response as pieces:
            async for data in pieces:
                piece = data.encode() if isinstance(data, str) else data
                await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _reject(rejection: PreparedResponse, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Send the response at once, and end it when the client has sent the body: its connection may be reset before."""
    headers = [(name.lower().encode(), value.encode()) for name, value in rejection.headers.items()]
    await send({"type": "http.response.start", "status": rejection.status, "headers": headers})
    for piece in rejection.chunks:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(REST_SECONDS):
            while (message := await receive())["type"] == "http.request" and message["more_body"]:
                pass
    await send(_END_OF_BODY)


class _MessageWriter:
    """The `ClientWriter` for a server that offers none: every write is an ASGI message, sent by `drain`."""

    is_gone = False
    """ASGI gives no way to know before `abort`."""

    def __init__(self, send: ASGISendCallable) -> None:
        self._send = send
        self._unsent: list[bytes] = []
        self.taken_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        return sum(map(len, self._unsent))

    @property
    def is_writable(self) -> bool:
        return not self._unsent

    def write(self, data: bytes) -> None:
        self._unsent.append(data)

    def abort(self) -> None:
        """Write nothing more; ASGI gives no way to end the connection."""
        self.is_gone = True

    async def drain(self) -> None:
        while self._unsent:
            await self._send({"type": "http.response.body", "body": self._unsent[0], "more_body": True})
            self.taken_bytes += len(self._unsent[0])
            del self._unsent[0]
