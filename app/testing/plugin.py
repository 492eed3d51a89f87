"""The pytest plugin: the fixtures `aura` and `aura_redis`. It imports the service only where a test uses them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from app.dev.demo.redis import RedisServer
    from app.testing.service import AuraService

_SERVICE: pytest.StashKey[AuraService] = pytest.StashKey()
_FAILED: pytest.StashKey[bool] = pytest.StashKey()


@pytest.fixture(scope="session")
def aura_redis() -> Iterator[RedisServer]:
    """The Redis of all tests of this process. Override it to give the server other arguments."""
    from app.dev.demo.redis import RedisServer

    with RedisServer() as server:
        yield server


@pytest.fixture
def aura(aura_redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[AuraService]:
    """A running service with a scripted model, on an empty Redis (`app.testing.AuraService`).

    Requests to the model that have no turn, and turns that are left over, fail the test.
    """
    from app.testing.service import AuraService

    with AuraService(aura_redis) as service:
        request.node.stash[_SERVICE] = service
        yield service
        if not request.node.stash.get(_FAILED, False):  # else that failure is the one to read
            service.check()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the runs and their events to the report of a test that has failed."""
    report = yield
    if report.when == "call" and report.failed and _SERVICE in item.stash:
        item.stash[_FAILED] = True
        report.sections.append(("Aura", item.stash[_SERVICE].describe()))
    return report
