"""One Pub/Sub connection for the process, shared by any number of channels.

A message that is published while the connection is lost is never received, so a message is only a wake-up: after every
(re)subscription the listener is called with None and must read the keys. A channel costs its name and its listener.
Subscriptions that are requested in the same iteration of the event loop are sent in one command, since thousands of
runs may wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from hiredis import pack_command

from app.errors import StorageUnavailable
from app.redis import keys
from app.redis.wire.connection import Connection
from app.redis.wire.errors import DRIVER_ERRORS, is_forbidden, unavailable
from app.redis.wire.protocol import RedisProtocol
from app.redis.wire.script import Command
from app.retry import growing_pause

Listener = Callable[[bytes | None], None]
"""Called with a message, or with None where the subscription is new and the keys must be read."""

_PING_SECONDS = 2.0
_FORBIDDEN_SECONDS = 1.0
"""An administrator has to grant the right first, so there is no hurry."""
_BATCH_CHANNELS = 500
_UNSUBSCRIBE_DELAY_SECONDS = 0.05
"""How long channels are collected for one UNSUBSCRIBE: no caller waits for it."""

log = structlog.get_logger(__name__)


class PubSub:
    """Subscriptions of this process. They are made again after the connection was lost."""

    def __init__(self, connection: Connection, node_id: str, *, timeout_seconds: float) -> None:
        self._connection = connection
        self._keep_alive_channel = keys.keep_alive(node_id)
        self._timeout_seconds = timeout_seconds
        self._protocol: RedisProtocol | None = None
        self._listeners: dict[str, Listener] = {}
        self._acknowledged: set[str] = set()
        self._acknowledgements: dict[str, asyncio.Event] = {}
        self._to_subscribe: list[str] = []
        self._to_unsubscribe: dict[str, None] = {}
        self._refusal: StorageUnavailable | None = None
        self._has_received = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(run()) for run in (self._stay_connected, self._check_liveness)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._protocol is not None:
            self._protocol.abort()

    @property
    def is_connected(self) -> bool:
        return self._protocol is not None

    def is_subscribed(self, channel: str) -> bool:
        """Return whether the server has acknowledged the subscription on the current connection."""
        return channel in self._acknowledged

    async def subscribe(self, channel: str, listener: Listener) -> None:
        """Subscribe to a channel and wait for the acknowledgement: from then on no message is missed unless the
        connection is lost. A channel has one listener: the last one.

        Raises `StorageUnavailable` where no acknowledgement comes in time. The listener stays registered until
        `unsubscribe`, and the subscription is made when Redis is available again.
        """
        self._listeners[channel] = listener
        if channel in self._acknowledged:
            return
        acknowledgement = self._acknowledgements.get(channel)
        if acknowledgement is None:
            acknowledgement = self._acknowledgements[channel] = asyncio.Event()
            if not self._to_subscribe:
                asyncio.get_running_loop().call_soon(self._send_subscriptions)
            self._to_subscribe.append(channel)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await acknowledgement.wait()
        except TimeoutError:
            cause, detail = "Redis did not acknowledge the subscription in time", ""
            if self._refusal is not None:
                cause, detail = f"{cause} ({self._refusal.cause})", self._refusal.detail
            raise StorageUnavailable(cause, detail=detail) from None

    def unsubscribe(self, channel: str) -> None:
        """Remove the listener; the server gets the command a little later."""
        if self._listeners.pop(channel, None) is not None:
            self._acknowledged.discard(channel)
            self._end_wait(channel)
            if not self._to_unsubscribe:
                asyncio.get_running_loop().call_later(_UNSUBSCRIBE_DELAY_SECONDS, self._send_unsubscriptions)
            self._to_unsubscribe[channel] = None

    def _end_wait(self, channel: str) -> None:
        """End the wait for an acknowledgement: it has come, or the subscription is no longer wanted."""
        acknowledgement = self._acknowledgements.pop(channel, None)
        if acknowledgement is not None:
            acknowledgement.set()

    def _send_subscriptions(self) -> None:
        """Subscribe to the collected channels. Without a connection they are subscribed to after the next connect."""
        channels, self._to_subscribe = self._to_subscribe, []
        self._send("SUBSCRIBE", [name for name in channels if name in self._listeners])

    def _send_unsubscriptions(self) -> None:
        channels, self._to_unsubscribe = self._to_unsubscribe, {}
        self._send("UNSUBSCRIBE", [name for name in channels if name not in self._listeners])

    def _send(self, command_name: str, channels: Sequence[str]) -> None:
        if self._protocol is not None:
            for start in range(0, len(channels), _BATCH_CHANNELS):
                command: Command = (command_name, *channels[start : start + _BATCH_CHANNELS])
                self._protocol.send(pack_command(command))

    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            lost = asyncio.Event()
            cause = "ConnectionError"
            try:
                self._protocol = await self._connection.listen(self._on_message, lost.set)
                # Later subscriptions are sent by `subscribe` itself.
                self._send("SUBSCRIBE", [self._keep_alive_channel, *self._listeners])
                failures = 0
                await lost.wait()
            except DRIVER_ERRORS as error:
                cause = type(error).__name__
            self._protocol = None
            self._acknowledged.clear()
            log.warning("pubsub.lost", cause=self._refusal.log_cause if self._refusal else cause)
            failures += 1
            is_refused = self._refusal is not None and is_forbidden(self._refusal)
            await asyncio.sleep(_FORBIDDEN_SECONDS if is_refused else growing_pause(failures))

    def _on_message(self, message: Any) -> None:
        self._has_received.set()
        if isinstance(message, Exception) and self._protocol is not None:
            self._refusal = unavailable(message)
            self._protocol.abort()  # this server refuses the subscription; another one may accept it
        if not isinstance(message, list) or message[0] not in (b"subscribe", b"message"):
            return  # the reply to a PING or to an UNSUBSCRIBE
        kind, name, data = message
        channel = name.decode()
        listener = self._listeners.get(channel)
        if listener is None:
            return
        if kind == b"message":
            listener(data)
            return
        self._refusal = None
        self._acknowledged.add(channel)
        self._end_wait(channel)
        listener(None)

    async def _check_liveness(self) -> None:
        """Abort a connection whose server does not answer a PING: a server that hangs does not close the connection."""
        while True:
            await asyncio.sleep(_PING_SECONDS)
            protocol = self._protocol
            if protocol is None:
                continue
            self._has_received.clear()
            protocol.send(pack_command(("PING",)))
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await self._has_received.wait()
            except TimeoutError:
                protocol.abort()
