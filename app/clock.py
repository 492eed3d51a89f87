"""The system's clock: the only place where the service asks what time it is, or waits for a time."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Wall-clock time. A wait is a timer that only wakes the comparison with the clock."""

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
