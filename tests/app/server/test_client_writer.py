"""The way past h11 to one client, as the server has it (`app.web.sse.Line`)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypercorn.asyncio import serve

from app.server import process as server
from app.web.sse import CLIENT_WRITER, ClientWriter
from tests.harness.certificate import Certificate
from tests.harness.raw import MakeSettings
from tests.harness.service import running
from tests.harness.waiting import eventually

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD: Any = {"type": "http.response.start", "status": 200, "headers": []}


@asynccontextmanager
async def one_line(certificate: Certificate | None) -> AsyncIterator[tuple[ClientWriter, asyncio.StreamWriter]]:
    """To a client who does not read; and his side of it."""
    lines: asyncio.Queue[ClientWriter] = asyncio.Queue()
    stop = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send(HEAD)
            lines.put_nowait(scope["state"][CLIENT_WRITER])
        while (message := await receive())["type"] not in ("http.disconnect", "lifespan.shutdown"):
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.shutdown.complete"})

    bound = socket.create_server(("127.0.0.1", 0))
    address = bound.getsockname()
    config = server.load_config(f"fd://{bound.detach()}")
    config.graceful_timeout = 0.05
    if certificate is not None:
        config.certfile = config.keyfile = str(certificate.path)
    serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    tls = None if certificate is None else certificate.client
    _, writer = await asyncio.open_connection(*address, limit=1024, ssl=tls)
    writer.write(REQUEST)
    yield await lines.get(), writer
    stop.set()
    await asyncio.wait([serving], timeout=10)
    writer.transport.abort()
    assert serving.done()
    await serving


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_where_there_is_no_room_it_is_waited_for(tmp_path: Path, is_encrypted: bool) -> None:
    """Else a stream would ask again and again, and nobody else would have a turn."""
    certificate = Certificate.create(tmp_path / "server.pem") if is_encrypted else None
    async with one_line(certificate) as (line, client):
        while line.is_writable:
            line.write(b"x" * 1000)
            await asyncio.sleep(0)
        waiting = asyncio.create_task(line.drain())
        await asyncio.sleep(0)
        assert not waiting.done()
        client.transport.abort()
        await waiting
        assert line.is_gone
        assert line.is_writable


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_a_client_who_does_not_read_does_not_keep_the_server_from_its_end(
    tmp_path: Path, is_encrypted: bool
) -> None:
    certificate = Certificate.create(tmp_path / "server.pem") if is_encrypted else None
    async with one_line(certificate) as (line, _):
        while line.is_writable:
            line.write(b"x" * 1000)
            await asyncio.sleep(0)


async def test_nothing_is_kept_of_a_client_who_leaves_between_two_requests(settings: MakeSettings) -> None:
    """A gateway closes what is idle, and whoever asks once asks from a new connection each time."""

    def served() -> int:
        return sum(str(task.get_coro()).startswith("<coroutine object worker_serve") for task in asyncio.all_tasks())

    async with running(settings()) as aura:
        before = served()
        clients = [await asyncio.open_connection(*aura.url.removeprefix("http://").split(":")) for _ in range(5)]
        for reader, writer in clients:
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        assert served() == before + 5
        for _, writer in clients:
            writer.close()
        await eventually(lambda: served() == before)
