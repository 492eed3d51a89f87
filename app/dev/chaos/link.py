"""TCP proxies: one that forwards bytes, and one between a node and Redis that can stop forwarding."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self

READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two TCP connections that the proxy joins: that of the client or that of the target."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Relay:
    """A TCP proxy on 127.0.0.1, any free port; also an async context manager.

    Forwards everything unchanged. A subclass overrides `accept` to act before the target is connected, and `forward`
    to act once both sides are connected. An error or a cancellation in them ends that connection only.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        """The host and port to which new connections are forwarded."""
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("the proxy is not open")
        return int(self._server.sockets[0].getsockname()[1])

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def break_all(self) -> None:
        """Abort every connection now."""
        for writer in self._connections.values():
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(Side(reader, writer)))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, client: Side) -> None:
        try:
            # Broken connections are expected here, and close() cancels this task.
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await self.accept(client)
        finally:
            client.writer.close()

    async def accept(self, client: Side) -> None:
        reader, writer = await asyncio.open_connection(*self.target)
        try:
            await self.forward(client, Side(reader, writer))
        finally:
            writer.close()

    async def forward(self, client: Side, target: Side) -> None:
        """Forward both directions of one connection until either side ends it."""
        await until_either(self.copy(client.reader, target.writer), self.copy(target.reader, client.writer))

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()


async def until_either(*directions: Coroutine[Any, Any, None]) -> None:
    """Run the coroutines until one of them ends, then cancel the others. Their exceptions are dropped."""
    tasks = [asyncio.ensure_future(direction) for direction in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Link(Relay):
    """The proxy between one node and Redis. While it is cut, it holds all bytes back; it never drops any."""

    def __init__(self, redis_port: int) -> None:
        super().__init__("127.0.0.1", redis_port)
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Stop forwarding in both directions. Connections stay open and new ones are accepted."""
        self._flowing.clear()

    def mend(self) -> None:
        self._flowing.set()

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_BYTES):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
