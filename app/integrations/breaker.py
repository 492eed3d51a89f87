"""A circuit breaker for one service. Pure but for the clock it is given.

Own lines, by intent: what libraries there are raise when the circuit is open, where we want to know how long to wait,
and let everybody through when it half opens, where one trial is enough.
"""

from __future__ import annotations

from collections.abc import Callable

_FAILURES = 10
_FIRST_REST_SECONDS = 1.0
_MOST_REST_SECONDS = 15.0


class Breaker:
    """Closed until ten calls in a row have failed; then open for a while that doubles with every trial that fails."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` is a clock that never goes back, in seconds."""
        self._now = now
        self._failures = 0
        self._rest_seconds = _FIRST_REST_SECONDS
        self._opens_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= _FAILURES

    def wait_seconds(self) -> float:
        """0: call now. Else look again after so long. While it is open, a 0 is the one trial: others wait for it."""
        if not self.is_open:
            return 0.0
        left = self._opens_at - self._now()
        if left > 0:
            return left
        self._opens_at = self._now() + self._rest_seconds  # a trial that never comes back is followed by another
        return 0.0

    def succeeded(self) -> None:
        self._failures, self._rest_seconds = 0, _FIRST_REST_SECONDS

    def failed(self) -> bool:
        """Whether the circuit has just opened by it."""
        was_open = self.is_open
        self._failures += 1
        if was_open:
            self._rest_seconds = min(self._rest_seconds * 2, _MOST_REST_SECONDS)
        if self.is_open:
            self._opens_at = self._now() + self._rest_seconds
        return self.is_open and not was_open
