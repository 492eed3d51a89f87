"""A TCP proxy between one node and Redis: loses the answer of a write that was stored, or goes silent."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal, Self

_READ_BYTES = 64 * 1024


class RedisProxy:
    """The proxy, also an async context manager: 127.0.0.1, any free port."""

    def __init__(self, redis_port: int) -> None:
        self._redis_port = redis_port
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._marker = b""
        self._how: Literal["close", "silence"] = "close"
        self._left = 0
        self.lost = 0
        """How many answers were lost."""

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def lose_answers(self, marker: bytes, times: int = 1, how: Literal["close", "silence"] = "close") -> None:
        """Redis gets the next requests that hold `marker`; their answers never come: the connection closes, or nothing
        more is heard on it."""
        self._marker, self._left, self._how = marker, times, how

    def freeze(self) -> None:
        """Nothing passes any more, in either direction; connections stay open and new ones are accepted."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
                deaf = asyncio.Event()
                ways = [
                    asyncio.ensure_future(self._requests(reader, up_writer, deaf)),
                    asyncio.ensure_future(self._answers(up_reader, writer, deaf)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
                    up_writer.close()
        finally:
            self._links.discard(task)
            writer.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        while data := await reader.read(_READ_BYTES):
            await self._flowing.wait()
            if self._left and self._marker in data:
                self._left -= 1
                deaf.set()
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        while data := await reader.read(_READ_BYTES):
            await self._flowing.wait()
            if deaf.is_set():
                self.lost += 1
                if self._how == "close":
                    return
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()
