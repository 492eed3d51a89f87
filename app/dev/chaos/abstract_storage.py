"""What every Redis of an experiment can do (`Storage`); its kinds are in `storage`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from app.dev.chaos.faults import Fault
from app.dev.chaos.injected import Outage
from app.dev.chaos.link import Links
from app.dev.demo.redis import RedisNotStarted
from app.errors import ConfigurationError

T = TypeVar("T")


class Storage(ABC):
    """The servers; also an async context manager, which starts and stops them.

    All of that is done in one thread: a server ends with the thread that started it. `replicas` is how many replicas
    acknowledge what must not be lost (`AURA_REDIS_REPLICAS`).
    """

    max_replicas = 0
    """How many replicas a master has."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas
        self.problems: list[str] = []
        """Faults that failed, and what did not heal in time, as texts."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="redis")

    async def __aenter__(self) -> Self:
        """Raises `ConfigurationError` where a server cannot be started."""
        try:
            await self._in_thread(self._start)
        except BaseException as error:
            await self.__aexit__()
            if isinstance(error, RedisNotStarted):
                raise ConfigurationError(f"Redis cannot be started: {error}; install Redis 7 or Valkey") from error
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._in_thread(self._stop)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @property
    @abstractmethod
    def url(self) -> str:
        """The address of Redis for the experiment itself, which has no faults on its way."""

    @abstractmethod
    def links(self, index: int) -> Links:
        """Return the ways of a node to the servers, which are not open yet."""

    async def settle(self) -> None:
        """Wait until nothing is left of earlier faults."""
        return

    @abstractmethod
    async def inject(self, fault: Fault, outage: Outage) -> None:
        """Carry out a fault of Redis, and note its outage. Returns when the servers have healed."""

    async def master_port(self, index: int) -> int | None:
        """Return the port of one of several masters; None where there is only one."""
        return None

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None: ...
