"""What the suite needs of a store, in the words of the ports. It knows no database.

Another store is held to the promises by a class that fulfils `Store`, and its fixture in `conftest.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.ports.decisions import ApprovalRequests, DecisionBus
from app.ports.erasure import PersonalRuns
from app.ports.journal import Journal
from app.ports.nodes import Nodes, RunOwner

LONG_LEASE_SECONDS = 60.0
"""The lease of a process that shall not lose it: a loaded machine may delay it for seconds."""
SHORT_LEASE_SECONDS = 1.0
"""The lease of a process that is about to be lost."""
LONG_RETENTION_SECONDS = 3600
SHORT_RETENTION_SECONDS = 1


class StoreProcess(Protocol):
    """One process that uses the store: the parts of the ports, started. Several of them share what is stored."""

    @property
    def journal(self) -> Journal: ...

    @property
    def decisions(self) -> DecisionBus: ...

    @property
    def requests(self) -> ApprovalRequests: ...

    @property
    def nodes(self) -> Nodes: ...

    @property
    def personal_runs(self) -> PersonalRuns: ...

    async def cut_off(self) -> None:
        """Separate the process from the store for ever, as if it were killed or its network were gone."""
        ...

    async def stop(self) -> None:
        """Stop the process in order, its lease first. Also called once for a process that was cut off."""
        ...


class Store(Protocol):
    """A store that all tests of a session use. Its time is the time of this machine."""

    def clear(self) -> None:
        """Remove everything that is stored. No process runs at this moment."""
        ...

    async def start_process(
        self, owner: RunOwner, on_news: Callable[[str], None], *, lease_seconds: float, retention_seconds: int
    ) -> StoreProcess:
        """Start another process. `owner` is that of its runs, `on_news` the callback of its `DecisionBus`.

        Nothing is kept of a run for which nothing was written for `retention_seconds`.
        """
        ...

    def lost_messages(self, process: StoreProcess) -> AbstractAsyncContextManager[None]:
        """Keep notifications from this process until the context ends; it may notice that. Everything else works."""
        ...

    async def lose_server(self) -> None:
        """Kill a server that holds data, and return when another one has taken its place and the store is whole again.

        Raises `NotImplementedError` where the store has one server only.
        """
        ...

    def outage(self) -> AbstractAsyncContextManager[None]:
        """Answer no process until the context ends; then continue with everything that was stored before."""
        ...
