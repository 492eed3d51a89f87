"""Group commit: the commits of all runs that arrive during a write are sent together in the next one.

In a cluster each master has a queue of its own, so that one that does not answer delays only the runs that it holds.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import Any

import structlog

from app.errors import StorageUnavailable
from app.ports.redis_address import Server
from app.redis.wire.connection import Connection
from app.redis.wire.script import Command
from app.retry import growing_pause

_FIRST_PAUSE_SECONDS = 0.05

log = structlog.get_logger(__name__)


class CommitQueue:
    """Writes commands, one pipeline at a time for each master, and retries them while Redis is unavailable.

    A command may be executed twice, so it must be idempotent. Commands whose order matters must be written one after
    the other: when a slot moves to another master, its next command is in another queue.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._queues: dict[Server | None, _MasterQueue] = {}

    async def stop(self) -> None:
        await asyncio.gather(*(queue.stop() for queue in self._queues.values()))

    async def write(self, command: Command) -> Any:
        """Write a command and return its reply, however long Redis is unavailable. Raises any other error."""
        future = self._queue(self._connection.home_of(command)).add(command)
        return await future

    def write_later(self, command: Command) -> None:
        """Write a command without a result: together with the next one, or soon in a cluster, where the next one may be
        for another master."""
        queue = self._queue(self._connection.home_of(command))
        queue.add(command, starts_write=self._connection.stats().is_cluster)

    def _queue(self, home: Server | None) -> _MasterQueue:
        found = self._queues.get(home)
        if found is None:
            found = self._queues[home] = _MasterQueue(self._connection)
        return found


class _MasterQueue:
    """The commands that wait for one master of a cluster, or for the only one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._queue: list[tuple[Command, asyncio.Future[Any]]] = []
        self._has_commands = asyncio.Event()
        # In a context of its own: else it would log under the name of the run that needs it first.
        self._writer = asyncio.create_task(self._write(), context=contextvars.Context())

    async def stop(self) -> None:
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)

    def add(self, command: Command, *, starts_write: bool = True) -> asyncio.Future[Any]:
        """Return the future of the reply. Without `starts_write` the command waits for one that has it."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((command, future))
        if starts_write:
            self._has_commands.set()
        return future

    async def _write(self) -> None:
        failures = 0
        while True:
            await self._has_commands.wait()
            self._has_commands.clear()
            batch, self._queue = self._queue, []
            unwritten = await self._write_batch(batch)
            if not unwritten:
                failures = 0
                continue
            if failures == 0:
                log.warning("journal.paused", commits=len(unwritten))
            self._queue = unwritten + self._queue
            self._has_commands.set()
            failures += 1
            await asyncio.sleep(growing_pause(failures, first_seconds=_FIRST_PAUSE_SECONDS))

    async def _write_batch(
        self, batch: Sequence[tuple[Command, asyncio.Future[Any]]]
    ) -> list[tuple[Command, asyncio.Future[Any]]]:
        """Set the results of a batch. Returns what must be retried; commands whose caller was cancelled are dropped."""
        results = await self._results([command for command, _ in batch])
        unwritten = []
        for (command, future), result in zip(batch, results, strict=True):
            if future.cancelled():
                continue
            if isinstance(result, StorageUnavailable):
                unwritten.append((command, future))
            elif isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        return unwritten

    async def _results(self, commands: Sequence[Command]) -> list[Any]:
        """Return the reply or the error of each command. Never raises: the writer serves all runs."""
        try:
            return await self._connection.pipeline_results(commands)
        except StorageUnavailable as error:
            return [error] * len(commands)
        except Exception as error:  # noqa: BLE001 - a command that cannot be encoded must not fail those of other runs
            if len(commands) == 1:
                return [error]
            return [one for (one,) in await asyncio.gather(*(self._results([command]) for command in commands))]
