"""The system's clock: the only place where the service asks what time it is, or waits for a time."""

from __future__ import annotations

import asyncio
import time

from app.ports import AnyEvent


class SystemClock:
    """Wall-clock time. A wait is a timer that only wakes the comparison with the clock."""

    def now(self) -> float:
        return time.time()

    async def wait(self, event: AnyEvent, until: float | None) -> bool:
        while not event.is_set():
            left = None if until is None else until - self.now()
            if left is not None and left <= 0:
                return False
            try:
                async with asyncio.timeout(left):
                    await event.wait()
            except TimeoutError:
                continue
        return True
