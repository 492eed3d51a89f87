"""A Redis cluster (one node that owns all slots): keys of one script on one slot, commands routed, Pub/Sub heard."""

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
from tests.e2e.mail import asks_for_mail, mail_settings
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
            until = time.monotonic() + 10
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < until
                time.sleep(0.01)
        yield server


async def test_the_main_job_with_an_approval(
    nodes_on: NodesOn, cluster: RedisServer, model: ScriptedModelServer
) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes_on(cluster.url).pair(**mail_settings(smtp))
        model.play(
            ScriptedTurn(tool_calls=[ScriptedCall(name="get_current_time")]), asks_for_mail(), ScriptedTurn(text=DONE)
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


async def test_takeover(nodes_on: NodesOn, cluster: RedisServer, model: ScriptedModelServer) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes_on(cluster.url).pair(**mail_settings(smtp))
        model.play(asks_for_mail(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        hitl = await client.read(first, of_type("hitl"))
        first.kill()
        await eventually(lambda: second.logged("run.taken_over"))
        assert (await second.decide("approve", hitl["requestId"])).status_code == 200
        async with asyncio.timeout(30):
            await client.read(second)
        check(client.seen)
        assert answer(client.seen) == DONE
