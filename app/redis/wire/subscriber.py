"""One Pub/Sub connection, which is opened again after it was lost, and the subscriptions on it.

Subscriptions that are requested in the same iteration of the event loop are sent in one command for each slot, since
thousands of runs may wait.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import structlog
from hiredis import pack_command
from redis.exceptions import AskError

from app.errors import StorageUnavailable
from app.redis.wire.channels import Channels
from app.redis.wire.errors import DRIVER_ERRORS, is_forbidden, unavailable
from app.redis.wire.protocol import RedisProtocol
from app.redis.wire.script import Command
from app.retry import growing_pause

OpenListening = Callable[[Callable[[Any], None], Callable[[], None]], Awaitable[RedisProtocol]]
"""Opens a connection in place of the last one, for messages and the loss of it. Raises one of `DRIVER_ERRORS`."""


class Verbs(NamedTuple):
    """The commands of a kind of Pub/Sub, and what its server sends."""

    subscribe: str
    unsubscribe: str
    subscribed: bytes
    unsubscribed: bytes
    message: bytes


CLASSIC = Verbs("SUBSCRIBE", "UNSUBSCRIBE", b"subscribe", b"unsubscribe", b"message")
SHARDED = Verbs("SSUBSCRIBE", "SUNSUBSCRIBE", b"ssubscribe", b"sunsubscribe", b"smessage")

_PING_SECONDS = 2.0
_FORBIDDEN_SECONDS = 1.0
"""An administrator has to grant the right first, so there is no hurry."""
_BATCH_CHANNELS = 500
_UNSUBSCRIBE_DELAY_SECONDS = 0.05
"""How long channels are collected for one UNSUBSCRIBE: no caller waits for it."""

log = structlog.get_logger(__name__)


class Subscriber:
    """Keeps the subscriptions to some channels on one connection, and reports to their `Channels`.

    `pulse` is a channel that is always subscribed, so that the server knows the connection as one for Pub/Sub.
    """

    def __init__(
        self, open: OpenListening, verbs: Verbs, owner: Channels, *, timeout_seconds: float, pulse: str | None = None
    ) -> None:
        self._open = open
        self._verbs = verbs
        self._owner = owner
        self._timeout_seconds = timeout_seconds
        self._pulse = pulse
        self._protocol: RedisProtocol | None = None
        self._slots: dict[str, int] = {}
        self._to_subscribe: list[str] = []
        self._to_unsubscribe: dict[str, int] = {}
        self._leaving: set[str] = set()  # whose UNSUBSCRIBE has not been answered
        self._has_received = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failures = 0  # since the last acknowledgement
        self.refusal: StorageUnavailable | None = None

    def start(self) -> None:
        """Connect, and stay connected."""
        tasks = (self._stay_connected, self._check_liveness)
        self._tasks = [asyncio.create_task(run(), context=contextvars.Context()) for run in tasks]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._protocol is not None:
            self._protocol.abort()

    @property
    def is_connected(self) -> bool:
        return self._protocol is not None

    @property
    def is_used(self) -> bool:
        """Whether any channel is to be subscribed."""
        return bool(self._slots)

    def add(self, channel: str, slot: int = 0) -> None:
        """Subscribe to a channel. The channels of one command have the same slot: a cluster requires it."""
        self._slots[channel] = slot
        if not self._to_subscribe:
            asyncio.get_running_loop().call_soon(self._send_subscriptions)
        self._to_subscribe.append(channel)

    def remove(self, channel: str) -> None:
        """End the subscription to a channel, a little later."""
        slot = self._slots.pop(channel, None)
        if slot is not None:
            if not self._to_unsubscribe:
                asyncio.get_running_loop().call_later(_UNSUBSCRIBE_DELAY_SECONDS, self._send_unsubscriptions)
            self._to_unsubscribe[channel] = slot

    def _send_subscriptions(self) -> None:
        """Subscribe to the collected channels. Without a connection they are subscribed to after the next connect."""
        channels, self._to_subscribe = self._to_subscribe, []
        self._send(self._verbs.subscribe, ((name, self._slots[name]) for name in channels if name in self._slots))

    def _send_unsubscriptions(self) -> None:
        channels, self._to_unsubscribe = self._to_unsubscribe, {}
        ended = [(name, slot) for name, slot in channels.items() if name not in self._slots]
        if self._protocol is not None:
            self._leaving.update(name for name, _ in ended)
        self._send(self._verbs.unsubscribe, ended)

    def _send(self, command_name: str, channels: Iterable[tuple[str, int]]) -> None:
        if self._protocol is None:
            return
        by_slot: dict[int, list[str]] = defaultdict(list)
        for name, slot in channels:
            by_slot[slot].append(name)
        for names in by_slot.values():
            for start in range(0, len(names), _BATCH_CHANNELS):
                command: Command = (command_name, *names[start : start + _BATCH_CHANNELS])
                self._protocol.send(pack_command(command))

    async def _stay_connected(self) -> None:
        while True:
            lost = asyncio.Event()
            cause = "ConnectionError"
            try:
                self._protocol = await self._open(self._on_message, lost.set)
                # Later subscriptions are sent when they are added.
                pulse = [] if self._pulse is None else [(self._pulse, 0)]
                self._send(self._verbs.subscribe, [*pulse, *self._slots.items()])
                await lost.wait()
            except DRIVER_ERRORS as error:
                cause = type(error).__name__
            self._protocol = None
            self._leaving.clear()
            self._owner.lost(self._slots)
            log.warning("pubsub.lost", cause=self.refusal.log_cause if self.refusal else cause)
            self._failures += 1
            is_refused = self.refusal is not None and is_forbidden(self.refusal)
            await asyncio.sleep(_FORBIDDEN_SECONDS if is_refused else growing_pause(self._failures))

    def _on_message(self, message: Any) -> None:
        self._has_received.set()
        if isinstance(message, AskError):  # a redirect: `MovedError` is a kind of it
            self._leave([name for name, slot in self._slots.items() if slot == message.slot_id])
        elif isinstance(message, Exception) and self._protocol is not None:
            self.refusal = unavailable(message)
            self._protocol.abort()  # this server refuses the subscription; another one may accept it
        elif isinstance(message, list) and len(message) == 3 and isinstance(message[1], bytes):
            kind, name, data = message
            self._on_channel(kind, name.decode(), data)

    def _on_channel(self, kind: bytes, channel: str, data: Any) -> None:
        if kind == self._verbs.subscribed:
            self._failures = 0
        if kind == self._verbs.message:
            self._owner.received(channel, data)
        elif kind == self._verbs.unsubscribed and channel in self._leaving:
            self._leaving.discard(channel)
        elif channel in self._slots:
            if kind == self._verbs.subscribed:
                self.refusal = None
                self._owner.subscribed(channel)
            elif kind == self._verbs.unsubscribed:  # without a request: the slot has left the server
                self._leave([channel])

    def _leave(self, channels: list[str]) -> None:
        for channel in channels:
            del self._slots[channel]
        if channels:
            self._owner.moved(channels)

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
