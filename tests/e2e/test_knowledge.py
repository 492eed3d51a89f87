"""Processes that share a search server: one is killed while it applies events that all of them have received."""

from __future__ import annotations

import psycopg
import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.knowledge.postgres.tables import SCHEMA
from app.redis import keys
from tests.e2e.conftest import Nodes
from tests.harness.knowledge import Publish, mail, until_subscribed
from tests.harness.postgres import PostgresServer
from tests.harness.process import ServeProcess
from tests.harness.tools import calling
from tests.harness.waiting import eventually

SEARCH = ("search_workspace", {"query": "견적서"})
APPLYING = (
    "SELECT application_name FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '^INSERT INTO \\S+term_'"
)


async def cited_event_ids(node: ServeProcess, model: ScriptedModelServer) -> list[str]:
    model.play(calling(SEARCH), ScriptedTurn(text="찾았습니다."))
    async with node.stream("견적서") as stream:
        frames = await stream.rest()
    return sorted(source["id"] for frame in frames if frame.type == "thought" for source in frame["sources"])


@pytest.mark.slow
async def test_killed_indexer_is_continued_without_duplicates(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis, publish: Publish, database: PostgresServer
) -> None:
    names = ("first", "second")
    processes = {
        name: await nodes.start(AURA_KNOWLEDGE_URL=f"{database.url}&application_name={name}") for name in names
    }
    await until_subscribed(redis_client, nodes=2)
    publish(mail(1))
    publish(mail(2))
    await eventually(lambda: redis_client.zcard(keys.knowledge_seen("tenant1")) == 2)
    for node in processes.values():
        assert await cited_event_ids(node, model) == ["evt-1", "evt-2"]

    with psycopg.connect(database.url) as locking:  # blocks the applying transaction after it has inserted its events
        locking.execute(f"LOCK TABLE {SCHEMA}.term_1 IN SHARE MODE".encode())
        publish(mail(3))
        publish(mail(4))
        ((name,), *_) = await eventually(lambda: database.rows(APPLYING))
        killed = processes.pop(name)
        killed.kill()
        await killed.wait_for_exit()
        assert database.rows("SELECT count(*) FROM event_1") == [(2,)]

    (survivor,) = processes.values()
    await eventually(lambda: database.rows("SELECT documents FROM tenant") == [(4,)])
    assert await cited_event_ids(survivor, model) == [f"evt-{n}" for n in (1, 2, 3, 4)]
    assert database.rows("SELECT count(*) FROM event_1") == [(4,)]
    assert database.rows("SELECT documents FROM term_1 WHERE term = '견적'") == [(4,)]
