"""Redis Cluster with one node that owns all slots: scripts use one slot each, commands are routed, Pub/Sub works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.mail import mail_settings, mail_turn
from tests.e2e.test_storage import NodesOn
from tests.harness.follow import Follower, of_type
from tests.harness.frames import answer, check
from tests.harness.waiting import eventually

DONE = "메일을 보냈습니다."


@pytest.fixture
def cluster() -> Iterator[RedisServer]:
    with RedisServer("--cluster-enabled", "yes") as server:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 10
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < deadline
                time.sleep(0.01)
        yield server


async def test_run_with_an_approval_completes_on_a_cluster(
    nodes_on: NodesOn, cluster: RedisServer, model: ScriptedModelServer
) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes_on(cluster.url).start_pair(**mail_settings(smtp))
        model.play(
            ScriptedTurn(tool_calls=[ScriptedCall(name="get_current_time")]), mail_turn(), ScriptedTurn(text=DONE)
        )
        client = Follower("메일")
        async with first.stream("메일") as stream:
            hitl = await client.collect(stream, of_type("hitl"))
            response = await second.decide("approve", hitl["requestId"])
            assert response.status_code == 200
            await client.collect(stream, of_type("timeline_step_update"))
            await client.collect(stream)
        check(client.seen)
        assert answer(client.seen) == DONE
        for frame in client.seen[:-1:3]:
            late = Follower("메일", seen=[frame])
            await late.read(second)
            assert [f.raw for f in late.seen] == [f.raw for f in client.seen[client.seen.index(frame) :]]
        assert len(smtp.messages) == 1


@pytest.mark.slow
async def test_run_is_taken_over_on_a_cluster(
    nodes_on: NodesOn, cluster: RedisServer, model: ScriptedModelServer
) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes_on(cluster.url).start_pair(**mail_settings(smtp))
        model.play(mail_turn(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        hitl = await client.read(first, of_type("hitl"))
        first.kill()
        await eventually(lambda: second.logged("run.taken_over"))
        assert (await second.decide("approve", hitl["requestId"])).status_code == 200
        async with asyncio.timeout(30):
            await client.read(second)
        check(client.seen)
        assert answer(client.seen) == DONE
