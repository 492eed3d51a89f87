"""A TCP proxy that treats connections badly: cuts them at any byte, splits and merges what passes, refuses them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

_READ_BYTES = 64 * 1024


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


@dataclass
class CuttingProxy:
    """The proxy, also an async context manager: 127.0.0.1, any free port, in front of `target` (an http URL).

    The n-th connection gets the n-th of `links`; later ones get `Link()`.
    """

    target: str
    links: Iterable[Link] = ()
    connections: list[Passed] = field(default_factory=list)
    """Every connection in the order in which they came in."""

    def __post_init__(self) -> None:
        self._links: Iterator[Link] = iter(self.links)
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def port(self) -> int:
        assert self._server is not None, "the proxy is not started"
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[str]:
        """The request lines that reached the server, e.g. `POST /aura/test/stream HTTP/1.1`."""
        lines = (line for passed in self.connections for line in passed.request.split(b"\r\n"))
        return [line.decode("latin-1") for line in lines if line.endswith(b" HTTP/1.1")]

    def cut(self) -> None:
        """Cut every connection now."""
        for writer in self._open.values():
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        passed = Passed(next(self._links, Link()))
        self.connections.append(passed)
        try:
            # A broken connection is what this is for; cancelled is how it is stopped.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                if not passed.link.refuse:
                    await self._link(passed, reader, writer)
        finally:
            del self._open[task]
            _close(writer, reset=passed.link.reset)

    async def _link(self, passed: Passed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = urlsplit(self.target)
        up_reader, up_writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            ways = {
                asyncio.ensure_future(self._requests(passed, reader, up_writer)),
                asyncio.ensure_future(self._answers(passed, up_reader, writer)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            _close(up_writer, reset=False)

    async def _requests(self, passed: Passed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_READ_BYTES):
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
        data = await reader.read(_READ_BYTES)
        if gather_seconds and data:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(gather_seconds):
                    while more := await reader.read(_READ_BYTES):
                        data += more
        return data


def _pieces(data: bytes, size: int | None) -> Iterator[bytes]:
    for start in range(0, len(data), size or len(data) or 1):
        yield data[start : start + (size or len(data))]


def _close(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """With `reset` the kernel sends an RST: what the other side has not read yet is lost."""
    if reset:
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
