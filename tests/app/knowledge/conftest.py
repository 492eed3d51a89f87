"""Fixtures for the tests of knowledge: the command, and an index of each kind."""

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
from tests.harness.knowledge import MODEL, KnowledgeCommand, OpenIndex
from tests.harness.service import SECRET


@pytest.fixture
def knowledge_command(redis_server: RedisServer) -> KnowledgeCommand:
    """Runs `aura knowledge …` on this Redis."""

    def run(*arguments: str, **environment: str) -> Result:
        environment = {"JWT_SECRET": SECRET, "REDIS_URL": redis_server.url, **environment}
        return CliRunner().invoke(main, ["knowledge", *arguments], env=environment)

    return run


@pytest.fixture(params=["sqlite", "postgres"])
async def open_index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenIndex]:
    """Opens an index of each kind; each call stands for one more process that shares it."""
    opened: list[KnowledgeIndex] = []
    location = request.getfixturevalue("database").url if request.param == "postgres" else str(tmp_path / "index.db")
    kind = PostgresIndex if request.param == "postgres" else SqliteIndex

    async def open_one(generation: int = 0, model: str | None = MODEL) -> KnowledgeIndex:
        opened.append(kind(location, model))
        await opened[-1].open(generation)
        return opened[-1]

    yield open_one
    for index in opened:
        await index.close()
