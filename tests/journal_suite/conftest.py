"""The stores that are held to the promises, and the processes of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from app.dev.demo.redis import RedisServer
from app.dev.demo.redis_deployments import ClusterServers, SentinelServers
from app.ports.decisions import ApprovalRequests, DecisionBus
from app.ports.erasure import PersonalRuns
from app.ports.journal import Journal, RunLock
from app.ports.nodes import Claim, Nodes
from tests.journal_suite.redis_store import RedisStore
from tests.journal_suite.store import LONG_LEASE_SECONDS, LONG_RETENTION_SECONDS, Store, StoreProcess

_SLOW = pytest.mark.slow
REPLICATED = [pytest.param("sentinel", marks=_SLOW), pytest.param("cluster", marks=_SLOW)]
"""The stores that can lose a server."""
STORES = ["standalone", *REPLICATED]
"""The name of each store; `{name}_store` is its fixture. Another store comes here."""


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    """A store that is empty."""
    found: Store = request.getfixturevalue(f"{request.param}_store")
    found.clear()
    return found


@pytest.fixture(scope="session")
def standalone_store(redis_server: RedisServer) -> RedisStore:
    return RedisStore(redis_server.url, [redis_server])


@pytest.fixture(scope="session")
def sentinel_store() -> Iterator[RedisStore]:
    with SentinelServers(replicas=1) as watched:
        servers = [*watched.servers, *watched.sentinels]
        yield RedisStore(watched.url, servers, replicas=1, masters=lambda: [watched.master()])


@pytest.fixture(scope="session")
def cluster_store() -> Iterator[RedisStore]:
    with ClusterServers() as cluster:
        yield RedisStore(cluster.url, cluster.servers, replicas=1, masters=cluster.masters)


@dataclass
class Process:
    """A process of a test: the parts of the ports, and the owner of its runs (`ports.nodes.RunOwner`).

    The owner notes what it is called for. It claims what it is offered where `claims` is true, but runs that it
    `cannot_read`.
    """

    parts: StoreProcess = field(init=False)
    claims: bool = False
    cannot_read: set[str] = field(default_factory=set)
    offered: list[str] = field(default_factory=list)
    claimed: dict[str, RunLock] = field(default_factory=dict)
    releases: int = 0
    cancelled: list[tuple[str, str]] = field(default_factory=list)
    news: list[str] = field(default_factory=list)

    @classmethod
    async def start(
        cls,
        store: Store,
        *,
        claims: bool = False,
        cannot_read: Collection[str] = (),
        lease_seconds: float = LONG_LEASE_SECONDS,
        retention_seconds: int = LONG_RETENTION_SECONDS,
    ) -> Self:
        """Start a process on a store. The caller stops its parts."""
        process = cls(claims=claims, cannot_read=set(cannot_read))
        process.parts = await store.start_process(
            process, process.news.append, lease_seconds=lease_seconds, retention_seconds=retention_seconds
        )
        return process

    @property
    def journal(self) -> Journal:
        return self.parts.journal

    @property
    def decisions(self) -> DecisionBus:
        return self.parts.decisions

    @property
    def requests(self) -> ApprovalRequests:
        return self.parts.requests

    @property
    def nodes(self) -> Nodes:
        return self.parts.nodes

    @property
    def personal_runs(self) -> PersonalRuns:
        return self.parts.personal_runs

    async def take_over(self, session_id: str, claim: Claim) -> None:
        self.offered.append(session_id)
        if not self.claims or session_id in self.cannot_read:
            return
        lock = await claim()
        if lock is not None:
            assert session_id not in self.claimed, "the same run was claimed twice"
            self.claimed[session_id] = lock

    def locks(self) -> list[RunLock]:
        return list(self.claimed.values())

    def owns(self, session_id: str) -> bool:
        return session_id in self.claimed

    def release_all(self) -> None:
        self.releases += 1

    def cancel_local(self, session_id: str, cancelled_by: str) -> None:
        self.cancelled.append((session_id, cancelled_by))


StartProcess = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(store: Store) -> AsyncIterator[StartProcess]:
    """Starts a process with the options of `Process.start`. All are stopped at the end."""
    started: list[StoreProcess] = []

    async def start_process(**options: Any) -> Process:
        process = await Process.start(store, **options)
        started.append(process.parts)
        return process

    yield start_process
    for parts in started:
        await parts.stop()


@pytest.fixture
async def process(start: StartProcess) -> Process:
    return await start()


@pytest.fixture
async def other(start: StartProcess) -> Process:
    """A second process."""
    return await start()
