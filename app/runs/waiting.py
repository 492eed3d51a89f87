"""The runs of this process that wait for a person (CONTRACT §4).

Of a waiting run only its lock and its deadline are kept in memory: no task, no checkpoint, no timer of its own. One
timer serves all deadlines.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass

from app.ports.clock import Clock
from app.ports.journal import RunLock

_MAX_STALE_DEADLINES = 1000


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """A waiting run: the right to write it, the request it waits for, and its deadline `until` (Unix s)."""

    lock: RunLock
    request_id: str
    until: float


class WaitingRuns:
    """The set of waiting runs. `on_due` is called with the session id of each run whose deadline has passed."""

    def __init__(self, clock: Clock, on_due: Callable[[str], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._runs: dict[str, WaitingRun] = {}
        self._deadlines: list[tuple[float, str]] = []
        """A min-heap of deadlines; stale entries are removed lazily."""
        self._has_earlier_deadline = asyncio.Event()
        self._timer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the timer of the deadlines."""
        self._timer = asyncio.create_task(self._watch_deadlines())

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def deadline_count(self) -> int:
        """The size of the heap, stale entries included."""
        return len(self._deadlines)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._runs

    def add(self, run: WaitingRun) -> None:
        session_id = run.lock.session_id
        self._runs[session_id] = run
        if len(self._deadlines) > 2 * len(self._runs) + _MAX_STALE_DEADLINES:
            self._deadlines = [(waiting.until, id) for id, waiting in self._runs.items()]
            heapq.heapify(self._deadlines)
        else:
            heapq.heappush(self._deadlines, (run.until, session_id))
        if self._deadlines[0][0] == run.until:
            self._has_earlier_deadline.set()

    def pop(self, session_id: str) -> WaitingRun | None:
        """Remove and return a run; None where it does not wait here."""
        return self._runs.pop(session_id, None)

    @property
    def locks(self) -> list[RunLock]:
        """The locks of all runs that wait here."""
        return [run.lock for run in self._runs.values()]

    def pop_all(self) -> list[RunLock]:
        """Remove every run and return their locks."""
        locks = self.locks
        self._runs.clear()
        self._deadlines.clear()
        return locks

    def close(self) -> list[RunLock]:
        """Stop the timer, remove every run and return their locks."""
        if self._timer is not None:
            self._timer.cancel()
        return self.pop_all()

    async def _watch_deadlines(self) -> None:
        while True:
            self._has_earlier_deadline.clear()
            now = self._clock.now()
            while self._deadlines and self._deadlines[0][0] <= now:
                until, session_id = heapq.heappop(self._deadlines)
                run = self._runs.get(session_id)
                if run is not None and run.until == until:
                    self._on_due(session_id)
            await self._clock.wait(self._has_earlier_deadline, self._deadlines[0][0] if self._deadlines else None)
