"""A node that loses its lease while it creates or claims a run: the run is never listed nowhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.ports.journal import RunLock
from app.redis import keys, scripts
from app.redis.wire.connection import Connection
from app.redis.wire.script import Command
from tests.harness.approvals import MakeSettings
from tests.harness.service import running
from tests.harness.waiting import eventually
from tests.journal_suite.conftest import Process
from tests.journal_suite.redis_store import RedisStore
from tests.journal_suite.runs import StoredRun

RUN = keys.run("session_u1_1706156400_a2ef")


@pytest.fixture
async def connection(redis_server: RedisServer) -> AsyncIterator[Connection]:
    connection = Connection(redis_server.url, timeout_seconds=3)
    connection.register(scripts.CLAIM)
    connection.register(scripts.RELEASE)
    yield connection
    await connection.close()


@pytest.fixture
def store(redis_server: RedisServer, redis_client: redis.Redis) -> RedisStore:
    """The store of `redis_client`, which is empty."""
    return RedisStore(redis_server.url, [redis_server])


def end_lease(redis_client: redis.Redis, node_id: str) -> None:
    redis_client.zadd(keys.NODES, {node_id: 0})


async def claim(connection: Connection, *, dead: str, new: str) -> bytes:
    reply = await connection.run_script(
        scripts.CLAIM,
        run_key=RUN,
        dead_owner=dead,
        releasing_owner=keys.real_node(dead),
        new_owner=new,
        prevention_ttl=scripts.PREVENTION_SECONDS,
    )
    return bytes(reply[0])


async def test_a_node_whose_entry_was_removed_cannot_claim_the_run_any_more(
    connection: Connection, redis_client: redis.Redis
) -> None:
    redis_client.hset(RUN, mapping={"owner": "node-a", "epoch": 1, "seq": 0, "final": 0})
    assert await claim(connection, dead="node-b", new="node-c") == b"TAKEN"  # b has listed it, and is dead now
    assert await claim(connection, dead="node-a", new="node-b") == b"BARRED"
    assert await claim(connection, dead="node-b", new="node-d") == b"TAKEN"
    assert redis_client.hget(RUN, "barred") == " node-b"
    assert await claim(connection, dead="node-d", new="node-c") == b"TAKEN"
    assert await claim(connection, dead="node-a", new="node-d") == b"BARRED"
    assert await claim(connection, dead="node-a", new="node-c") == b"OK"
    assert await claim(connection, dead="node-a", new="node-c") == b"OK"  # once more: its reply was lost
    assert redis_client.hget(RUN, "epoch") == "2"


async def test_a_run_that_is_just_being_handed_over_stays_listed_with_its_next_owner(
    connection: Connection, redis_client: redis.Redis
) -> None:
    redis_client.hset(RUN, mapping={"owner": "node-a", "epoch": 1, "seq": 0, "final": 0})
    released = keys.released_by("node-a")
    assert await claim(connection, dead=released, new="node-b") == b"BARRED"
    release = {"old_owner": "node-a", "new_owner": released}
    assert await connection.run_script(scripts.RELEASE, run_key=RUN, epoch=2, **release) == 0
    assert await connection.run_script(scripts.RELEASE, run_key=RUN, epoch=1, **release) == 1
    assert await connection.run_script(scripts.RELEASE, run_key=RUN, epoch=1, **release) == 1  # its reply was lost
    assert await claim(connection, dead=released, new="node-b") == b"OK"


async def test_a_run_whose_creation_is_under_way_stays_listed_with_the_node_that_stops(
    store: RedisStore, redis_client: redis.Redis
) -> None:
    """It cannot be handed over yet: the next node finds it with this one, or prevents it."""
    leaving, run = await Process.start(store), StoredRun()
    await run.create(leaving.journal)
    record = {str(name): str(value) for name, value in redis_client.hgetall(keys.run(run.session_id)).items()}
    redis_client.delete(keys.run(run.session_id))
    await leaving.nodes.hand_over([RunLock(run.session_id, 1, 0.0)])
    assert redis_client.zrange(keys.runs_on(leaving.nodes.node_id), 0, -1) == [run.session_id]
    redis_client.hset(
        keys.run(run.session_id), mapping={str(name): str(value) for name, value in record.items()}
    )  # its creation arrives
    heir = await Process.start(store, claims=True)
    await leaving.parts.stop()
    await eventually(lambda: run.session_id in heir.claimed)
    await heir.parts.stop()


async def test_a_run_that_does_not_exist_yet_cannot_be_created_after_its_entry_was_removed(
    connection: Connection, redis_client: redis.Redis
) -> None:
    assert await claim(connection, dead="node-a", new="node-b") == b"GONE"
    assert redis_client.hgetall(RUN) == {"token": ""}
    assert 0 < redis_client.ttl(RUN) <= scripts.PREVENTION_SECONDS


@pytest.mark.slow
async def test_a_run_that_a_node_may_not_claim_stays_listed_for_the_others(
    store: RedisStore, redis_client: redis.Redis
) -> None:
    gone, barred = await Process.start(store), await Process.start(store, claims=True)
    run = StoredRun()
    await run.create(gone.journal)
    redis_client.hset(keys.run(run.session_id), "barred", f" {barred.nodes.node_id}")
    dead = gone.nodes.node_id
    end_lease(redis_client, dead)
    await eventually(lambda: barred.offered.count(run.session_id) >= 2)
    assert redis_client.zrange(keys.runs_on(dead), 0, -1) == [run.session_id]
    await eventually(lambda: not redis_client.exists(keys.runs_on(barred.nodes.node_id)))  # between two attempts
    heir = await Process.start(store, claims=True)
    await eventually(lambda: run.session_id in heir.claimed)
    assert not barred.claimed
    for process in (gone, barred, heir):
        await process.parts.stop()


async def test_a_run_whose_creation_outlasts_the_lease_of_its_node_gets_another_session_id(
    settings: MakeSettings,
    model: ScriptedModelServer,
    store: RedisStore,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a cluster, where the master of the list answers before the one of the run does."""
    send, created = Connection.pipeline, list[str]()

    async def creates_late(self: Connection, commands: Sequence[Command]) -> list[Any]:
        *lists, create = commands
        if scripts.CREATE.sha not in create:
            return await send(self, commands)
        earlier = await send(self, lists)
        if not created:
            created.extend(map(str, redis_client.zrange(keys.runs_on(lost), 0, -1)))
            end_lease(redis_client, lost)
            await eventually(lambda: aura.service.stores.nodes.node_id != lost)
            await eventually(lambda: not redis_client.exists(keys.runs_on(lost)))
        return [*earlier, *await send(self, [create])]

    model.play(ScriptedTurn(text="네."))
    async with running(settings()) as aura:
        lost, other = aura.service.stores.nodes.node_id, await Process.start(store, claims=True)
        monkeypatch.setattr(Connection, "pipeline", creates_late)
        async with aura.stream("질문") as stream:
            frames = await stream.rest()
        await other.parts.stop()
    assert frames[-2]["status"] == "completed"
    assert [frames[0]["sessionId"]] != created
    assert not redis_client.exists(keys.events(created[0]))
