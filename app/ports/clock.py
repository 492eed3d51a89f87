"""What tells the time and waits for it."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Clock(Protocol):
    """The only source of wall-clock time and the only thing that waits for it; frozen in tests."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        """Wait for the event, at most until the absolute time (Unix s), when it may be set as well: the caller looks at
        what has come."""
        ...
