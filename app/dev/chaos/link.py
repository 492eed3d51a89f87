"""TCP proxies: one that forwards bytes, and those between one node and the servers of its Redis."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Self

from app.errors import ConfigurationError

READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two TCP connections that the proxy joins: that of the client or that of the target."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Relay:
    """A TCP proxy, by default on any free port of 127.0.0.1; also an async context manager.

    Forwards everything unchanged. A subclass overrides `accept` to act before the target is connected, and `forward`
    to act once both sides are connected. An error or a cancellation in them ends that connection only.
    """

    def __init__(self, host: str, port: int, *, listen_on: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.target = (host, port)
        """The host and port to which new connections are forwarded."""
        self._listen_on = listen_on
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("the proxy is not open")
        return int(self._server.sockets[0].getsockname()[1])

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, *self._listen_on)

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
    """The proxy between one node and a server of Redis. While it is cut, it holds all bytes back; it never drops any.

    By default it listens on any free port of 127.0.0.1; with `host`, on the server's own port of that address.
    """

    def __init__(self, redis_port: int, *, host: str | None = None) -> None:
        listen_on = ("127.0.0.1", 0) if host is None else (host, redis_port)
        super().__init__("127.0.0.1", redis_port, listen_on=listen_on)
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


class SentinelLink(Link):
    """The proxy between one node and a sentinel: the servers that the sentinel names become those of the node's links.

    Addresses of the same length are exchanged for each other, so that nothing else of a reply changes.
    """

    _NAMED = b"127.0.0.1"

    def __init__(self, sentinel_port: int, *, host: str) -> None:
        super().__init__(sentinel_port, host=host)
        self._shown = host.encode()
        if len(self._shown) != len(self._NAMED):
            raise ValueError(f"{host} is not as long as {self._NAMED.decode()}")

    async def forward(self, client: Side, target: Side) -> None:
        await until_either(self.copy(client.reader, target.writer), self._copy_replies(target.reader, client.writer))

    async def _copy_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = b""
        while data := await reader.read(READ_BYTES):
            await self._flowing.wait()
            data = (held + data).replace(self._NAMED, self._shown)
            # An address may be split between two reads. A reply ends with a line break, so nothing is held for long.
            kept = next((n for n in range(len(self._NAMED) - 1, 0, -1) if data.endswith(self._NAMED[:n])), 0)
            held = data[len(data) - kept :]
            writer.write(data[: len(data) - kept])
            await writer.drain()


class Links:
    """The ways of one node to all servers of its Redis. `url` is the address of Redis for this node."""

    def __init__(self, links: Mapping[int, Link], url: Callable[[], str]) -> None:
        """`links` are by the port of their server; `url` is called once they are open."""
        self._links = links
        self._url = url

    @property
    def url(self) -> str:
        return self._url()

    async def open(self) -> None:
        """Raises `ConfigurationError` where an address of the node does not exist, or its port is in use."""
        try:
            for link in self._links.values():
                await link.open()
        except OSError as error:
            remedy = (
                "another program uses this port: start again, with other ports"
                if error.errno == errno.EADDRINUSE
                else "a node needs an address of its own, like 127.0.1.1, which Linux has: use --redis single"
            )
            raise ConfigurationError(f"the way of a node to Redis cannot be opened: {error}; {remedy}") from error

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()

    def cut(self, port: int | None = None) -> None:
        """Hold back what goes to and comes from the server of this port, or of all servers."""
        for server_port, link in self._links.items():
            if port in (None, server_port):
                link.cut()

    def mend(self) -> None:
        for link in self._links.values():
            link.mend()
