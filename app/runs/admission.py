"""Where runs come in: first come, first served, some at each beat.

So the runs under way keep their turns, and Redis its short queue, in which a lease must not wait behind thousands of
newcomers; and so it is known how many wait.

Runs are refused once a queue has stood for a while and a newcomer would wait too long in it. It takes both, so that a
burst is worked off (as in CoDel, RFC 8289: it counts whether a queue stays, not how long it gets), and so is a crowd
that stays large but does not grow. Both are counted in processor time of this process: where others have taken the
processor everything is late, but less work here would help nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import structlog

from app.errors import ServiceBusy

_A_BEAT = 16
_BEAT_SECONDS = 0.005
"""At least; a busy event loop has longer ones. When nothing else is to be done this lets 3,200 in a second."""
_PATIENCE_SECONDS = 3.0
"""In which all of a burst must have come: else the last of 2,000 would be refused because of the others."""

log = structlog.get_logger(__name__)


class AdmissionQueue:
    """One process's."""

    def __init__(self, *, most_seconds: float, processor_seconds: Callable[[], float] = time.process_time) -> None:
        """`most_seconds`: of processor time, the wait that is too long; 0: none is."""
        self._most_seconds = most_seconds
        self._processor_seconds = processor_seconds
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._free = _A_BEAT
        self._beat: asyncio.TimerHandle | None = None
        self._stands_since = 0.0
        self._seconds_each = 0.0
        self._is_refusing = False

    def check(self) -> None:
        """Raises `ServiceBusy` where a newcomer would wait for too long."""
        wait_seconds = len(self._waiting) * self._seconds_each
        if not 0 < self._most_seconds < wait_seconds:
            return
        if self._processor_seconds() - self._stands_since < _PATIENCE_SECONDS:
            return
        if not self._is_refusing:
            self._is_refusing = True
            log.warning("door.refusing", waiting=len(self._waiting), wait_seconds=round(wait_seconds, 1))
        raise ServiceBusy(f"{len(self._waiting)} runs wait here to begin; ask again")

    async def acquire(self) -> None:
        """Back when it is the caller's turn."""
        if self._beat is None:
            self._begin_beat()
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        came = self._processor_seconds()
        if not self._waiting:
            self._stands_since = came
        self._waiting.append(turn)
        place = len(self._waiting)
        await turn
        self._seconds_each = (self._processor_seconds() - came) / max(place, _A_BEAT)

    def _begin_beat(self) -> None:
        self._free = _A_BEAT
        while self._waiting and self._free:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._free -= 1
        if self._is_refusing and not self._waiting:
            self._is_refusing = False
            log.warning("door.open")
        self._beat = asyncio.get_running_loop().call_later(_BEAT_SECONDS, self._end_beat)

    def _end_beat(self) -> None:
        self._beat = None
        if self._free < _A_BEAT:
            self._begin_beat()
