"""Parts for the tests of knowledge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.dev.demo.redis import RedisServer
from app.knowledge.postgres.index import PostgresIndex
from app.knowledge.sqlite.index import SqliteIndex
from app.ports.knowledge import KnowledgeIndex
from tests.harness.knowledge import MODEL, Knowing, Opened
from tests.harness.service import SECRET


@pytest.fixture
def knowing(redis_server: RedisServer) -> Knowing:
    """`aura knowledge …` on this Redis."""

    def run(*arguments: str, **environment: str) -> Result:
        environment = {"JWT_SECRET": SECRET, "REDIS_URL": redis_server.url, **environment}
        return CliRunner().invoke(main, ["knowledge", *arguments], env=environment)

    return run


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
