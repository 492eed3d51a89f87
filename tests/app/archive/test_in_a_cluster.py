"""The archive and the erasure with Redis Cluster: a server in this mode refuses commands with keys of several slots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from tests.app.archive.conftest import ArchiveDatabase, EraseCommand, expire_runs
from tests.app.archive.test_archive import complete_run, get, replay, session_of
from tests.harness.service import headers, running
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]


@pytest.fixture
async def cluster() -> AsyncIterator[RedisServer]:
    with RedisServer("--cluster-enabled", "yes") as server:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await eventually(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield server


@pytest.mark.slow
async def test_runs_are_archived_read_and_erased_in_a_cluster(
    settings: MakeSettings,
    model: ScriptedModelServer,
    archive: ArchiveDatabase,
    cluster: RedisServer,
    erase_command: EraseCommand,
) -> None:
    model.play(ScriptedTurn(text="네."), ScriptedTurn(text="네."))
    with redis.Redis.from_url(cluster.url, decode_responses=True) as client:
        async with running(settings(redis_url=cluster.url, aura_archive_url=archive.url)) as aura:
            frames = await complete_run(aura, "하나", thread_id="t-1")
            other = session_of(await complete_run(aura, "둘", as_=headers(user="lee")))
            await eventually(lambda: len(archive.sessions()) == 2)
            expire_runs(client, session_of(frames))
            assert [frame.id for frame in await replay(aura, session_of(frames))] == [frame.id for frame in frames]
            environment = {"REDIS_URL": cluster.url, "AURA_ARCHIVE_URL": archive.url}
            for user in ("user1", "lee"):
                done = await erase_command("--user", user, "--tenant", "tenant1", **environment)
                assert done.exit_code == 0, done.output
                assert "1 archived runs" in done.output
            assert archive.sessions() == []
            assert (await get(aura, f"/aura/runs/{other}", user="lee")).status_code == 404
        assert not list(client.scan_iter("*session_*", count=1000))
