"""All who are there come in together; where no descriptor is left they come in when there is one."""

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

from app.server.accept import Loop  # noqa: E402 - it needs uvloop
from tests.harness.certificate import Certificate  # noqa: E402
from tests.harness.waiting import eventually  # noqa: E402

COUNT = 60


def on_loop(main: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await main()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(run())


@asynccontextmanager
async def listening(came: list[asyncio.StreamWriter]) -> AsyncIterator[tuple[str, int]]:
    async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer)
        writer.write(b"hello")

    bound = socket.create_server(("127.0.0.1", 0), backlog=COUNT)
    bound.setblocking(False)
    address = bound.getsockname()
    server = await asyncio.start_server(hello, sock=bound, backlog=COUNT)
    yield address
    server.close()
    await server.wait_closed()
    for writer in came:
        writer.close()


def test_all_who_are_there_come_in_together() -> None:
    async def main() -> None:
        came: list[asyncio.StreamWriter] = []
        async with listening(came) as address:
            with ExitStack() as clients:
                for _ in range(COUNT):  # all of them before the loop has its next turn
                    clients.enter_context(socket.create_connection(address))
                turns = 0
                while len(came) < COUNT and turns < COUNT:
                    await asyncio.sleep(0)
                    turns += bool(came)
                assert turns < COUNT / 4
                assert all(
                    writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    for writer in came
                )
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    on_loop(main)


def test_who_finds_no_descriptor_comes_in_when_there_is_one() -> None:
    async def main() -> None:
        came: list[asyncio.StreamWriter] = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with listening(came) as address:
            with socket.create_connection(address) as client:
                free = os.dup(client.fileno())
                os.close(free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
                try:
                    await asyncio.sleep(0.05)
                    assert not came
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                await eventually(lambda: came)
                assert client.recv(5) == b"hello"

    on_loop(main)


def test_a_server_that_encrypts_is_uvloops_own(tmp_path: Path) -> None:
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

    on_loop(main)


def test_a_server_by_address_is_uvloops_own() -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        assert isinstance(server, uvloop.loop.Server)
        server.close()
        await server.wait_closed()

    on_loop(main)
