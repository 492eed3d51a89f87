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
class ConnectionFaults:
    """How one connection is treated; the default passes everything on as it comes.

    Bytes are those of the server's answers, HTTP heads included. `cut_after` 0 loses the answer of a request that the
    server has seen.
    """

    cut_after: int | None = None
    reset: bool = False  # the cut is an RST, not a FIN
    refuse: bool = False  # closed before the server hears of it
    piece_bytes: int | None = None  # split into writes of at most so many
    merge_seconds: float = 0  # merge what comes within that time into one write


@dataclass
class ProxiedConnection:
    """One connection that came through: the bytes in both directions, as far as they were passed on."""

    faults: ConnectionFaults
    request: bytes = b""
    answer: bytes = b""


class CuttingProxy(Relay):
    """The proxy, also an async context manager: 127.0.0.1, any free port, in front of `target` (an http URL).

    The n-th connection gets the n-th of `faults`; later ones get `ConnectionFaults()`.
    """

    def __init__(self, target: str, faults: Iterable[ConnectionFaults] = ()) -> None:
        address = urlsplit(target)
        assert address.hostname is not None
        assert address.port is not None
        super().__init__(address.hostname, address.port)
        self._faults: Iterator[ConnectionFaults] = iter(faults)
        self.connections: list[ProxiedConnection] = []
        """Every connection in the order in which they came in."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[str]:
        """The request lines that reached the server, e.g. `POST /aura/test/stream HTTP/1.1`."""
        lines = (line for connection in self.connections for line in connection.request.split(b"\r\n"))
        return [line.decode("latin-1") for line in lines if line.endswith(b" HTTP/1.1")]

    async def accept(self, client: Side) -> None:
        connection = ProxiedConnection(next(self._faults, ConnectionFaults()))
        self.connections.append(connection)
        try:
            if not connection.faults.refuse:
                await self._pass(connection, client)
        finally:
            if connection.faults.reset:
                _reset(client.writer)

    async def _pass(self, connection: ProxiedConnection, client: Side) -> None:
        reader, writer = await asyncio.open_connection(*self.target)
        try:
            await until_either(
                self._requests(connection, client.reader, writer), self._answers(connection, reader, client.writer)
            )
        finally:
            writer.close()

    async def _requests(
        self, connection: ProxiedConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(READ_BYTES):
            connection.request += data
            writer.write(data)
            await writer.drain()

    async def _answers(
        self, connection: ProxiedConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Returns where the server closed or the cut is reached."""
        faults = connection.faults
        while data := await self._read(reader, faults.merge_seconds):
            left = len(data) if faults.cut_after is None else faults.cut_after - len(connection.answer)
            for piece in _pieces(data[:left], faults.piece_bytes):
                writer.write(piece)
                await writer.drain()
                if faults.piece_bytes is not None:
                    await asyncio.sleep(0)  # a write of its own each, as far as the kernel lets them be
            connection.answer += data[:left]
            if left <= len(data) and faults.cut_after is not None:
                return

    async def _read(self, reader: asyncio.StreamReader, merge_seconds: float) -> bytes:
        data = await reader.read(READ_BYTES)
        if merge_seconds and data:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(merge_seconds):
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
