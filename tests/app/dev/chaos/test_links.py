"""The ways of the nodes of `aura chaos` to the servers of their Redis, and its progress without a terminal."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from rich.console import Console

from app.dev.chaos.link import Link, Links, SentinelLink
from app.dev.chaos.report import ProgressLines
from app.errors import ConfigurationError


async def exchange(port: int, host: str, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.readexactly(len(sent)), 5)
    finally:
        writer.close()


@asynccontextmanager
async def echo_server(piece_bytes: int = 1000) -> AsyncIterator[int]:
    """Serve what is received back in pieces; yields the port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            for start in range(0, len(data), piece_bytes):
                writer.write(data[start : start + piece_bytes])
                await writer.drain()
                await asyncio.sleep(0.005)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("piece_bytes", [1, 5, 1000])
async def test_address_that_a_sentinel_names_becomes_that_of_the_link(piece_bytes: int) -> None:
    async with echo_server(piece_bytes) as port, SentinelLink(port, host="127.0.1.4"):
        sent = b"$9\r\n127.0.0.1\r\n$5\r\n12127\r\n+switch-master aura 127.0.0.1 1 127.0.0.1 2\r\n"
        assert await exchange(port, "127.0.1.4", sent) == sent.replace(b"127.0.0.1", b"127.0.1.4")


async def test_node_that_is_cut_from_one_server_reaches_the_others() -> None:
    async with echo_server() as first, echo_server() as second:
        links = Links({port: Link(port, host="127.0.1.5") for port in (first, second)}, lambda: "redis://")
        await links.open()
        try:
            links.cut(first)
            assert await exchange(second, "127.0.1.5", b"PING") == b"PING"
            held = asyncio.create_task(exchange(first, "127.0.1.5", b"PING"))
            done, _ = await asyncio.wait([held], timeout=0.2)
            assert not done
            links.mend()
            assert await held == b"PING"
        finally:
            await links.close()


async def test_way_that_cannot_be_opened_is_refused_with_its_cause_and_remedy() -> None:
    async with echo_server() as port:
        taken = Links({port: Link(port, host="127.0.0.1")}, lambda: "redis://")
        with pytest.raises(ConfigurationError, match=r"address already in use.*start again, with other ports"):
            await taken.open()
        absent = Links({port: Link(port, host="192.0.2.1")}, lambda: "redis://")
        with pytest.raises(ConfigurationError, match=r"like 127\.0\.1\.1, which Linux has: use --redis single"):
            await absent.open()


def test_progress_has_a_line_every_thirty_seconds() -> None:
    now, output = [100.0], io.StringIO()
    lines = ProgressLines(Console(file=output), now=lambda: now[0])
    for second in range(0, 65, 5):
        now[0] = 100.0 + second
        lines.update(f"{second} of 300 runs ended")
    assert output.getvalue().splitlines() == [
        "aura chaos: 30 s: 30 of 300 runs ended",
        "aura chaos: 60 s: 60 of 300 runs ended",
    ]
