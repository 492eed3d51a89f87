"""A small cluster for tests that do not lose a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.dev.demo.redis_deployments import ClusterServers


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    """Two masters without replicas. A module whose tests need other servers has a fixture of this name of its own."""
    with ClusterServers(2, replicas=False) as servers:
        yield servers
