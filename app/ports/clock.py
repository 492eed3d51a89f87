"""The wall clock."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Clock(Protocol):
    """The only source of wall-clock time, and the only way to wait for a time. Tests freeze it."""

    def now(self) -> float:
        """Return the time in Unix seconds."""
        ...

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        """Wait until the event is set or the time `until` (Unix s, None: no limit) has come. The event may then be set
        for either reason, so the caller compares the clock."""
        ...
