"""A circuit breaker for one service.

Libraries raise an error while the circuit is open and let all callers through when it is half-open. This one returns
how long to wait, and a half-open circuit allows one trial request.
"""

from __future__ import annotations

from collections.abc import Callable

_FAILURE_THRESHOLD = 10
_MIN_OPEN_SECONDS = 1.0
MAX_OPEN_SECONDS = 15.0


class CircuitBreaker:
    """Opens after ten failures in a row, for a time that doubles with every failed trial request."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` returns the time of a monotonic clock in seconds."""
        self._now = now
        self._failures = 0
        self._open_seconds = _MIN_OPEN_SECONDS
        self._half_open_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open or half-open."""
        return self._failures >= _FAILURE_THRESHOLD

    def acquire(self) -> float:
        """Return 0 if a request may be sent now, else the seconds to wait before the next attempt to acquire.

        While the circuit is half-open, one caller gets 0 and sends the trial request; the others wait for its result.
        """
        if not self.is_open:
            return 0.0
        seconds_left = self._half_open_at - self._now()
        if seconds_left > 0:
            return seconds_left
        self._half_open_at = self._now() + self._open_seconds  # another trial follows if this one has no result
        return 0.0

    def record_success(self) -> None:
        """Close the circuit."""
        self._failures, self._open_seconds = 0, _MIN_OPEN_SECONDS

    def record_failure(self) -> bool:
        """Count a failed request. Return whether it has opened the circuit."""
        was_open = self.is_open
        self._failures += 1
        if was_open:
            self._open_seconds = min(self._open_seconds * 2, MAX_OPEN_SECONDS)
        if self.is_open:
            self._half_open_at = self._now() + self._open_seconds
        return self.is_open and not was_open
