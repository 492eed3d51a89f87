"""The `ClientWriter` that the server offers for each connection, and connections that end early."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.server.config import load_config
from app.server.event_loop import AsyncioEventLoop, create_event_loop
from app.server.hypercorn_internals import serve_app
from app.web.sse import CLIENT_WRITER, ClientWriter, EventStreams
from tests.harness.certificate import Certificate
from tests.harness.fake_tail import FakeJournal
from tests.harness.raw import MakeSettings
from tests.harness.service import running
from tests.harness.waiting import eventually

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD: Any = {"type": "http.response.start", "status": 200, "headers": []}
ON_EACH_LOOP = pytest.mark.parametrize("loop", [create_event_loop, AsyncioEventLoop])
WITH_AND_WITHOUT_TLS = pytest.mark.parametrize("is_encrypted", [False, True])


def run_on(loop: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await main()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


@asynccontextmanager
async def connected(
    certificate: Certificate | None,
) -> AsyncIterator[tuple[ClientWriter, asyncio.StreamWriter, asyncio.StreamReader]]:
    """Yield the server's writer for a client that does not read, and the client's side; then stop the server.

    The server must stop within ten seconds.
    """
    writers: asyncio.Queue[ClientWriter] = asyncio.Queue()
    stop = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send(HEAD)
            writers.put_nowait(scope["state"][CLIENT_WRITER])
        while (message := await receive())["type"] not in ("http.disconnect", "lifespan.shutdown"):
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.shutdown.complete"})

    bound = socket.create_server(("127.0.0.1", 0))
    address = bound.getsockname()
    config = load_config(f"fd://{bound.detach()}")
    config.graceful_timeout = 0.05
    if certificate is not None:
        config.certfile = config.keyfile = str(certificate.path)
    serving = asyncio.create_task(serve_app(app, config, stop.wait))
    tls = None if certificate is None else certificate.client
    connection = socket.create_connection(address)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)  # small, so that the server sees each reading
    host = None if certificate is None else address[0]
    reader, client = await asyncio.open_connection(sock=connection, limit=1024, ssl=tls, server_hostname=host)
    client.write(REQUEST)
    yield await writers.get(), client, reader
    stop.set()
    await asyncio.wait([serving], timeout=10)
    client.transport.abort()
    assert serving.done()
    await serving


async def fill(writer: ClientWriter) -> None:
    while writer.is_writable:
        writer.write(b"x" * 1000)
        await asyncio.sleep(0)


@ON_EACH_LOOP
@WITH_AND_WITHOUT_TLS
def test_drain_waits_while_the_buffer_is_full(
    tmp_path: Path, is_encrypted: bool, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Without the wait a stream would retry in a busy loop."""

    async def main() -> None:
        async with connected(certificate) as (writer, client, _):
            await fill(writer)
            waiting = asyncio.create_task(writer.drain())
            await asyncio.sleep(0)
            assert not waiting.done()
            client.transport.abort()
            await waiting
            assert writer.is_gone
            assert writer.is_writable

    certificate = Certificate.create(tmp_path / "server.pem") if is_encrypted else None
    run_on(loop, main)


@ON_EACH_LOOP
@WITH_AND_WITHOUT_TLS
def test_a_client_that_does_not_read_does_not_delay_the_exit(
    tmp_path: Path, is_encrypted: bool, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """`asyncio.Server.wait_closed` waits for all connections from Python 3.12.1 on."""

    async def main() -> None:
        async with connected(certificate) as (writer, _, _):
            await fill(writer)

    certificate = Certificate.create(tmp_path / "server.pem") if is_encrypted else None
    run_on(loop, main)


@pytest.mark.slow
@ON_EACH_LOOP
@WITH_AND_WITHOUT_TLS
def test_a_stream_ends_for_a_client_that_stops_reading_and_not_for_one_that_reads_slowly(
    tmp_path: Path, is_encrypted: bool, loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.sse.STALL_SECONDS", 1.5)

    async def main() -> None:
        async with connected(certificate) as (writer, _, reader), asyncio.timeout(60):
            journal = FakeJournal()
            stream = EventStreams(journal, "both", heartbeat_seconds=0.1).open("session_u_1_abcd", 0)  # type: ignore[arg-type]
            stream.begin(writer, asyncio.Event().wait)  # type: ignore[arg-type]
            await fill(writer)
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + 4:
                await reader.read(1024)
                await asyncio.sleep(0.01)
            assert not writer.is_gone, "it reads a hundred kilobytes a second"
            await eventually(lambda: writer.is_gone, seconds=20)
            stream.close()
            assert journal.tails[0].is_closed

    certificate = Certificate.create(tmp_path / "server.pem") if is_encrypted else None
    run_on(loop, main)


async def test_nothing_is_kept_of_a_client_that_disconnects_between_two_requests(settings: MakeSettings) -> None:
    """Gateways close idle connections, and some clients open a new connection for each request."""

    def open_connections() -> int:
        return sum(str(task.get_coro()).startswith("<coroutine object worker_serve") for task in asyncio.all_tasks())

    async with running(settings()) as aura:
        before = open_connections()
        clients = [await asyncio.open_connection(*aura.url.removeprefix("http://").split(":")) for _ in range(5)]
        for reader, writer in clients:
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        assert open_connections() == before + 5
        for _, writer in clients:
            writer.close()
        await eventually(lambda: open_connections() == before)
