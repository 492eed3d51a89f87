"""One Pub/Sub connection for the process, fanned out to any number of listeners.

A published message is lost if nobody listens, so what is heard here is only a wake-up: after every (re)subscription the
listener is told to look at the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import structlog

from app.errors import StorageUnavailable
from app.redis import keys
from app.redis.connection import TROUBLE, Connection

Listener = Callable[[bytes | None], None]
"""Called with a message, or with None: the subscription is new, look at the keys."""

_PULSE_SECONDS = 2.0
_BATCH = 500

log = structlog.get_logger(__name__)


class Channels:
    """`subscribe` returns once the server has acknowledged: from then on no message is missed but by a broken line."""

    def __init__(self, connection: Connection, node_id: str, *, timeout_seconds: float) -> None:
        self._connection = connection
        self._pulse = keys.pulse(node_id)
        self._timeout_seconds = timeout_seconds
        self._listeners: dict[str, set[Listener]] = {}
        self._acknowledged: dict[str, asyncio.Event] = {}
        self._pubsub: Any = None
        self._heard = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._disconnect()

    async def subscribe(self, channel: str, listener: Listener) -> None:
        """Raises `StorageUnavailable` where no acknowledgement came in time; the subscription stays wanted until
        `unsubscribe`, and is made when Redis is back."""
        self._listeners.setdefault(channel, set()).add(listener)
        acknowledged = self._acknowledged.get(channel)
        if acknowledged is None:
            acknowledged = self._acknowledged[channel] = asyncio.Event()
            if self._is_connected:
                with contextlib.suppress(*TROUBLE):
                    await self._pubsub.subscribe(channel)
        if acknowledged.is_set():
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await acknowledged.wait()
        except TimeoutError:
            raise StorageUnavailable("Redis did not acknowledge the subscription in time") from None

    def unsubscribe(self, channel: str, listener: Listener) -> None:
        """Forget the listener; the server is told in the background."""
        listeners = self._listeners.get(channel)
        if listeners is None:
            return
        listeners.discard(listener)
        if not listeners:
            del self._listeners[channel]
            self._acknowledged.pop(channel, None)
            task = asyncio.create_task(self._unsubscribe(channel))
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)

    async def _unsubscribe(self, channel: str) -> None:
        if self._is_connected and channel not in self._listeners:
            with contextlib.suppress(*TROUBLE):
                await self._pubsub.unsubscribe(channel)

    async def _listen(self) -> None:
        while True:
            try:
                async with asyncio.timeout(2 * self._timeout_seconds):  # a server may accept and not answer
                    await self._connect()
                while self._is_connected:
                    message = await self._pubsub.get_message(ignore_subscribe_messages=False, timeout=None)
                    if message is not None:
                        self._dispatch(message)
                raise ConnectionError("hung up")
            except TROUBLE as error:
                log.warning("pubsub.lost", cause=type(error).__name__)
                await self._disconnect()
                await asyncio.sleep(0.2)

    @property
    def _is_connected(self) -> bool:
        """Only then may anything be sent: the driver would connect again by itself, under the listener's feet, and
        without the channels it was not told of. What is not sent now is made up for in the next `_connect`."""
        connection = self._pubsub.connection if self._pubsub is not None else None
        return connection is not None and bool(connection.is_connected)

    async def _connect(self) -> None:
        for acknowledged in self._acknowledged.values():
            acknowledged.clear()
        pubsub = self._connection.pubsub()
        try:
            await pubsub.subscribe(self._pulse)
        except BaseException:
            await _closed(pubsub)
            raise
        self._pubsub = pubsub  # whoever subscribes from here on does it himself
        wanted = list(self._acknowledged)
        for start in range(0, len(wanted), _BATCH):
            await pubsub.subscribe(*wanted[start : start + _BATCH])

    async def _disconnect(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            await _closed(pubsub)

    def _dispatch(self, message: dict[str, Any]) -> None:
        self._heard.set()
        channel = (message["channel"] or b"").decode()
        match message["type"]:
            case "subscribe":
                if channel in self._acknowledged:
                    self._acknowledged[channel].set()
                data = None
            case "message":
                data = message["data"]
            case _:
                return
        for listener in tuple(self._listeners.get(channel, ())):
            listener(data)

    async def _watch(self) -> None:
        """A server that hangs does not close the connection: whoever does not hear his own pulse hangs up."""
        while True:
            await asyncio.sleep(_PULSE_SECONDS)
            pubsub = self._pubsub
            if not self._is_connected:
                continue
            self._heard.clear()
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await pubsub.ping()
                    await self._heard.wait()
            except TROUBLE:
                if pubsub.connection is not None:
                    with contextlib.suppress(*TROUBLE):
                        await pubsub.connection.disconnect(nowait=True)


async def _closed(pubsub: Any) -> None:
    with contextlib.suppress(*TROUBLE):
        await pubsub.aclose()
