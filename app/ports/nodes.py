"""Which node (process) writes which run: leases, takeovers and cancel requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from app.ports.journal import RunLock

Claim = Callable[[], Awaitable[RunLock | None]]
"""Acquires the run and returns its lock; None where another node was faster or the run has ended."""


class RunOwner(Protocol):
    """The part of a process that writes runs, as `Nodes` calls it."""

    async def take_over(self, session_id: str, claim: Claim) -> None:
        """Continue a run whose node has ended, if this process can: call `claim` to acquire the run, then run it.

        The registry calls this again later for every run that was not claimed.
        """
        ...

    def locks(self) -> list[RunLock]:
        """Return the locks of the runs that this process writes."""
        ...

    def release_all(self) -> None:
        """Stop writing every run: the lease of this node has ended, and another node may write them now."""
        ...

    def cancel_local(self, session_id: str, cancelled_by: str) -> None:
        """Cancel a run that this process writes; a no-op for any other run."""
        ...


class Nodes(Protocol):
    """The registry of the nodes and their leases."""

    def subscribe(self, owner: RunOwner) -> None:
        """Register the owner of this process's runs. Call it once, before the registry starts."""
        ...

    @property
    def node_id(self) -> str:
        """The id of this node: a new one after each loss of its lease."""
        ...

    @property
    def has_lease(self) -> bool:
        """Whether the lease of this node is valid: only then may it start a run."""
        ...

    async def request_cancel(self, session_id: str, cancelled_by: str) -> bool:
        """Record that a run is to be cancelled and notify its node. Returns False where the run has ended or is
        unknown. Raises `StorageUnavailable`."""
        ...

    async def hand_over(self, locks: Sequence[RunLock]) -> None:
        """Release runs that have reached a committed step, so that another node takes them over without waiting for
        the end of the lease. Raises `StorageUnavailable`."""
        ...
