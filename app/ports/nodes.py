"""Which node writes which run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from app.ports.journal import RunLock

Claim = Callable[[], Awaitable[RunLock | None]]
"""Take a run over; None: somebody was faster, or it has ended."""


class Nodes(Protocol):
    """Which node writes which run."""

    on_orphan: Callable[[str, Claim], Awaitable[None]]
    on_lost: Callable[[], None]
    on_cancel: Callable[[str, str], None]

    @property
    def has_lease(self) -> bool:
        """Whether this node's lease holds: only then may it start a run."""
        ...

    async def request_cancel(self, session_id: str, cancelled_by: str) -> bool:
        """Ask for the end of a run, wherever it is. False: it has ended already, or is unknown."""
        ...

    async def hand_over(self, locks: Sequence[RunLock]) -> None:
        """Give up runs that have reached a committed step: another node takes them over without waiting."""
        ...
