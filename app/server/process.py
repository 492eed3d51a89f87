"""The process: hypercorn with a clean end, and a supervisor over several of them on one port."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import h11
import hypercorn.protocol
import structlog
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
from hypercorn.events import Closed
from hypercorn.events import Event as ServerEvent
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response as HttpResponse
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState

from app.bootstrap import Service, create_app
from app.errors import ConfigurationError
from app.server.parent import exit_with_parent
from app.settings import Settings
from app.web.one_time_codes import OneTimeCodes
from app.web.sse import CLIENT_WRITER

if TYPE_CHECKING:
    from hypercorn.asyncio.tcp_server import TCPServer

_HERE = Path(__file__).parents[1]
_LEAST_UPTIME_SECONDS = 2.0
_MOST_PAUSE_SECONDS = 10.0
_COLLECTOR_THRESHOLDS = (10_000, 20, 20)
_ROOM_BYTES = 64 * 1024
"""What is kept for a client who does not read before he is waited for; asyncio's own measure."""

log = structlog.get_logger(__name__)


class _Http1(H11Protocol):
    """HTTP/1.1 and nothing else: hypercorn's HTTP/2 has no back-pressure, and it has no setting to be without it.

    A wish to go over to something else is left unanswered, as it may be (RFC 9110 §7.8): Java's HttpClient has it by
    default. So the request is served as it is.
    """

    _knows_chunks = _is_chunked = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._writer = cast("TCPServer", self.send.__self__).writer  # type: ignore[attr-defined]
        self._transport = self._writer.transport
        self._transport.set_write_buffer_limits(_ROOM_BYTES)  # TLS has others: without room nobody would be waited for
        self.connection_state = ConnectionState({**self.connection_state, CLIENT_WRITER: self})

    async def handle(self, event: ServerEvent) -> None:
        """Hypercorn would keep a connection whose client left between two requests until it had been idle for long."""
        if isinstance(event, Closed) and self.stream is None:
            await self.send(event)
        else:
            await super().handle(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Here hypercorn would go over to HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version not in (b"1.0", b"1.1"):
            await self._send_error_response(505)
            await self.send(Closed())
            return
        self._knows_chunks, self._is_chunked = request.http_version == b"1.1", False
        if any(name == b"upgrade" for name, _ in request.headers):
            kept = [(name, value) for name, value in request.headers if name != b"upgrade"]
            request = type(request)(
                method=request.method, target=request.target, headers=kept, http_version=request.http_version
            )
        await super()._create_stream(request)

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, HttpResponse):
            has_length = any(name.lower() == b"content-length" for name, _ in event.headers)
            self._is_chunked = self._knows_chunks and not has_length
        elif isinstance(event, StreamClosed) and self.connection.our_state is h11.SEND_BODY:
            # Left in the middle. To wait until a client has read, who does not, would keep the process from its end.
            self._transport.abort()
        await super().stream_send(event)

    # --- `ClientWriter`: bytes past h11, whose path to one chunk is a third of the cost of a frame ---

    @property
    def is_writable(self) -> bool:
        return self._transport.get_write_buffer_size() <= _ROOM_BYTES or self.is_gone

    @property
    def is_gone(self) -> bool:
        return bool(self._transport.is_closing())

    def write(self, data: bytes) -> None:
        """A chunk of a body whose length is not known needs no more thought than its own length (RFC 9112 §7.1)."""
        if not self.is_gone:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    async def drain(self) -> None:
        with contextlib.suppress(OSError):  # a client who vanished is a `TimeoutError`
            await self._writer.drain()


