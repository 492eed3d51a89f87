"""Clocks for tests: one that only the test advances, and one that runs ten times as fast. `app.testing.clock` has one
that is ahead of real time.

freezegun follows the first one; the timers of the event loop stay real.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from app.clock import SystemClock

START = 1_795_000_000.0


class FrozenClock:
    """`ports.Clock` on top of freezegun. `advance` moves the time and wakes the tasks whose time has been reached."""

    def __init__(self, frozen: FrozenDateTimeFactory) -> None:
        self._frozen = frozen
        self._ticked = asyncio.Event()

    def now(self) -> float:
        return datetime.now(UTC).timestamp()

    def advance(self, seconds: float) -> None:
        self._frozen.tick(seconds)
        ticked, self._ticked = self._ticked, asyncio.Event()
        ticked.set()

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        while not event.is_set():
            if until is not None and self.now() >= until:
                return
            waits = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._ticked.wait())}
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()


@contextmanager
def frozen_clock(at: float = START) -> Iterator[FrozenClock]:
    with freeze_time(datetime.fromtimestamp(at, UTC), real_asyncio=True) as frozen:
        assert isinstance(frozen, FrozenDateTimeFactory)
        yield FrozenClock(frozen)


class HurriedClock(SystemClock):
    """Shorten the pauses between attempts, which are not what is tested."""

    FACTOR = 10

    def __init__(self) -> None:
        self._began = time.time()

    def now(self) -> float:
        return self._began + (time.time() - self._began) * self.FACTOR

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        await super().wait(event, None if until is None else self.now() + (until - self.now()) / self.FACTOR)
