"""Commands to a Redis Cluster: each goes to the node that holds its key."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis.asyncio.cluster import RedisCluster

from app.errors import StorageUnavailable
from app.redis.wire.errors import DRIVER_ERRORS, unavailable
from app.redis.wire.pipeline import CLOSED, MAX_IN_FLIGHT, SCANNED_KEYS
from app.redis.wire.script import Command


class _Batch:
    """A submitted batch: its commands and the future of their replies."""

    __slots__ = ("commands", "result")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.result: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def fail(self, error: StorageUnavailable) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class Cluster:
    """Sends the commands of a batch at the same time and returns the replies in the order of the commands."""

    def __init__(self, client: RedisCluster, *, timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._queue: deque[_Batch] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """The number of commands that are sent and not answered."""
        return self._in_flight

    def submit(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands and return the future of their replies, in order; an error reply is an exception in the list.

        The future raises `StorageUnavailable` where no reply comes in time.
        Raises `UnicodeEncodeError` or `TypeError` for an argument that cannot be encoded.
        """
        for command in commands:
            pack_command(command)  # raises here, for the caller; the client packs the command again
        batch = _Batch(commands)
        if not commands:
            batch.result.set_result([])
            return batch.result
        timer = asyncio.get_running_loop().call_later(
            2 * self._timeout_seconds, lambda: batch.fail(unavailable(TimeoutError()))
        )
        batch.result.add_done_callback(lambda _: timer.cancel())
        self._queue.append(batch)
        self._send_queued()
        return batch.result

    async def load_script(self, text: str) -> None:
        """Load a script on every node that holds keys. Raises `StorageUnavailable`."""
        try:
            await self._client.script_load(text)
        except DRIVER_ERRORS as error:
            raise unavailable(error) from error

    async def find_keys(self, pattern: str) -> list[bytes]:
        """Return the names of all keys on all masters that match a pattern. Raises `StorageUnavailable`."""
        try:
            return list({name async for name in self._client.scan_iter(pattern, count=SCANNED_KEYS)})
        except DRIVER_ERRORS as error:
            raise unavailable(error) from error

    async def close(self) -> None:
        """Fail every batch and disconnect from all nodes."""
        for batch in self._queue:
            batch.fail(StorageUnavailable(CLOSED))
        self._queue.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def _send_queued(self) -> None:
        """Send as much as may be in flight. Skips batches whose caller was cancelled."""
        while self._queue and self._in_flight < MAX_IN_FLIGHT:
            batch = self._queue.popleft()
            if not batch.result.done():
                self._in_flight += len(batch.commands)
                # In a new context: a connection would keep the context of the caller for as long as it lasts.
                task = asyncio.create_task(self._send(batch), context=contextvars.Context())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _send(self, batch: _Batch) -> None:
        try:
            async with asyncio.timeout(2 * self._timeout_seconds):
                replies = await asyncio.gather(
                    *(self._client.execute_command(*command) for command in batch.commands), return_exceptions=True
                )
            if not batch.result.done():
                batch.result.set_result(replies)
        except TimeoutError as error:
            batch.fail(unavailable(error))
        finally:
            self._in_flight -= len(batch.commands)
            batch.fail(StorageUnavailable(CLOSED))  # a no-op unless the task was cancelled
        self._send_queued()
