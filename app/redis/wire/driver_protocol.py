"""The choice between `RedisProtocol` and its slower substitute on redis-py's public methods."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from app.redis.wire import redis_internals
from app.redis.wire.protocol import RedisProtocol

log = structlog.get_logger(__name__)


def attach(
    connection: AbstractConnection, on_reply: Callable[[Any], None], on_lost: Callable[[], None]
) -> RedisProtocol:
    """Take over an open connection of redis-py, which only closes and reopens it from then on.

    Without redis-py's private names (`redis_internals`) the result is a `DriverProtocol`. Raises redis-py's
    `ConnectionError` where the connection has been closed meanwhile.
    """
    missing = redis_internals.missing_names()
    if missing:
        report_missing(tuple(missing))
        return DriverProtocol(connection, on_reply, on_lost)
    return RedisProtocol.over(connection, on_reply, on_lost)


@cache
def report_missing(missing: tuple[str, ...]) -> None:
    """Log the choice of the fallback, once per process."""
    log.warning("redis.fallback_chosen", library="redis", missing=list(missing))


class DriverProtocol(RedisProtocol):
    """A `RedisProtocol` on redis-py's public methods: two tasks a connection, and redis-py's own parser."""

    def __init__(
        self, connection: AbstractConnection, on_reply: Callable[[Any], None], on_lost: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._on_reply = on_reply
        self._unsent = bytearray()
        self._has_unsent = asyncio.Event()
        self._is_aborted = False
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: on_lost())

    @property
    def is_open(self) -> bool:
        return not self._is_aborted and not self._task.done()

    def send(self, packed: bytes) -> None:
        self._unsent += packed
        self._has_unsent.set()

    def abort(self) -> None:
        self._is_aborted = True
        self._task.cancel()

    async def _run(self) -> None:
        """Send and receive until the connection is lost or aborted, then close it."""
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._send_all())
                both.create_task(self._receive_all())
        except* (RedisError, OSError, RuntimeError):
            pass
        finally:
            await self._connection.disconnect(nowait=True)

    async def _send_all(self) -> None:
        while await self._has_unsent.wait():
            self._has_unsent.clear()
            packed, self._unsent = bytes(self._unsent), bytearray()
            await self._connection.send_packed_command(packed, check_health=False)

    async def _receive_all(self) -> None:
        while True:
            try:
                reply = await self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
            except ResponseError as error:
                reply = error
            self._on_reply(reply)
