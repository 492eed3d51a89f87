"""How late this process is: what every request and every run waits for before its turn comes.

Runs are refused while it has been too late for too long, so that those it took end in time. A burst is no overload: it
is worked off. So is the rule of CoDel for queues (RFC 8289): not how long one is counts, but whether it stays so.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

_SAMPLE_SECONDS = 0.05
_SHARE = 0.2
"""Of one sample in the mean: one long step is not load."""
_PATIENCE_SECONDS = 3.0

log = structlog.get_logger(__name__)


class Load:
    """The mean delay of a timer, and what follows from it."""

    def __init__(self, *, most_seconds: float) -> None:
        """`most_seconds`: the mean delay that is too long; 0: none is."""
        self._most_seconds = most_seconds
        self.lag_seconds = 0.0
        self._is_late = self._is_overload = False
        self._unchanged_seconds = 0.0
        self._sampler: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._sampler = asyncio.create_task(self._sample())

    async def stop(self) -> None:
        if self._sampler is not None:
            self._sampler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sampler

    @property
    def is_too_much(self) -> bool:
        """From when the process has been late for a while, whenever it is late, until it has not been for a while."""
        return self._is_overload and self._is_late

    def notice(self, late_seconds: float) -> None:
        """One sample."""
        self.lag_seconds += _SHARE * (late_seconds - self.lag_seconds)
        is_late = 0 < self._most_seconds < self.lag_seconds
        same = is_late == self._is_late
        self._unchanged_seconds = self._unchanged_seconds + _SAMPLE_SECONDS + late_seconds if same else 0.0
        self._is_late = is_late
        if self._unchanged_seconds >= _PATIENCE_SECONDS and self._is_overload != is_late:
            self._is_overload = is_late
            log.warning("load.refusing" if is_late else "load.accepting", lag_ms=round(self.lag_seconds * 1000))

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _SAMPLE_SECONDS
            await asyncio.sleep(_SAMPLE_SECONDS)
            self.notice(max(0.0, loop.time() - due))
