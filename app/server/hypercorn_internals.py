"""Every private name of Hypercorn that the service uses: HTTP/1.1 only, and bytes past h11.

Tried with hypercorn 0.18.0 on CPython 3.11, 3.12 and 3.13; pyproject.toml excludes 0.19. The names:

- `hypercorn.protocol.H11Protocol`: the global in which `ProtocolWrapper` looks up the class for HTTP/1.1. There is no
  public way to hand over another class, so the global is replaced while a server runs.
- `H11Protocol._check_protocol`, `_create_stream`, `_send_error_response`, and its undocumented `stream`, `connection`,
  `connection_state`, `send`, `handle` and `stream_send`.
- `TCPServer.writer`, found through `H11Protocol.send`, which is the bound method `TCPServer.protocol_send`.

Where one of them is missing, `serve_app` logs `server.fallback_chosen` and serves with Hypercorn's own protocol.
Streams are then sent as ASGI messages, which costs more CPU for each frame; HTTP/2 is accepted,
which has no back-pressure; a client that does not read may delay the exit of the process until it disconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import sys
import termios
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import h11
import hypercorn.protocol
import structlog
from hypercorn.asyncio import serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed
from hypercorn.events import Event as ServerEvent
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response as HttpResponse
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState

from app.web.sse import CLIENT_WRITER, STALL_SECONDS

if TYPE_CHECKING:
    from hypercorn.typing import Framework

_MAX_BUFFERED_BYTES = 64 * 1024
"""Bytes that are buffered for a client that does not read, before writers wait; asyncio's own default."""

log = structlog.get_logger(__name__)


async def serve_app(app: Any, config: Config, shutdown_trigger: Callable[[], Awaitable[object]]) -> None:
    """Serve an ASGI application as `hypercorn.asyncio.serve` does, over HTTP/1.1 only.

    Each connection offers its `ClientWriter` in `scope["state"][CLIENT_WRITER]`.
    """
    with _http1_only():
        await serve(cast("Framework", app), config, shutdown_trigger=shutdown_trigger)


def missing_names() -> list[str]:
    """The names of this module's docstring that the installed Hypercorn lacks, or has in another form."""
    looked_up = hypercorn.protocol.ProtocolWrapper.__init__.__code__.co_names
    is_there = {
        "hypercorn.protocol.H11Protocol": "H11Protocol" in looked_up,
        "TCPServer.protocol_send": "protocol_send" in TCPServer.run.__code__.co_names,
        "TCPServer.writer": "writer" in TCPServer.__init__.__code__.co_names,
        "H11Protocol.__init__": list(inspect.signature(H11Protocol.__init__).parameters)[-1] == "send",
        **{
            f"H11Protocol.{name}": _is_coroutine_method(H11Protocol, name)
            for name in ("_check_protocol", "_create_stream", "_send_error_response", "handle", "stream_send")
        },
        **{
            f"H11Protocol.{name}": name in H11Protocol.__init__.__code__.co_names
            for name in ("connection", "connection_state", "send", "stream")
        },
    }
    return [name for name, found in is_there.items() if not found]


def _is_coroutine_method(owner: type, name: str) -> bool:
    """Whether `owner` has an `async def name(self, argument)`."""
    method = getattr(owner, name, None)
    return inspect.iscoroutinefunction(method) and len(inspect.signature(method).parameters) == 2


class Http1Protocol(H11Protocol):
    """HTTP/1.1 and nothing else: Hypercorn's HTTP/2 has no back-pressure, and no setting turns it off.

    A request to upgrade to another protocol is served as an ordinary HTTP/1.1 request, as RFC 9110 §7.8 allows: Java's
    HttpClient sends one by default. The protocol is also the `ClientWriter` of its connection.
    """

    _accepts_chunks = _is_chunked = False
    _written_bytes = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._writer = cast("TCPServer", self.send.__self__).writer  # type: ignore[attr-defined]
        self._transport = self._writer.transport
        self._transport.set_write_buffer_limits(_MAX_BUFFERED_BYTES)  # the limits for TLS differ between event loops
        self.connection_state = ConnectionState({**self.connection_state, CLIENT_WRITER: self})

    async def handle(self, event: ServerEvent) -> None:
        """Close the connection when the client has closed it between two requests.

        Hypercorn alone would keep it until its keep-alive timeout. A closed connection waits for a client that takes
        what is left in the send buffer, but not for ever.
        """
        if isinstance(event, Closed) and self.stream is None:
            if self._transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(STALL_SECONDS, self._transport.abort)
            await self.send(event)
        else:
            await super().handle(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Do nothing; Hypercorn's own method upgrades to HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version not in (b"1.0", b"1.1"):
            await self._send_error_response(505)
            await self.send(Closed())
            return
        self._accepts_chunks, self._is_chunked = request.http_version == b"1.1", False
        if any(name == b"upgrade" for name, _ in request.headers):
            kept = [(name, value) for name, value in request.headers if name != b"upgrade"]
            request = type(request)(
                method=request.method, target=request.target, headers=kept, http_version=request.http_version
            )
        await super()._create_stream(request)

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, HttpResponse):
            has_length = any(name.lower() == b"content-length" for name, _ in event.headers)
            self._is_chunked = self._accepts_chunks and not has_length
        elif isinstance(event, StreamClosed) and self.connection.our_state is h11.SEND_BODY:
            # The response ends incomplete. Flushing it to a client that does not read would never finish.
            self._transport.abort()
        await super().stream_send(event)

    # --- `ClientWriter`: bytes past h11, which takes two thirds of the CPU time of a frame ----------------------------

    @property
    def is_writable(self) -> bool:
        return self._transport.get_write_buffer_size() <= _MAX_BUFFERED_BYTES or self.is_gone

    @property
    def is_gone(self) -> bool:
        return bool(self._transport.is_closing())

    @property
    def waiting_bytes(self) -> int:
        return int(self._transport.get_write_buffer_size()) + _unacknowledged_bytes(self._transport)

    @property
    def taken_bytes(self) -> int:
        return self._written_bytes - self.waiting_bytes

    def abort(self) -> None:
        self._transport.abort()

    def write(self, data: bytes) -> None:
        """Write a part of the body, as one chunk where the length of the body is not known (RFC 9112 §7.1)."""
        if not self.is_gone:
            self._written_bytes += len(data)
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    async def drain(self) -> None:
        with contextlib.suppress(OSError):  # such as a `TimeoutError` for a client that vanished
            await self._writer.drain()


def _unacknowledged_bytes(transport: asyncio.WriteTransport) -> int:
    """Return how much the kernel holds of what was sent (Linux; 0 elsewhere).

    The kernel takes further bytes only when a third of its buffer of megabytes is free. A slow client would look as if
    it took nothing.
    """
    with contextlib.suppress(OSError, ValueError):
        descriptor = transport.get_extra_info("socket").fileno()
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)
    return 0


class _Http1Only:
    """A reentrant context in which Hypercorn creates an `Http1Protocol` for each new connection.

    The last server that stops restores Hypercorn's class; several servers may run in one process.
    """

    def __init__(self) -> None:
        self._open_count = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        missing = missing_names()
        if missing:
            log.warning("server.fallback_chosen", library="hypercorn", missing=missing)
            yield
            return
        self._open_count += 1
        hypercorn.protocol.H11Protocol = Http1Protocol  # type: ignore[attr-defined, assignment]
        try:
            yield
        finally:
            self._open_count -= 1
            if self._open_count == 0:
                hypercorn.protocol.H11Protocol = H11Protocol  # type: ignore[attr-defined]


_http1_only = _Http1Only()
