"""The event loops of the service: pending connections are accepted together, and a closed server waits for nobody."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

uvloop = pytest.importorskip("uvloop")

from app.server.accept import UvloopEventLoop  # noqa: E402 - it needs uvloop
from tests.harness.certificate import Certificate  # noqa: E402
from tests.harness.waiting import eventually  # noqa: E402

COUNT = 60


def run_on_uvloop(main: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await main()

    with asyncio.Runner(loop_factory=UvloopEventLoop) as runner:
        runner.run(run())


@asynccontextmanager
async def listening(accepted: list[asyncio.StreamWriter]) -> AsyncIterator[tuple[str, int]]:
    """Run a server that greets each client; yield its address. `accepted` receives the server's side of each."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        writer.write(b"hello")

    bound = socket.create_server(("127.0.0.1", 0), backlog=COUNT)
    bound.setblocking(False)
    address = bound.getsockname()
    server = await asyncio.start_server(greet, sock=bound, backlog=COUNT)
    yield address
    server.close()
    await server.wait_closed()
    for writer in accepted:
        writer.close()


def test_pending_connections_are_accepted_together() -> None:
    async def main() -> None:
        accepted: list[asyncio.StreamWriter] = []
        async with listening(accepted) as address:
            with ExitStack() as clients:
                for _ in range(COUNT):  # all of them before the next iteration of the loop
                    clients.enter_context(socket.create_connection(address))
                iterations = 0
                while len(accepted) < COUNT and iterations < COUNT:
                    await asyncio.sleep(0)
                    iterations += bool(accepted)
                assert iterations < COUNT / 4
                assert all(
                    writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    for writer in accepted
                )
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    run_on_uvloop(main)


def test_a_connection_without_a_free_descriptor_is_accepted_once_there_is_one() -> None:
    async def main() -> None:
        accepted: list[asyncio.StreamWriter] = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with listening(accepted) as address:
            with socket.create_connection(address) as client:
                free = os.dup(client.fileno())
                os.close(free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
                try:
                    await asyncio.sleep(0.05)
                    assert not accepted
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                await eventually(lambda: accepted)
                assert client.recv(5) == b"hello"

    run_on_uvloop(main)


def test_a_server_with_tls_is_uvloops_own(tmp_path: Path) -> None:
    async def main() -> None:
        certificate = Certificate.create(tmp_path / "server.pem")
        bound = socket.create_server(("127.0.0.1", 0))
        server = await asyncio.start_server(
            lambda _, writer: writer.write(b"hello"), sock=bound, backlog=COUNT, ssl=certificate.server
        )
        reader, writer = await asyncio.open_connection(*bound.getsockname(), ssl=certificate.client)
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        server.close()
        await server.wait_closed()

    run_on_uvloop(main)


def test_a_server_on_an_address_is_uvloops_own() -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        assert isinstance(server, uvloop.loop.Server)
        server.close()
        await server.wait_closed()

    run_on_uvloop(main)
