"""The runs of this process: those under way, with a task each, and those that wait for a person (§4).

Of a run that waits nothing is kept here but a lock and a deadline: no task, no checkpoint, no timer of its own. One
timer serves all deadlines. Whoever has news of a run takes it out.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.ports.clock import Clock
from app.ports.journal import RunLock
from statemachine.checkpoint import Checkpoint
from statemachine.states import State

_SLACK = 1000


class Run:
    """A run that this process carries, with a task of its own. `saved` is its last committed checkpoint, None while a
    run that was parked, waiting for the request `waited_for`, is read again."""

    def __init__(self, lock: RunLock, saved: Checkpoint | None, waited_for: str | None = None) -> None:
        self.lock = lock
        self.saved = saved
        self.waited_for = waited_for
        self.is_committing = False
        self.is_leaving = False
        self._has_begun = False
        self.task: asyncio.Task[None] | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        if self.saved is None:
            raise RuntimeError("nothing is done with a run before it is read")
        return self.saved

    @property
    def is_waiting(self) -> bool:
        return self.saved is None or self.saved.state is State.AWAITING_APPROVAL

    def leave(self, *, at_next_step: bool = False) -> None:
        """Let go of the run: never in the middle of a commit, whose answer must be heard."""
        self.is_leaving = True
        if not at_next_step:
            self.interrupt()

    def interrupt(self) -> None:
        """Stop the effect under way. After a commit that is under way the run looks for itself why it should stop; so
        it does when it begins: a task that is cancelled before would not even clear up."""
        if self.task is not None and self._has_begun and not self.is_committing:
            self.task.cancel()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Not to be interrupted: what was written, and not heard of, would be taken for the next write."""
        self.is_committing = True
        try:
            yield
        finally:
            self.is_committing = False

    def begin(self) -> None:
        """Its task runs. Raises `CancelledError`, as `heed`."""
        self._has_begun = True
        self.heed()

    def heed(self) -> None:
        """Raises `CancelledError` where the run was interrupted in a moment in which it could not be."""
        if self.is_leaving or (self.saved is not None and self.lock.cancelled_by is not None):
            raise asyncio.CancelledError


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """A waiting run: the right to write it, what it waits for, and until when (Unix s)."""

    lock: RunLock
    request_id: str
    until: float


class WaitingRuns:
    """The only place that knows which runs are parked. `on_due` is called with those whose deadline has come."""

    def __init__(self, clock: Clock, on_due: Callable[[str], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._parked: dict[str, WaitingRun] = {}
        self._deadlines: list[tuple[float, str]] = []
        """A heap. What was taken out stays in it until its time, or until most of it is that."""
        self._is_sooner = asyncio.Event()
        self._timer: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._timer = asyncio.create_task(self._watch_deadlines())

    def __len__(self) -> int:
        return len(self._parked)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._parked

    def put(self, lock: RunLock, request_id: str, until: float) -> None:
        self._parked[lock.session_id] = WaitingRun(lock, request_id, until)
        if len(self._deadlines) > 2 * len(self._parked) + _SLACK:
            self._deadlines = [(parked.until, session_id) for session_id, parked in self._parked.items()]
            heapq.heapify(self._deadlines)
        else:
            heapq.heappush(self._deadlines, (until, lock.session_id))
        if self._deadlines[0][0] == until:
            self._is_sooner.set()

    def take(self, session_id: str) -> WaitingRun | None:
        """The run is parked no more; None: it was not."""
        return self._parked.pop(session_id, None)

    def close(self) -> list[RunLock]:
        """Take all, and watch no deadline any more."""
        if self._timer is not None:
            self._timer.cancel()
        return self.take_all()

    def take_all(self) -> list[RunLock]:
        locks = [parked.lock for parked in self._parked.values()]
        self._parked.clear()
        self._deadlines.clear()
        return locks

    async def _watch_deadlines(self) -> None:
        while True:
            self._is_sooner.clear()
            now = self._clock.now()
            while self._deadlines and self._deadlines[0][0] <= now:
                until, session_id = heapq.heappop(self._deadlines)
                parked = self._parked.get(session_id)
                if parked is not None and parked.until == until:
                    self._on_due(session_id)
            await self._clock.wait(self._is_sooner, self._deadlines[0][0] if self._deadlines else None)
