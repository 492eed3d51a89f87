"""Commands to one Redis server over one connection: each batch is sent without waiting for earlier replies."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from itertools import takewhile
from typing import Any

from hiredis import PushNotification, pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from app.errors import StorageUnavailable
from app.redis.wire.driver_protocol import attach
from app.redis.wire.drivers import Open
from app.redis.wire.errors import DRIVER_ERRORS, is_read_only, unavailable
from app.redis.wire.protocol import RedisProtocol
from app.redis.wire.script import Command
from app.retry import growing_pause

MAX_IN_FLIGHT = 512
"""Commands that are sent and not answered; further ones are queued. A reply can be a page of a log of 200 kB, so there
must not be thousands of them. A busy event loop reads replies only some ten times a second, so there must be many."""

CLOSED = "the connection to Redis is closed"

_TICKS_PER_TIMEOUT = 8
"""Timeout checks per timeout interval."""


class _Batch:
    """A submitted batch: its packed bytes, the future of its replies, and the ticks at which it was queued and sent."""

    __slots__ = ("is_resent", "packed", "queued_at", "replies", "result", "sent_at", "size")

    def __init__(self, packed: bytes, size: int, tick: int) -> None:
        self.packed = packed
        self.size = size
        self.result: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.queued_at = self.sent_at = tick
        self.replies: list[Any] = []
        self.is_resent = False

    def fail(self, error: StorageUnavailable) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class Pipeline:
    """Sends batches of commands and matches the replies, which come in the same order.

    It connects with the first batch, and again after the connection was lost; the batches without replies are then sent
    once more. `on_demoted` is called when the server refuses writes because it is a replica now: then this pipeline
    connects again, since another server may have the address.

    After it could not connect, the next attempts have pauses between them that grow; until the next one, every batch
    fails at once.
    """

    def __init__(
        self, open_driver: Open, *, timeout_seconds: float, on_demoted: Callable[[], None] = lambda: None
    ) -> None:
        self._open_driver = open_driver
        self._driver: AbstractConnection | None = None
        self._timeout_seconds = timeout_seconds
        self._on_demoted = on_demoted
        self._protocol: RedisProtocol | None = None
        self._opening: asyncio.Task[None] | None = None
        self._queue: deque[_Batch] = deque()
        self._sent: deque[_Batch] = deque()
        self._in_flight = 0
        self._ticks = self._reply_tick = 0
        self._timeout_timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._reopens_at = 0.0  # in the time of the event loop
        self._failure: BaseException = StorageUnavailable(CLOSED)

    @property
    def is_connected(self) -> bool:
        return self._protocol is not None

    @property
    def in_flight(self) -> int:
        """The number of commands that are sent and not answered."""
        return self._in_flight

    def submit(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands and return the future of their replies, in order; an error reply is an exception in the list.

        The future raises `StorageUnavailable` where the connection fails, or no reply comes within twice the timeout.
        Raises `UnicodeEncodeError` or `TypeError` for an argument that cannot be encoded.
        """
        # Packed here, so that the caller gets the error for an argument that cannot be encoded. hiredis packs a command
        # in one call; the driver needs a dozen Python calls.
        return self.submit_packed(b"".join([pack_command(command) for command in commands]), len(commands))

    def submit_packed(self, packed: bytes, size: int) -> asyncio.Future[list[Any]]:
        """Send `size` commands that are packed already, as `submit` does."""
        batch = _Batch(packed, size, self._ticks)
        if not size:
            batch.result.set_result([])
            return batch.result
        self._queue.append(batch)
        self._send_queued()
        if self._timeout_timer is None:
            self._check_timeouts()
        return batch.result

    def abort(self) -> None:
        """Give up the connection; the batches without replies are sent over a new one. Ends a pause, too."""
        self._reopens_at = 0.0
        if self._protocol is not None:
            self._protocol.abort()

    async def close(self) -> None:
        """Fail every batch and disconnect."""
        self._fail_all(StorageUnavailable(CLOSED))
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        self._protocol = None
        await self._disconnect()

    # --- sending and receiving ----------------------------------------------------------------------------------------

    def _send_queued(self) -> None:
        """Send as much as may be in flight. Skips batches whose caller was cancelled."""
        while self._queue and self._in_flight < MAX_IN_FLIGHT:
            batch = self._queue[0]
            if batch.result.done():
                self._queue.popleft()
            elif self._protocol is None:
                if self._opening is None:
                    if asyncio.get_running_loop().time() < self._reopens_at:
                        self._fail_all(self._failure)
                    else:
                        self._opening = _start(self._open())
                return
            elif not self._protocol.is_open:
                return  # `_on_lost` continues
            else:
                self._sent.append(self._queue.popleft())
                self._in_flight += batch.size
                batch.sent_at = self._ticks
                self._protocol.send(batch.packed)

    def _on_reply(self, reply: Any) -> None:
        if isinstance(reply, PushNotification) or not self._sent:
            return  # not the reply to a command
        batch = self._sent[0]
        batch.replies.append(reply)
        self._reply_tick = self._ticks
        self._in_flight -= 1
        if len(batch.replies) == batch.size:
            self._sent.popleft()
            if not batch.result.done():
                batch.result.set_result(batch.replies)
            self._send_queued()
        if isinstance(reply, RedisError):
            self._check_demotion(reply)

    def _check_demotion(self, reply: RedisError) -> None:
        """Reconnect where the server would refuse every further command."""
        if is_read_only(reply) or isinstance(reply, RedisConnectionError):
            self.abort()
            self._on_demoted()

    def _on_lost(self) -> None:
        """Send the batches without replies once more: the server may have restarted, or the network may have failed."""
        unanswered, self._sent = self._sent, deque()
        self._protocol, self._in_flight = None, 0
        for batch in reversed(unanswered):
            if batch.is_resent:
                batch.fail(StorageUnavailable("the connection to Redis broke again"))
            else:
                batch.is_resent, batch.replies = True, []
                self._queue.appendleft(batch)
        self._send_queued()

    async def _open(self) -> None:
        try:
            await self._disconnect()
            self._driver = await self._open_driver()
            self._protocol = attach(self._driver, self._on_reply, self._on_lost)
            self._failures = 0
        except DRIVER_ERRORS as error:
            self._failures, self._failure = self._failures + 1, error
            self._reopens_at = asyncio.get_running_loop().time() + growing_pause(self._failures)
            self._fail_all(error)
        finally:
            self._opening = None
        self._send_queued()

    async def _disconnect(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.disconnect(nowait=True)

    # --- timeouts -----------------------------------------------------------------------------------------------------

    def _check_timeouts(self) -> None:
        """Abort a silent connection and fail the batches that have waited too long; one timer serves all of them.

        A connection is dead where a reply is due and none came for the timeout; a batch fails after twice the timeout.
        Both are counted in calls of this method and not in seconds: while this process is busy, replies may be unread.
        """
        self._ticks += 1
        if self._protocol is not None and self._sent:
            silent_since = max(self._sent[0].sent_at, self._reply_tick)
            if silent_since + _TICKS_PER_TIMEOUT < self._ticks:
                self._protocol.abort()
        for batches in (self._sent, self._queue):  # the oldest first
            for batch in takewhile(lambda each: each.queued_at + 2 * _TICKS_PER_TIMEOUT < self._ticks, batches):
                batch.fail(unavailable(TimeoutError()))
        if self._sent or self._queue:
            interval_seconds = self._timeout_seconds / _TICKS_PER_TIMEOUT
            self._timeout_timer = asyncio.get_running_loop().call_later(interval_seconds, self._check_timeouts)
        else:
            self._timeout_timer = None

    def _fail_all(self, error: BaseException) -> None:
        for batch in (*self._sent, *self._queue):
            batch.fail(error if isinstance(error, StorageUnavailable) else unavailable(error))
        self._queue.clear()


def _start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a task in a new context: a connection would keep the context of the caller for as long as it lasts."""
    return asyncio.create_task(work, context=contextvars.Context())
