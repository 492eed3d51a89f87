"""A TCP proxy that injects faults: it cuts connections at any byte, splits and merges writes, refuses connections."""

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
    """The faults of one connection; the default has none.

    Bytes are those of the server's responses, including the HTTP heads. With `cut_after=0` the server receives the
    request and its response is lost.
    """

    cut_after: int | None = None
    reset: bool = False  # cut with an RST instead of a FIN
    refuse: bool = False  # close the connection before the server is connected
    piece_bytes: int | None = None  # split the response into writes of at most this size
    merge_seconds: float = 0  # merge what arrives within this time into one write


@dataclass
class ProxiedConnection:
    """One accepted connection, and the bytes that were forwarded in both directions."""

    faults: ConnectionFaults
    request: bytes = b""
    answer: bytes = b""


class CuttingProxy(Relay):
    """The proxy on a free port of 127.0.0.1, in front of `target` (an http URL); also an async context manager.

    The n-th connection gets the n-th of `faults`; later ones get `ConnectionFaults()`.
    """

    def __init__(self, target: str, faults: Iterable[ConnectionFaults] = ()) -> None:
        address = urlsplit(target)
        assert address.hostname is not None
        assert address.port is not None
        super().__init__(address.hostname, address.port)
        self._faults: Iterator[ConnectionFaults] = iter(faults)
        self.connections: list[ProxiedConnection] = []
        """Every connection in the order of arrival."""

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
                await self._forward(connection, client)
        finally:
            if connection.faults.reset:
                _reset(client.writer)

    async def _forward(self, connection: ProxiedConnection, client: Side) -> None:
        reader, writer = await asyncio.open_connection(*self.target)
        try:
            await until_either(
                self._forward_requests(connection, client.reader, writer),
                self._forward_responses(connection, reader, client.writer),
            )
        finally:
            writer.close()

    async def _forward_requests(
        self, connection: ProxiedConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(READ_BYTES):
            connection.request += data
            writer.write(data)
            await writer.drain()

    async def _forward_responses(
        self, connection: ProxiedConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward the response until the server closes the connection or `cut_after` is reached."""
        faults = connection.faults
        while data := await self._read(reader, faults.merge_seconds):
            left = len(data) if faults.cut_after is None else faults.cut_after - len(connection.answer)
            for piece in _pieces(data[:left], faults.piece_bytes):
                writer.write(piece)
                await writer.drain()
                if faults.piece_bytes is not None:
                    await asyncio.sleep(0)  # so that each piece is a separate write
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
    """Make the kernel send an RST when the connection is closed; data that the other side has not read is lost."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
