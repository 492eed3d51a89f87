"""How often each update of one task has failed in a row, and when an update is given up (§6)."""

from __future__ import annotations

from app.integrations.agent_task import ReportProgress, StartTask, TaskRequest

_MAX_UNAVAILABLE = 20
"""About a minute and a half of failures: a service that is only down is usually back before."""
_MAX_FAILED_OPTIONAL = 3
_MAX_FAILED = 20
"""About a quarter of an hour, because the pauses grow to a minute."""


class FailedAttempts:
    """Counts of one run. An update that succeeds, or is given up, starts at 0 again."""

    def __init__(self) -> None:
        self._failed: dict[type, int] = {}
        self._unavailable: dict[type, int] = {}

    def clear(self, request: TaskRequest) -> None:
        self._failed.pop(type(request), None)
        self._unavailable.pop(type(request), None)

    def count_failed(self, request: TaskRequest) -> bool:
        """Count an error of the service itself (HTTP 500). Return whether the update is given up."""
        count = self._failed[type(request)] = self._failed.get(type(request), 0) + 1
        return count >= (_MAX_FAILED_OPTIONAL if is_optional(request) else _MAX_FAILED)

    def count_unavailable(self, request: TaskRequest) -> bool:
        """Count a request for which the service seems to be down. Return whether a task that has ended passes it over.

        Only an optional update is passed over: if it alone fails, the end of the task must not wait for it.
        """
        count = self._unavailable[type(request)] = self._unavailable.get(type(request), 0) + 1
        return is_optional(request) and count >= _MAX_UNAVAILABLE

    def has_been_unavailable(self, kind: type) -> bool:
        """Return whether an update of this kind has failed so, and none has succeeded since."""
        return kind in self._unavailable


def is_optional(request: TaskRequest) -> bool:
    """Return whether a task can end without this update."""
    return isinstance(request, StartTask | ReportProgress)
