"""Opens connections with redis-py, which knows TLS, user names, passwords and what a server requires first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from app.ports.redis_address import RedisAddress, Server

Open = Callable[[], Awaitable[AbstractConnection]]
"""Returns an open connection of the driver. Raises one of `errors.DRIVER_ERRORS`."""

_RETRY_PAUSE_SECONDS = 0.05


class Drivers:
    """Opens connections to the servers of one address."""

    def __init__(self, address: RedisAddress, *, timeout_seconds: float) -> None:
        self.address = address
        self._timeout_seconds = timeout_seconds

    async def open(self, server: Server | None, *, retries: int = 1, protocol: int = 3) -> AbstractConnection:
        """Return an open connection to one of the servers; None: to the socket that the address names.

        It has no timeout for replies, since it would set a timer for each of them. Raises one of `DRIVER_ERRORS`.
        """
        url = self.address.text if server is None else self.address.url_of(server)
        return await self._open(url, retries=retries, protocol=protocol)

    async def open_sentinel(self, sentinel: Server) -> AbstractConnection:
        """Return an open connection to one of the sentinels. Raises one of `DRIVER_ERRORS`."""
        user, password = self.address.sentinel_credentials
        bare = self.address._replace(credentials="", database=0)
        return await self._open(bare.url_of(sentinel), retries=0, protocol=2, user=user, password=password)

    async def _open(
        self, url: str, *, retries: int, protocol: int, user: str | None = None, password: str | None = None
    ) -> AbstractConnection:
        given = {"username": user, "password": password}
        pool = ConnectionPool.from_url(
            url,
            **{name: unquote(value) for name, value in given.items() if value is not None},
            socket_timeout=None,
            socket_connect_timeout=self._timeout_seconds,
            protocol=protocol,
            retry=Retry(ConstantBackoff(_RETRY_PAUSE_SECONDS), retries),
        )
        connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(2 * self._timeout_seconds):  # a server may accept and not answer
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection
