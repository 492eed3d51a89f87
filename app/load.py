"""How late this process is: what every request and every run waits for before its turn comes.

Runs are refused while it has been too late for too long, so that those it took end in time. A burst is no overload: it
is worked off. So is the rule of CoDel for queues (RFC 8289): not how long one is counts, but whether it stays so. Nor
is it overload where others have taken the processor: less work here would not help.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

_SAMPLE_SECONDS = 0.05
_SHARE = 0.2
"""Of one sample in the mean: one long step is not load."""
_PATIENCE_SECONDS = 3.0
_BUSY_SHARE = 0.5
"""Of a processor: who has less of it is not late by his own work."""

log = structlog.get_logger(__name__)


class Load:
    """The mean delay of a timer, the mean share of a processor, and what follows from them."""

    def __init__(self, *, most_seconds: float) -> None:
        """`most_seconds`: the mean delay that is too long; 0: none is."""
        self._most_seconds = most_seconds
        self.lag_seconds = self.busy_share = 0.0
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

    def notice(self, late_seconds: float, busy_share: float) -> None:
        """One sample: how late a timer was, and how much of a processor this process had since the last."""
        self.lag_seconds += _SHARE * (late_seconds - self.lag_seconds)
        self.busy_share += _SHARE * (busy_share - self.busy_share)
        is_late = 0 < self._most_seconds < self.lag_seconds and self.busy_share > _BUSY_SHARE
        same = is_late == self._is_late
        self._unchanged_seconds = self._unchanged_seconds + _SAMPLE_SECONDS + late_seconds if same else 0.0
        self._is_late = is_late
        if self._unchanged_seconds >= _PATIENCE_SECONDS and self._is_overload != is_late:
            self._is_overload = is_late
            log.warning("load.refusing" if is_late else "load.accepting", lag_ms=round(self.lag_seconds * 1000))

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began, busy = loop.time(), time.process_time()
            await asyncio.sleep(_SAMPLE_SECONDS)
            took = loop.time() - began
            self.notice(max(0.0, took - _SAMPLE_SECONDS), (time.process_time() - busy) / took)
