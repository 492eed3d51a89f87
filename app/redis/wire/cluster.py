"""Commands to a Redis Cluster: each goes to the master of its slot, over one pipelined connection for each master.

The map of the cluster is read again every few seconds, and at once when something points to a change: a redirect, a
node that fails, a slot without a master. Any living node can give it.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from hiredis import pack_command

from app.errors import StorageUnavailable
from app.ports.redis_address import Server
from app.redis.wire.drivers import Drivers
from app.redis.wire.errors import is_read_only, unavailable
from app.redis.wire.map_reader import MapReader
from app.redis.wire.pipeline import CLOSED, Pipeline
from app.redis.wire.scanning import scan_keys
from app.redis.wire.script import Command
from app.redis.wire.topology import Topology, is_passing, redirect_of, slot_of

_MAX_REDIRECTS_AT_ONCE = 5
_FIRST_PAUSE_SECONDS = 0.02
_MAX_PAUSE_SECONDS = 0.5
_ASKING = pack_command(("ASKING",))
"""Before a command to a node that does not own the slot yet."""


class _Batch:
    """A submitted batch: its packed commands, their slots, and the replies that have come."""

    __slots__ = ("attempts", "deadline", "missing", "packed", "replies", "result", "slots")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.packed = [pack_command(command) for command in commands]  # raises for an argument that cannot be encoded
        self.slots = [slot_of(command) for command in commands]
        self.replies: list[Any] = [None] * len(commands)
        self.missing = len(commands)
        self.attempts = 0
        self.deadline: asyncio.TimerHandle | None = None
        self.result: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def put(self, index: int, reply: Any) -> None:
        self.replies[index] = reply
        self.missing -= 1
        if not self.missing and not self.result.done():
            self.result.set_result(self.replies)
            self._cancel_deadline()

    def fail(self, error: StorageUnavailable) -> None:
        if not self.result.done():
            self.result.set_exception(error)
            self._cancel_deadline()

    def _cancel_deadline(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()


class Cluster:
    """Sends the commands of a batch at the same time and returns the replies in the order of the commands."""

    def __init__(self, drivers: Drivers, *, timeout_seconds: float) -> None:
        self._drivers = drivers
        self._timeout_seconds = timeout_seconds
        self._pipelines: dict[Server, Pipeline] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._masters: list[Server | None] = []
        self._reader = MapReader(
            drivers.address.servers, self._query_node, self._follow, timeout_seconds=timeout_seconds
        )
        self.request_map = self._reader.request
        self.followers: list[Callable[[Topology], None]] = []
        """They are called with each new map of the cluster."""

    @property
    def in_flight(self) -> int:
        """The number of commands that are sent and not answered."""
        return sum(pipeline.in_flight for pipeline in self._pipelines.values())

    @property
    def topology(self) -> Topology | None:
        """The map as it was read last."""
        return self._reader.topology

    async def start(self) -> None:
        """Read the map of the cluster. Raises `StorageUnavailable` where no node gives it."""
        try:
            await self._reader.start()
        except StorageUnavailable:
            await self.close()
            raise

    def submit(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands and return the future of their replies, in order; an error reply is an exception in the list.

        A command whose node fails or redirects it is sent again, until twice the timeout has passed: then the future
        raises `StorageUnavailable`. Raises `UnicodeEncodeError` or `TypeError` for an argument that cannot be encoded.
        """
        batch = _Batch(commands)
        if not commands:
            batch.result.set_result([])
        else:
            self._send(batch, range(len(commands)))
        return batch.result

    def home_of(self, command: Command) -> Server | None:
        """Return the master that holds the slot of a command, None where there is none at the moment, or no slot."""
        slot = slot_of(command)
        return None if slot is None else self._masters[slot]

    async def query_masters(self, command: Command, *, within_seconds: float | None = None) -> list[Any]:
        """Return the replies of all masters that answer in time. Raises `StorageUnavailable` if there is none."""

        async def query(server: Server) -> Any:
            async with asyncio.timeout(within_seconds):
                return (await self._query_node(server, [command]))[0]

        results = await asyncio.gather(*map(query, self._all_masters()), return_exceptions=True)
        replies = [result for result in results if not isinstance(result, StorageUnavailable | TimeoutError)]
        if not replies:
            raise StorageUnavailable("no master of the Redis cluster answers")
        return replies

    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Iterate over the names of the keys that match a pattern, master after master. Raises `StorageUnavailable`."""
        for server in self._all_masters():
            async for names in scan_keys(partial(self._query_node, server), pattern):
                yield names

    async def close(self) -> None:
        """Fail every batch and disconnect from all nodes."""
        self._is_closed = True
        await self._reader.stop()
        await asyncio.gather(*self._closing, *(pipeline.close() for pipeline in self._pipelines.values()))
        self._pipelines.clear()

    # --- sending ------------------------------------------------------------------------------------------------------

    def _send(self, batch: _Batch, indexes: Iterable[int]) -> None:
        """Send these commands of a batch, each to the master of its slot, unless the caller does not wait any more."""
        if self._is_closed:
            batch.fail(StorageUnavailable(CLOSED))
        if batch.result.done():
            return
        groups: dict[Server | None, list[int]] = defaultdict(list)
        anywhere: Server | None = None
        for index in indexes:
            slot = batch.slots[index]
            if slot is None:
                anywhere = anywhere or self._any_master()
            groups[anywhere if slot is None else self._masters[slot]].append(index)
        for server, group in groups.items():
            if server is None:
                self._send_later(batch, group, StorageUnavailable("no node of the Redis cluster serves this slot"))
            else:
                self._send_to(server, batch, group)

    def _send_to(
        self, server: Server, batch: _Batch, group: list[int], *, redirects: int = 0, is_asking: bool = False
    ) -> None:
        """Send commands to one node; with `is_asking` it answers although the slot is still on its way to it.

        `redirects` is the number of nodes that have sent them on without a pause.
        """
        packed = [batch.packed[index] for index in group]
        if is_asking:
            packed = [part for command in packed for part in (_ASKING, command)]
        replies = self._pipeline(server).submit_packed(b"".join(packed), len(packed))
        step = 2 if is_asking else 1  # each reply follows one to `ASKING`
        replies.add_done_callback(partial(self._on_replies, batch, group, server, step, redirects))

    def _on_replies(
        self,
        batch: _Batch,
        group: list[int],
        server: Server,
        step: int,
        redirects: int,
        replies: asyncio.Future[list[Any]],
    ) -> None:
        """Take over every `step`th reply of one node."""
        error = replies.exception()
        if batch.result.done():
            return
        if error is not None:
            self._reader.request()
            self._send_later(batch, group, error if isinstance(error, StorageUnavailable) else unavailable(error))
            return
        for index, reply in zip(group, replies.result()[step - 1 :: step], strict=True):
            if isinstance(reply, Exception):
                self._on_error(batch, index, server, redirects, reply)
            else:
                batch.put(index, reply)

    def _on_error(self, batch: _Batch, index: int, server: Server, redirects: int, reply: Exception) -> None:
        """Follow a redirect, try again what can succeed in a moment, and hand every other error to the caller."""
        redirect = redirect_of(reply, server)
        if redirect is None and not is_passing(reply) and not is_read_only(reply):
            batch.put(index, reply)
            return
        if redirect is None or redirect.is_for_good:
            self._reader.request()
        if redirect is None or redirects >= _MAX_REDIRECTS_AT_ONCE:  # two nodes may send it back and forth
            self._send_later(batch, [index], unavailable(reply))
            return
        if redirect.is_for_good:
            self._masters[redirect.slot] = redirect.server
        is_asking = not redirect.is_for_good
        self._send_to(redirect.server, batch, [index], redirects=redirects + 1, is_asking=is_asking)

    def _send_later(self, batch: _Batch, group: list[int], error: StorageUnavailable) -> None:
        """Send commands again after a pause that grows; `error` is what the caller gets if the time is over."""
        loop = asyncio.get_running_loop()
        if batch.deadline is None:
            batch.deadline = loop.call_later(2 * self._timeout_seconds, batch.fail, error)
        batch.attempts += 1
        pause_seconds = min(_FIRST_PAUSE_SECONDS * 2 ** min(batch.attempts, 10), _MAX_PAUSE_SECONDS)
        loop.call_later(pause_seconds, self._send, batch, group)

    def _pipeline(self, server: Server) -> Pipeline:
        found = self._pipelines.get(server)
        if found is None:
            found = self._pipelines[server] = Pipeline(
                lambda: self._drivers.open(server), timeout_seconds=self._timeout_seconds
            )
        return found

    def _all_masters(self) -> list[Server]:
        return sorted({server for server in self._masters if server is not None})

    def _any_master(self) -> Server | None:
        """Return a master that is connected, or else any."""
        connected = [server for server, pipeline in self._pipelines.items() if pipeline.is_connected]
        return random.choice(connected or self._all_masters() or [None])  # noqa: S311 - not for cryptography

    # --- all nodes ----------------------------------------------------------------------------------------------------

    async def _query_node(self, server: Server, commands: Sequence[Command]) -> list[Any]:
        """Send commands to one node. Raises `StorageUnavailable`."""
        return await self._pipeline(server).submit(commands)

    def _follow(self, topology: Topology) -> None:
        """Follow a new map. What a server without slots has not answered is sent to the new masters."""
        self._masters = list(topology.masters)
        for server in self._pipelines.keys() - topology.all_masters:
            pipeline = self._pipelines.pop(server)
            task = asyncio.create_task(pipeline.close(), context=contextvars.Context())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for follow in self.followers:
            follow(topology)
