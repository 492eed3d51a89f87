"""Which node (process) writes which run: leases, takeovers and cancel requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from app.ports.journal import RunLock

Claim = Callable[[], Awaitable[RunLock | None]]
"""Acquires the run and returns its lock; None where another node was faster or the run has ended.

Of the claims of several processes one succeeds. It raises the epoch by one, which fences the former owner. The lock has
the number of the last commit, and a cancellation that was requested.
"""


class RunOwner(Protocol):
    """The part of a process that writes runs, as `Nodes` calls it."""

    async def take_over(self, session_id: str, claim: Claim) -> None:
        """Continue a run whose node has ended, if this process can: call `claim` to acquire the run, then run it.

        The registry calls this again later for every run that was not claimed. One that is not claimed, for example as
        a newer release has written it, stays as it is and hides no other one.
        """
        ...

    def locks(self) -> list[RunLock]:
        """Return the locks of the runs that this process writes."""
        ...

    def owns(self, session_id: str) -> bool:
        """Return whether this process writes the run, or is just taking it over."""
        ...

    def release_all(self) -> None:
        """Stop writing every run: the lease of this node ends, and then another node may write them. Called before
        another node can claim one of them."""
        ...

    def cancel_local(self, session_id: str, cancelled_by: str) -> None:
        """Cancel a run that this process writes; a no-op for any other run."""
        ...


class Nodes(Protocol):
    """The registry of the nodes and their leases.

    A node keeps its lease as long as it lives and reaches storage, and its runs as long as it has the lease. When the
    lease has ended, the runs that it has not ended are offered to the owners of all other nodes. A node that stops in
    order ends its lease at once.
    """

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
        unknown. Raises `StorageUnavailable`.

        The owner learns it by `RunOwner.cancel_local`, even if it cannot be notified for a while; by its next commit;
        or with its claim, if that is the next thing that happens.
        """
        ...

    async def hand_over(self, locks: Sequence[RunLock]) -> None:
        """Release runs that have reached a committed step, so that another node takes them over without waiting for
        the end of the lease. One that another node has taken over already stays there. Raises `StorageUnavailable`."""
        ...
