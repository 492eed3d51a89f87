"""Fixtures for the tests of the archive: an empty database, and what it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
import redis
from click.testing import CliRunner, Result

from app.archive.tables import SCHEMA
from app.cli import main
from app.dev.demo.redis import RedisServer
from tests.harness.audit import StoredRecord
from tests.harness.postgres import PostgresServer
from tests.harness.service import SECRET

EraseCommand = Callable[..., Awaitable[Result]]


class ArchiveDatabase:
    """A PostgreSQL server whose archive was empty when the test began."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.url = server.url

    def rows(self, columns: str = "session", where: str = "true") -> list[tuple[Any, ...]]:
        try:
            query = f"SELECT {columns} FROM {SCHEMA}.run WHERE {where} ORDER BY first_id, session"  # noqa: S608
            return self.server.rows(query)
        except psycopg.errors.UndefinedTable:
            return []

    def sessions(self) -> list[str]:
        return [row[0] for row in self.rows()]


@pytest.fixture
def archive(postgres: PostgresServer) -> Iterator[ArchiveDatabase]:
    drop = f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"
    postgres.execute(drop)
    yield ArchiveDatabase(postgres)
    postgres.execute(drop)


@pytest.fixture
def erase_command(redis_server: RedisServer) -> EraseCommand:
    """Runs `aura erase …` on this Redis, in a thread: it has an event loop of its own."""

    async def run(*arguments: str, **environment: str) -> Result:
        environment = {"JWT_SECRET": SECRET, "REDIS_URL": redis_server.url, **environment}
        return await asyncio.to_thread(CliRunner().invoke, main, ["erase", *arguments], env=environment)

    return run


def expire_runs(client: redis.Redis, *session_ids: str) -> None:
    """Remove what expires of these runs: the lists keep them for longer."""
    for session_id in session_ids:
        found = list(client.scan_iter(f"*{session_id}*", count=1000))
        assert found, f"Redis has nothing of {session_id}"
        client.delete(*found)


def expire_lists(client: redis.Redis) -> None:
    """Remove the lists of runs too, as after twice the retention time."""
    for pattern in ("aura:{*}:runs:*", "aura:tenant:*:runs", "aura:{*}:thread:*"):
        for key in client.scan_iter(pattern, count=1000):
            client.delete(key)


@pytest.fixture
def record(redis_server: RedisServer) -> StoredRecord:
    return StoredRecord(redis_server.url)
