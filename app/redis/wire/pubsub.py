"""One Pub/Sub connection for the process, fanned out to any number of channels.

A published message is lost if nobody listens, so what is heard here is only a wake-up: after every (re)subscription the
listener is told to look at the keys. A channel costs its name and its listener, and what is wished for in the same
moment is said in one command: thousands of runs may wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from hiredis import pack_command

from app.errors import StorageUnavailable
from app.redis import keys
from app.redis.wire.connection import TROUBLE, Command, Connection
from app.redis.wire.protocol import RedisProtocol

Listener = Callable[[bytes | None], None]
"""Called with a message, or with None: the subscription is new, look at the keys."""

_PULSE_SECONDS = 2.0
_BATCH = 500
_FORGET_SECONDS = 0.05
"""The server may hear so late of what is wanted no more: that is not on anybody's way."""

log = structlog.get_logger(__name__)


class PubSub:
    """`subscribe` returns once the server has acknowledged: from then on no message is missed but by a broken line."""

    def __init__(self, connection: Connection, node_id: str, *, timeout_seconds: float) -> None:
        self._connection = connection
        self._pulse = keys.pulse(node_id)
        self._timeout_seconds = timeout_seconds
        self._line: RedisProtocol | None = None
        self._listeners: dict[str, Listener] = {}
        self._acknowledged: set[str] = set()
        self._awaited: dict[str, asyncio.Event] = {}
        self._wished: list[str] = []
        self._forgotten: dict[str, None] = {}
        self._heard = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(life()) for life in (self._listen, self._watch)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._line is not None:
            self._line.abort()

    def is_subscribed(self, channel: str) -> bool:
        """Whether the server has acknowledged, on the connection of now."""
        return channel in self._acknowledged

    async def subscribe(self, channel: str, listener: Listener) -> None:
        """Raises `StorageUnavailable` where no acknowledgement came in time; the subscription stays wanted until
        `unsubscribe`, and is made when Redis is back. A channel has one listener: the last."""
        self._listeners[channel] = listener
        if channel in self._acknowledged:
            return
        acknowledged = self._awaited.get(channel)
        if acknowledged is None:
            acknowledged = self._awaited[channel] = asyncio.Event()
            if not self._wished:
                asyncio.get_running_loop().call_soon(self._wish)
            self._wished.append(channel)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await acknowledged.wait()
        except TimeoutError:
            raise StorageUnavailable("Redis did not acknowledge the subscription in time") from None

    def unsubscribe(self, channel: str) -> None:
        """Forget the listener; the server is told in the background."""
        if self._listeners.pop(channel, None) is not None:
            self._acknowledged.discard(channel)
            self._stop_waiting(channel)
            if not self._forgotten:
                asyncio.get_running_loop().call_later(_FORGET_SECONDS, self._forget)
            self._forgotten[channel] = None

    def _stop_waiting(self, channel: str) -> None:
        """Who waits for an acknowledgement has it, or wants it no more."""
        awaited = self._awaited.pop(channel, None)
        if awaited is not None:
            awaited.set()

    def _wish(self) -> None:
        """What cannot be said is made up for when the line is open again."""
        wished, self._wished = self._wished, []
        self._send("SUBSCRIBE", [name for name in wished if name in self._listeners])

    def _forget(self) -> None:
        forgotten, self._forgotten = self._forgotten, {}
        self._send("UNSUBSCRIBE", [name for name in forgotten if name not in self._listeners])

    def _send(self, word: str, pubsub: Sequence[str]) -> None:
        if self._line is not None:
            for start in range(0, len(pubsub), _BATCH):
                command: Command = (word, *pubsub[start : start + _BATCH])
                self._line.send(pack_command(command))

    async def _listen(self) -> None:
        while True:
            lost = asyncio.Event()
            cause = "ConnectionError"
            try:
                self._line = await self._connection.listen(self._dispatch, lost.set)
                # Whoever wishes for a subscription from here on says so himself.
                self._send("SUBSCRIBE", [self._pulse, *self._listeners])
                await lost.wait()
            except TROUBLE as error:
                cause = type(error).__name__
            self._line = None
            self._acknowledged.clear()
            log.warning("pubsub.lost", cause=cause)
            await asyncio.sleep(0.2)

    def _dispatch(self, message: Any) -> None:
        self._heard.set()
        if isinstance(message, Exception) and self._line is not None:
            self._line.abort()  # it will not let us listen; another may
        if not isinstance(message, list) or message[0] not in (b"subscribe", b"message"):
            return  # an answer to a ping, or to an `UNSUBSCRIBE`
        kind, name, data = message
        channel = name.decode()
        listener = self._listeners.get(channel)
        if listener is None:
            return
        if kind == b"message":
            listener(data)
            return
        self._acknowledged.add(channel)
        self._stop_waiting(channel)
        listener(None)

    async def _watch(self) -> None:
        """A server that hangs does not close the connection: whoever does not hear his own pulse hangs up."""
        while True:
            await asyncio.sleep(_PULSE_SECONDS)
            line = self._line
            if line is None:
                continue
            self._heard.clear()
            line.send(pack_command(("PING",)))
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await self._heard.wait()
            except TimeoutError:
                line.abort()
