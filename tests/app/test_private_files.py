"""Files that hold the texts of mails are for this user alone."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.dev.demo.redis import RedisServer
from app.knowledge.sqlite.index import SqliteIndex


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def permissions_in(folder: Path) -> set[int]:
    """Return the permissions of all files that the programs have written; the demo's own log has no content."""
    return {permissions(path) for path in folder.rglob("*") if path.is_file() and path.name != "output.log"}


@pytest.fixture(autouse=True)
def _generous_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


async def test_search_index_is_a_private_file(tmp_path: Path) -> None:
    index = SqliteIndex(str(tmp_path / "index.db"), None)
    await index.open(1)
    assert permissions_in(tmp_path) == {0o600}
    await index.close()


async def test_redis_of_the_demo_keeps_private_files() -> None:
    server = await asyncio.to_thread(lambda: RedisServer(persistent=True).start())
    try:
        for _ in range(2):
            folder = server.directory
            assert permissions(folder) == 0o700
            assert permissions_in(folder) == {0o600}
            await asyncio.to_thread(server.restart, keep_data=False)
    finally:
        server.stop()
