"""A proxy between one node and Redis, which can also drop the reply to a write that Redis has executed."""

from __future__ import annotations

import asyncio
from typing import Literal

from app.dev.chaos.link import READ_BYTES, Link, Side, until_either


class RedisProxy(Link):
    """The proxy on a free port of 127.0.0.1; also an async context manager."""

    def __init__(self, redis_port: int) -> None:
        super().__init__(redis_port)
        self._marker = b""
        self._how: Literal["close", "silence"] = "close"
        self._left = 0
        self.dropped_replies = 0
        """The number of dropped replies."""

    def drop_replies(self, marker: bytes, times: int = 1, how: Literal["close", "silence"] = "close") -> None:
        """Drop the replies to the next requests that contain `marker`; Redis still executes them.

        Instead of the reply, the connection is closed, or it stays open and nothing more is sent on it (`silence`).
        """
        self._marker, self._left, self._how = marker, times, how

    async def forward(self, client: Side, target: Side) -> None:
        is_dropping = asyncio.Event()
        await until_either(
            self._forward_requests(client, target, is_dropping), self._forward_replies(client, target, is_dropping)
        )

    async def _forward_requests(self, client: Side, target: Side, is_dropping: asyncio.Event) -> None:
        while data := await client.reader.read(READ_BYTES):
            await self._flowing.wait()
            if self._left and self._marker in data:
                self._left -= 1
                is_dropping.set()
            target.writer.write(data)
            await target.writer.drain()

    async def _forward_replies(self, client: Side, target: Side, is_dropping: asyncio.Event) -> None:
        while data := await target.reader.read(READ_BYTES):
            await self._flowing.wait()
            if is_dropping.is_set():
                self.dropped_replies += 1
                if self._how == "close":
                    return
                await asyncio.Event().wait()
            client.writer.write(data)
            await client.writer.drain()
