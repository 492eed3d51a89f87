"""The channels that this process listens to, on whichever connections their subscriptions are.

A message that is published while a connection is lost is never received, so a message is only a wake-up: after every
(re)subscription the listener is called with None and must read the keys. A channel costs its name and its listener.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

from app.errors import StorageUnavailable

Listener = Callable[[bytes | None], None]
"""Called with a message, or with None where the subscription is new and the keys must be read."""


class Channels(ABC):
    """The listeners, and the waits for acknowledgements. Subclasses decide on which connection a channel is."""

    def __init__(self, *, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._listeners: dict[str, Listener] = {}
        self._acknowledged: set[str] = set()
        self._acknowledgements: dict[str, asyncio.Event] = {}

    def is_subscribed(self, channel: str) -> bool:
        """Return whether a server has acknowledged the subscription on the current connection."""
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
            self._add(channel)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await acknowledgement.wait()
        except TimeoutError:
            cause, detail = "Redis did not acknowledge the subscription in time", ""
            refusal = self._refusal_of(channel)
            if refusal is not None:
                cause, detail = f"{cause} ({refusal.cause})", refusal.detail
            raise StorageUnavailable(cause, detail=detail) from None

    def unsubscribe(self, channel: str) -> None:
        """Remove the listener; the server gets the command a little later."""
        if self._listeners.pop(channel, None) is not None:
            self._acknowledged.discard(channel)
            self._end_wait(channel)
            self._remove(channel)

    @abstractmethod
    def _add(self, channel: str) -> None:
        """Request the subscription of a channel from a server. A repeated request is acknowledged again."""

    @abstractmethod
    def _remove(self, channel: str) -> None:
        """End the subscription of a channel."""

    @abstractmethod
    def _refusal_of(self, channel: str) -> StorageUnavailable | None:
        """Return why the server of this channel refuses subscriptions, None where it does not."""

    def _end_wait(self, channel: str) -> None:
        """End the wait for an acknowledgement: it has come, or the subscription is no longer wanted."""
        acknowledgement = self._acknowledgements.pop(channel, None)
        if acknowledgement is not None:
            acknowledgement.set()

    # --- what a `Subscriber` reports ----------------------------------------------------------------------------------

    def subscribed(self, channel: str) -> None:
        """A server has acknowledged a subscription."""
        self._acknowledged.add(channel)
        self._end_wait(channel)
        self.received(channel, None)

    def received(self, channel: str, message: bytes | None) -> None:
        """Hand a message to the listener, or None where the subscription is new."""
        listener = self._listeners.get(channel)
        if listener is not None:
            listener(message)

    def lost(self, channels: Collection[str]) -> None:
        """The connection with these subscriptions is lost. It will be opened again, and they will be made again."""
        self._acknowledged.difference_update(channels)

    def moved(self, channels: Collection[str]) -> None:
        """The server does not serve these channels any more: another one does."""
        self._acknowledged.difference_update(channels)
