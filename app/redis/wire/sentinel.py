"""Redis Sentinel: which server is the master now, and the news that it is another one.

The sentinels agree on a new master after a failover. The one that has carried it out knows it first, so of their
answers the one with the highest configuration epoch counts. A sentinel can also keep an earlier master under the same
epoch, so of several such answers the one that most sentinels give counts. The message `+switch-master` is followed.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable
from typing import Any

import structlog
from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import MasterNotFoundError

from app.errors import StorageUnavailable
from app.ports.redis_address import Server
from app.redis.wire.driver_protocol import attach
from app.redis.wire.drivers import Drivers
from app.redis.wire.errors import DRIVER_ERRORS
from app.redis.wire.pipeline import Pipeline
from app.redis.wire.script import Command
from app.retry import growing_pause

_SWITCH = "+switch-master"
_SUBSCRIBE: Command = ("SUBSCRIBE", _SWITCH)
_MAX_ANSWER_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Sentinels:
    """`on_switch` is called when another server has become the master: open connections lead to the former one.

    A connection to the former master that is being opened needs nothing: `open_master` gives it up by itself.
    """

    def __init__(self, drivers: Drivers, *, timeout_seconds: float, on_switch: Callable[[], None]) -> None:
        self._drivers = drivers
        self._name = drivers.address.master or ""
        # During a failover the address is that of the new master already, and that in the state is not.
        self._queries: tuple[Command, ...] = (
            ("SENTINEL", "MASTER", self._name),
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name),
        )
        self._on_switch = on_switch
        self._answer_seconds = min(timeout_seconds, _MAX_ANSWER_SECONDS)
        self._pipelines = {
            server: Pipeline(_opener(drivers, server), timeout_seconds=timeout_seconds)
            for server in drivers.address.servers
        }
        self._master: Server | None = None
        self._openings: dict[asyncio.Timeout, Server | None] = {}
        """The connections that are being opened; None where the master is still being queried."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Listen for the news of all sentinels from now on."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._stay_subscribed(server), context=contextvars.Context())
                for server in self._pipelines
            ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *(it.close() for it in self._pipelines.values()), return_exceptions=True)

    async def open_master(self, *, retries: int = 1, protocol: int = 3) -> AbstractConnection:
        """Return an open connection to the master. Raises one of `DRIVER_ERRORS`.

        The former master may hang, so where the master changes meanwhile, the new one is tried at once.
        """
        while True:
            opening = asyncio.timeout(None)
            try:
                async with opening:
                    self._openings[opening] = None
                    master = self._openings[opening] = await self._find_master()
                    if opening.when() is None:  # else the answers are older than the news
                        self._set_master(master)
                    driver = await self._drivers.open(master, retries=retries, protocol=protocol)
            except TimeoutError:
                if opening.expired():
                    continue
                raise
            finally:
                self._openings.pop(opening, None)
            if master == self._master:
                return driver
            await driver.disconnect(nowait=True)  # the master changed just when the connection was open

    def _set_master(self, master: Server) -> None:
        """Leave the former master, if there was one: in any way it became known that this one is the master now."""
        former, self._master = self._master, master
        if former is None or master == former:
            return
        log.warning("redis.master_switched", master=str(master))
        for opening, server in self._openings.items():
            if server != master and opening.when() is None:
                opening.reschedule(asyncio.get_running_loop().time())
        self._on_switch()

    async def _find_master(self) -> Server:
        """Raises the driver's `MasterNotFoundError` where no sentinel knows a master of this name."""
        answers = await asyncio.gather(*map(self._query, self._pipelines))
        votes = Counter(answer for answer in answers if answer is not None)
        if not votes:
            raise MasterNotFoundError(f"no sentinel that answers knows the master {self._name}")
        _, master = max(votes, key=lambda answer: (answer[0], votes[answer]))
        return master

    async def _query(self, sentinel: Server) -> tuple[int, Server] | None:
        """Return the epoch and the master that a sentinel knows, or None."""
        try:
            async with asyncio.timeout(self._answer_seconds):
                state, address = await self._pipelines[sentinel].submit(self._queries)
            fields = dict(zip(state[::2], state[1::2], strict=True))
            return int(fields[b"config-epoch"]), Server(address[0].decode(), int(address[1]))
        except (StorageUnavailable, TimeoutError, KeyError, ValueError, TypeError, AttributeError):
            return None

    async def _stay_subscribed(self, sentinel: Server) -> None:
        failures = 0

        def on_message(message: Any) -> None:
            nonlocal failures
            if not isinstance(message, Exception):  # the subscription is acknowledged
                failures = 0
            self._on_message(message)

        while True:
            lost = asyncio.Event()
            try:
                driver = await self._drivers.open_sentinel(sentinel)
                try:
                    protocol = attach(driver, on_message, lost.set)
                    protocol.send(pack_command(_SUBSCRIBE))
                    await lost.wait()
                finally:
                    await driver.disconnect(nowait=True)
            except DRIVER_ERRORS as error:
                log.debug("sentinel.lost", cause=type(error).__name__)
            failures += 1
            await asyncio.sleep(growing_pause(failures))

    def _on_message(self, message: Any) -> None:
        """Follow `<name> <old host> <old port> <new host> <new port>`; every sentinel sends it."""
        if not isinstance(message, list) or message[:2] != [b"message", _SWITCH.encode()]:
            return
        words = message[2].decode("utf-8", "replace").split()
        if len(words) != 5 or words[0] != self._name or not words[4].isdecimal():
            return
        self._set_master(Server(words[3], int(words[4])))


def _opener(drivers: Drivers, sentinel: Server) -> Callable[[], Any]:
    return lambda: drivers.open_sentinel(sentinel)
