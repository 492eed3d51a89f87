"""A TCP proxy that treats connections badly: cuts them at any byte, splits and merges what passes, refuses them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.dev.chaos.link import READ_BYTES, Relay, Side, until_either


@dataclass(frozen=True)
class Link:
    """How one connection is treated; the default passes everything on as it comes.

    Bytes are those of the server's answers, HTTP heads included. `cut_after` 0 loses the answer of a request that the
    server has seen.
    """

    cut_after: int | None = None
    reset: bool = False  # the cut is an RST, not a FIN
    refuse: bool = False  # closed before the server hears of it
    piece_bytes: int | None = None  # split into writes of at most so many
    gather_seconds: float = 0  # merge what comes within that time into one write


@dataclass
class Passed:
    """One connection that came through: the bytes in both directions, as far as they were passed on."""

    link: Link
    request: bytes = b""
    answer: bytes = b""


class CuttingProxy(Relay):
    """The proxy, also an async context manager: 127.0.0.1, any free port, in front of `target` (an http URL).

    The n-th connection gets the n-th of `links`; later ones get `Link()`.
    """

    def __init__(self, target: str, links: Iterable[Link] = ()) -> None:
        address = urlsplit(target)
        assert address.hostname is not None
        assert address.port is not None
        super().__init__(address.hostname, address.port)
        self._links: Iterator[Link] = iter(links)
        self.connections: list[Passed] = []
        """Every connection in the order in which they came in."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[str]:
        """The request lines that reached the server, e.g. `POST /aura/test/stream HTTP/1.1`."""
        lines = (line for passed in self.connections for line in passed.request.split(b"\r\n"))
        return [line.decode("latin-1") for line in lines if line.endswith(b" HTTP/1.1")]

    async def accept(self, client: Side) -> None:
        passed = Passed(next(self._links, Link()))
        self.connections.append(passed)
        try:
            if not passed.link.refuse:
                await self._pass(passed, client)
        finally:
            if passed.link.reset:
                _reset(client.writer)

    async def _pass(self, passed: Passed, client: Side) -> None:
        reader, writer = await asyncio.open_connection(*self.target)
        try:
            await until_either(
                self._requests(passed, client.reader, writer), self._answers(passed, reader, client.writer)
            )
        finally:
            writer.close()

    async def _requests(self, passed: Passed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_BYTES):
            passed.request += data
            writer.write(data)
            await writer.drain()

    async def _answers(self, passed: Passed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Returns where the server closed or the cut is reached."""
        link = passed.link
        while data := await self._read(reader, link.gather_seconds):
            left = len(data) if link.cut_after is None else link.cut_after - len(passed.answer)
            for piece in _pieces(data[:left], link.piece_bytes):
                writer.write(piece)
                await writer.drain()
                if link.piece_bytes is not None:
                    await asyncio.sleep(0)  # a write of its own each, as far as the kernel lets them be
            passed.answer += data[:left]
            if left <= len(data) and link.cut_after is not None:
                return

    async def _read(self, reader: asyncio.StreamReader, gather_seconds: float) -> bytes:
        data = await reader.read(READ_BYTES)
        if gather_seconds and data:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(gather_seconds):
                    while more := await reader.read(READ_BYTES):
                        data += more
        return data


def _pieces(data: bytes, size: int | None) -> Iterator[bytes]:
    for start in range(0, len(data), size or len(data) or 1):
        yield data[start : start + (size or len(data))]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closed, the kernel sends an RST: what the other side has not read yet is lost."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
