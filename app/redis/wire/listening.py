"""A connection for Pub/Sub. Only its `Subscriber` opens it again after it was lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from typing import Any

from redis.asyncio.connection import AbstractConnection

from app.ports.redis_address import Server
from app.redis.wire.driver_protocol import attach
from app.redis.wire.drivers import Drivers
from app.redis.wire.protocol import RedisProtocol
from app.redis.wire.sentinel import Sentinels


class Listening:
    """Leads to one of several servers: in a cluster every node gets every message of classic Pub/Sub."""

    def __init__(self, drivers: Drivers, sentinels: Sentinels | None) -> None:
        self._drivers = drivers
        self._sentinels = sentinels
        self._driver: AbstractConnection | None = None
        self._server: Server | None = None
        self._protocol: RedisProtocol | None = None
        self._opening: asyncio.Timeout | None = None

    async def open(
        self, servers: Collection[Server], on_message: Callable[[Any], None], on_lost: Callable[[], None]
    ) -> RedisProtocol:
        """Open a new connection in place of the last one, to another one of these servers if there is one.

        Raises one of `DRIVER_ERRORS`.
        """
        await self.close()
        try:
            async with asyncio.timeout(None) as self._opening:
                driver = await self._open_driver(servers)
        finally:
            self._opening = None
        self._driver, self._protocol = driver, attach(driver, on_message, on_lost)
        return self._protocol

    async def _open_driver(self, servers: Collection[Server]) -> AbstractConnection:
        # With RESP 3 the driver would merely log a message between replies.
        if self._sentinels is not None:
            return await self._sentinels.open_master(retries=0, protocol=2)
        others = [server for server in servers if server != self._server] or [*servers, None][:1]
        self._server = random.choice(others)  # noqa: S311 - not for cryptography
        return await self._drivers.open(self._server, retries=0, protocol=2)

    def abort(self) -> None:
        """Give up the connection."""
        if self._protocol is not None:
            self._protocol.abort()

    def abort_unless_to(self, servers: Collection[Server]) -> None:
        """Give up a connection to a node that has left the cluster, or may be cut off from it.

        If it is being opened, `open` raises `TimeoutError`: the node may hang.
        """
        if self._server is None or self._server in servers:
            return
        self.abort()
        if self._opening is not None:
            self._opening.reschedule(asyncio.get_running_loop().time())
            self._opening = None

    async def close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.disconnect(nowait=True)
