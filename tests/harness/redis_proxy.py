"""The network between one node and Redis, which can also lose the answer of a write that was stored."""

from __future__ import annotations

import asyncio
from typing import Literal

from app.dev.chaos.link import READ_BYTES, Link, Side, until_either


class RedisProxy(Link):
    """The proxy, also an async context manager: 127.0.0.1, any free port."""

    def __init__(self, redis_port: int) -> None:
        super().__init__(redis_port)
        self._marker = b""
        self._how: Literal["close", "silence"] = "close"
        self._left = 0
        self.dropped_replies = 0
        """How many answers were lost."""

    def drop_replies(self, marker: bytes, times: int = 1, how: Literal["close", "silence"] = "close") -> None:
        """Redis gets the next requests that hold `marker`; their answers never come: the connection closes, or nothing
        more is heard on it."""
        self._marker, self._left, self._how = marker, times, how

    async def forward(self, client: Side, target: Side) -> None:
        deaf = asyncio.Event()
        await until_either(self._requests(client, target, deaf), self._answers(client, target, deaf))

    async def _requests(self, client: Side, target: Side, deaf: asyncio.Event) -> None:
        while data := await client.reader.read(READ_BYTES):
            await self._flowing.wait()
            if self._left and self._marker in data:
                self._left -= 1
                deaf.set()
            target.writer.write(data)
            await target.writer.drain()

    async def _answers(self, client: Side, target: Side, deaf: asyncio.Event) -> None:
        while data := await target.reader.read(READ_BYTES):
            await self._flowing.wait()
            if deaf.is_set():
                self.dropped_replies += 1
                if self._how == "close":
                    return
                await asyncio.Event().wait()
            client.writer.write(data)
            await client.writer.drain()
