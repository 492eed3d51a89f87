"""One Pub/Sub connection for the process, fanned out to any number of channels.

A published message is lost if nobody listens, so what is heard here is only a wake-up: after every (re)subscription the
listener is told to look at the keys. A channel costs its name and its listener, and what is wished for in the same
moment is said in one command: thousands of runs may wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence

import structlog
from redis.asyncio.connection import AbstractConnection

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
        self._pulse = keys.pulse(node_id)
        self._timeout_seconds = timeout_seconds
        self._line: AbstractConnection = connection.subscriber
        self._is_open = False
        self._listeners: dict[str, Listener] = {}
        self._acknowledged: set[str] = set()
        self._awaited: dict[str, asyncio.Event] = {}
        self._untold: dict[str, None] = {}
        self._has_untold = asyncio.Event()
        self._heard = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(life()) for life in (self._listen, self._tell, self._watch)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._disconnect()

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
            self._say(channel)
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
            self._say(channel)

    def _stop_waiting(self, channel: str) -> None:
        """Who waits for an acknowledgement has it, or wants it no more."""
        awaited = self._awaited.pop(channel, None)
        if awaited is not None:
            awaited.set()

    def _say(self, channel: str) -> None:
        self._untold[channel] = None
        self._has_untold.set()

    async def _tell(self) -> None:
        """Tell the server which channels are wanted now and which are no more. What cannot be said is made up for in
        the next `_connect`."""
        while True:
            await self._has_untold.wait()
            self._has_untold.clear()
            told, self._untold = self._untold, {}
            if self._is_connected:
                with contextlib.suppress(*TROUBLE):
                    await self._send("UNSUBSCRIBE", [name for name in told if name not in self._listeners])
                    await self._send("SUBSCRIBE", [name for name in told if name in self._listeners])

    @property
    def _is_connected(self) -> bool:
        """Only then may anything be sent: the driver would connect again by itself, under the listener's feet."""
        return self._is_open and bool(self._line.is_connected)

    async def _send(self, word: str, channels: Sequence[str]) -> None:
        for start in range(0, len(channels), _BATCH):
            if not self._is_connected:
                return
            await self._line.send_command(word, *channels[start : start + _BATCH], check_health=False)

    async def _listen(self) -> None:
        while True:
            try:
                async with asyncio.timeout(2 * self._timeout_seconds):  # a server may accept and not answer
                    await self._connect()
                while True:
                    self._dispatch(
                        await self._line.read_response(timeout=math.inf, disconnect_on_error=False, push_request=True)
                    )
            except TROUBLE as error:
                log.warning("pubsub.lost", cause=type(error).__name__)
                await self._disconnect()
                await asyncio.sleep(0.2)

    async def _connect(self) -> None:
        """Every subscription has to be acknowledged anew. Whoever wishes for one from here on says so himself."""
        self._acknowledged.clear()
        await self._line.connect()  # type: ignore[no-untyped-call]
        self._is_open = True
        await self._send("SUBSCRIBE", [self._pulse, *self._listeners])

    async def _disconnect(self) -> None:
        self._is_open = False
        with contextlib.suppress(*TROUBLE):
            await self._line.disconnect(nowait=True)

    def _dispatch(self, message: Sequence[bytes] | bytes) -> None:
        self._heard.set()
        if isinstance(message, bytes) or message[0] not in (b"subscribe", b"message"):
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
            if not self._is_connected:
                continue
            self._heard.clear()
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await self._line.send_command("PING", check_health=False)
                    await self._heard.wait()
            except TROUBLE:  # a `TimeoutError` is one of them: it is an `OSError`
                with contextlib.suppress(*TROUBLE):
                    await self._line.disconnect(nowait=True)
