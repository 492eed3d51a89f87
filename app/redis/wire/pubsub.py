"""Classic Pub/Sub: one connection for the process, shared by any number of channels.

In a cluster every node gets every message, so any node can be listened to.
"""

from __future__ import annotations

from app.errors import StorageUnavailable
from app.redis import keys
from app.redis.wire.channels import Channels
from app.redis.wire.connection import Connection
from app.redis.wire.subscriber import CLASSIC, Subscriber


class PubSub(Channels):
    """Subscriptions of this process. They are made again after the connection was lost."""

    def __init__(self, connection: Connection, node_id: str, *, timeout_seconds: float) -> None:
        super().__init__(timeout_seconds=timeout_seconds)
        self._subscriber = Subscriber(
            connection.listen, CLASSIC, self, timeout_seconds=timeout_seconds, pulse=keys.keep_alive(node_id)
        )

    async def start(self) -> None:
        self._subscriber.start()

    async def stop(self) -> None:
        await self._subscriber.stop()

    @property
    def is_connected(self) -> bool:
        return self._subscriber.is_connected

    def _add(self, channel: str) -> None:
        self._subscriber.add(channel)

    def _remove(self, channel: str) -> None:
        self._subscriber.remove(channel)

    def _refusal_of(self, _: str) -> StorageUnavailable | None:
        return self._subscriber.refusal
