"""A clock that a test moves: real time, plus the seconds by which it was advanced."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from app.clock import SystemClock


@dataclass(eq=False, slots=True)
class _Alarm:
    """A wait for a time: `timer` sets `event` at `until` (Unix s)."""

    event: asyncio.Event
    until: float
    timer: asyncio.TimerHandle


class ClockAhead(SystemClock):
    """Real time plus `ahead` seconds (`ports.clock.Clock`)."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._alarms: set[_Alarm] = set()

    def now(self) -> float:
        return super().now() + self.ahead

    def advance(self, seconds: float) -> None:
        """Move the clock forward, and wake what waits for a time that has come. Call it in the thread of the loop.

        Raises `ValueError` for a negative number: the time of a service does not run back.
        """
        if seconds < 0:
            raise ValueError(f"a clock moves forward only, not by {seconds:g} s")
        self.ahead += seconds
        for alarm in self._alarms:
            alarm.timer.cancel()
            alarm.timer = self._timer(alarm.event, alarm.until)

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        if until is None or event.is_set():
            await event.wait()
            return
        alarm = _Alarm(event, until, self._timer(event, until))
        self._alarms.add(alarm)
        try:
            await event.wait()
        finally:
            alarm.timer.cancel()
            self._alarms.discard(alarm)

    def _timer(self, event: asyncio.Event, until: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, until - self.now()), event.set)
