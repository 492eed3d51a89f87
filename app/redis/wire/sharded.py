"""Sharded Pub/Sub of a cluster: a message stays with the master of its channel's slot, and its replicas.

There is a connection to each master on which a channel is subscribed. It is opened for the first one, and closed when
it has had none for a while or its server is a master no longer. Subscriptions follow their slot: at each new map of the
cluster, and at once when a server ends one or redirects it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Collection, Sequence
from functools import partial

from app.errors import StorageUnavailable
from app.ports.redis_address import Server
from app.redis.wire.channels import Channels
from app.redis.wire.drivers import Drivers
from app.redis.wire.listening import Listening
from app.redis.wire.pipeline import CLOSED
from app.redis.wire.subscriber import SHARDED, Subscriber
from app.redis.wire.topology import Topology, slot_of_channel

_IDLE_SECONDS = 30.0


class _Shard:
    """The connection to one master."""

    def __init__(self, drivers: Drivers, server: Server, owner: Channels, *, timeout_seconds: float) -> None:
        self._listening = Listening(drivers, None)
        open_listening = partial(self._listening.open, [server])
        self.subscriber = Subscriber(open_listening, SHARDED, owner, timeout_seconds=timeout_seconds)
        self.subscriber.start()
        self.used_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        await self.subscriber.stop()
        await self._listening.close()


class ShardedPubSub(Channels):
    """Subscriptions of this process. Each is on the connection to the master that serves its slot."""

    def __init__(
        self, drivers: Drivers, topology: Topology, request_map: Callable[[], None], *, timeout_seconds: float
    ) -> None:
        """`request_map` requests a new map of the cluster, which comes by `follow`."""
        super().__init__(timeout_seconds=timeout_seconds)
        self._drivers = drivers
        self._request_map = request_map
        self._masters: Sequence[Server | None] = topology.masters
        self._shards: dict[Server, _Shard] = {}
        self._slots: dict[str, int] = {}
        self._server_by_channel: dict[str, Server] = {}
        """Where each channel is subscribed; without an entry it waits for the next map."""
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def servers(self) -> list[Server]:
        """The masters that this process listens to."""
        return sorted(self._shards)

    def follow(self, topology: Topology) -> None:
        """Subscribe at the new masters of slots that have moved, and close connections that are not needed."""
        if topology.masters != self._masters:
            self._masters = topology.masters
            for channel, server in list(self._server_by_channel.items()):
                if server != self._masters[self._slots[channel]]:
                    self._shards[server].subscriber.remove(channel)
                    self.moved([channel])
        for channel in self._slots.keys() - self._server_by_channel.keys():
            self._place(channel)
        self._close_unused(topology.all_masters)

    async def close(self) -> None:
        """End all subscriptions; further ones raise `StorageUnavailable`."""
        self._is_closed = True
        shards = list(self._shards.values())
        for by_channel_or_server in (self._shards, self._slots, self._server_by_channel):
            by_channel_or_server.clear()
        await asyncio.gather(*self._closing, *(shard.close() for shard in shards))

    def lost(self, channels: Collection[str]) -> None:
        super().lost(channels)
        self._request_map()

    def moved(self, channels: Collection[str]) -> None:
        super().moved(channels)
        for channel in channels:
            self._server_by_channel.pop(channel, None)
        self._request_map()

    def _add(self, channel: str) -> None:
        if self._is_closed:
            raise StorageUnavailable(CLOSED)
        slot = self._slots[channel] = slot_of_channel(channel)
        if self._masters[slot] is None:
            self._request_map()  # once: a slot can be without a master for long
        self._place(channel)

    def _remove(self, channel: str) -> None:
        self._slots.pop(channel, None)
        server = self._server_by_channel.pop(channel, None)
        if server is not None:
            self._shards[server].subscriber.remove(channel)

    def _refusal_of(self, channel: str) -> StorageUnavailable | None:
        server = self._server_by_channel.get(channel)
        return None if server is None else self._shards[server].subscriber.refusal

    def _place(self, channel: str) -> None:
        """Subscribe at the master of the slot. Where there is none, a later map names it."""
        slot = self._slots[channel]
        server = self._masters[slot]
        if server is None:
            return
        shard = self._shards.get(server)
        if shard is None:
            shard = self._shards[server] = _Shard(self._drivers, server, self, timeout_seconds=self._timeout_seconds)
        self._server_by_channel[channel] = server
        shard.subscriber.add(channel, slot)

    def _close_unused(self, masters: Collection[Server]) -> None:
        now = asyncio.get_running_loop().time()
        for server, shard in list(self._shards.items()):
            if shard.subscriber.is_used:
                shard.used_at = now
            elif server not in masters or now - shard.used_at > _IDLE_SECONDS:
                task = asyncio.create_task(self._shards.pop(server).close(), context=contextvars.Context())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
