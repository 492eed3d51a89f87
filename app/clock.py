"""The system clock: the only code that reads the wall clock or waits for a time."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Wall-clock time (`ports.clock.Clock`)."""

    def now(self) -> float:
        return time.time()

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        if until is None or event.is_set():
            await event.wait()
            return
        alarm = asyncio.get_running_loop().call_later(max(0.0, until - self.now()), event.set)
        try:
            await event.wait()
        finally:
            alarm.cancel()