def load_config(bind: str | None = None) -> Config:
    """What `hypercorn.toml` says, the flag on top."""
    places = (_HERE.parent / "hypercorn.toml", _HERE / "hypercorn.toml")
    config = Config.from_toml(next(place for place in places if place.is_file()))
    hypercorn.protocol.H11Protocol = _Http1  # type: ignore[attr-defined, assignment]
    config.errorlog = logging.getLogger("hypercorn.error")  # else hypercorn gives it a handler of its own beside ours
    if bind is not None:
        config.bind = [bind]
    return config


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run on uvloop where it is there, with as many open streams as the system allows."""
    _raise_descriptor_limit()
    # What is imported stays. To walk its 150,000 objects again and again was a seventh of what runs cost (tests/bench).
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)
    try:
        from app.server.accept import Loop
    except ImportError:
        asyncio.run(main())
    else:
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(main())


def _raise_descriptor_limit() -> None:
    """Each stream is a descriptor; the soft limit is often 1024, the hard one is the machine's word."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard or hard == resource.RLIM_INFINITY:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptor_limit() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def listen(config: Config) -> socket.socket:
    """The listening socket. Raises `ConfigurationError` where it cannot be had."""
    bind = config.bind[0]
    host, _, port = bind.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=config.backlog)
    except (OSError, ValueError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        cause = os.strerror(number) if number is not None and number > 0 else str(error)
        raise ConfigurationError(f"--bind {bind}: {cause}") from None


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM or SIGINT. A second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        log.info("server.stopping", signal=signal.Signals(number).name)
        stop.set()
        for handled in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(handled)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    return stop


async def serve(
    settings: Settings,
    config: Config,
    *,
    stop: asyncio.Event | None = None,
    started: asyncio.Event | None = None,
    one_time_codes: OneTimeCodes | None = None,
) -> None:
    """Serve until `stop`, or else a signal, then drain (§2.3). `started` is set when the port answers."""
    app = create_app(settings, one_time_codes=one_time_codes)
    service: Service = app.extensions["aura"]
    bind = config.bind[0]
    if not bind.startswith(("fd://", "unix:")):  # before anything starts, so that a taken port is one clear line
        config.bind = [f"fd://{listen(config).detach()}"]
    asked = stop_signal() if stop is None else stop

    async def trigger() -> None:
        log.info("server.started", bind=bind, descriptor_limit=_descriptor_limit())
        if started is not None:
            started.set()
        await asked.wait()
        await service.drain()

    await hypercorn_serve(app, config, shutdown_trigger=trigger)


def supervise(workers: int, config: Config) -> int:
    """Keep `workers` processes on one listening socket; one that dies is replaced. Answers the exit code.

    When this process is killed, its workers drain and end (on Linux): else they would hold the port for ever.
    """
    create_app()  # what would stop a worker stops the start
    with listen(config) as listener:
        listener.set_inheritable(True)
        command = [sys.executable, "-m", "app", "serve", "--bind", f"fd://{listener.fileno()}"]

        def start() -> tuple[subprocess.Popen[bytes], float]:
            worker = subprocess.Popen(
                command,
                pass_fds=[listener.fileno()],
                preexec_fn=exit_with_parent(signal.SIGTERM),  # noqa: PLW1509 - two system calls, no lock taken
            )
            return worker, time.monotonic()

        asked: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, _: asked.append(got))
        children = [start() for _ in range(workers)]
        pause, not_before = 0.1, 0.0
        while not asked:
            time.sleep(0.1)
            for index, (child, since) in enumerate(children):
                if child.poll() is None or time.monotonic() < not_before or asked:
                    continue
                short_lived = time.monotonic() - since < _LEAST_UPTIME_SECONDS
                pause = min(pause * 2, _MOST_PAUSE_SECONDS) if short_lived else 0.1
                not_before = time.monotonic() + pause  # the next death is looked at after that
                log.error("worker.died", pid=child.pid, code=child.returncode)
                children[index] = start()
        living = [child for child, _ in children if child.poll() is None]
        for child in living:
            child.send_signal(signal.SIGTERM)
        # One that was still starting could not tell the signal from any other.
        return max((abs(code) for child in living if (code := child.wait()) != -signal.SIGTERM), default=0)
