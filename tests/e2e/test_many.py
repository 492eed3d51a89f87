"""Many runs in one process: they share few connections to Redis, and every one of them ends."""

from __future__ import annotations

import asyncio
import json

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.conftest import Nodes
from tests.e2e.mail import mail_settings, mail_turn
from tests.harness.follow import Follower, of_type
from tests.harness.frames import answer, check
from tests.harness.service import headers
from tests.harness.waiting import eventually

COUNT = 200
CONNECTIONS = 8
DONE = "메일을 보냈습니다."


def connection_ids(client: redis.Redis) -> set[str]:
    return {str(connection["id"]) for connection in client.client_list()}


@pytest.mark.slow
async def test_200_waiting_runs_are_approved_at_once(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with SmtpSink() as smtp:
        others = connection_ids(redis_client)
        node = await nodes.start(AURA_LEASE_SECONDS="30", **mail_settings(smtp))
        model.play(*(mail_turn() for _ in range(COUNT)))
        clients = [Follower("메일", f"user{number}") for number in range(COUNT)]
        all_wait = asyncio.Event()

        async def follow(client: Follower) -> None:
            async with node.stream("메일", headers=headers(client.user)) as stream:
                await client.collect(stream, of_type("hitl"))
                if all(client.seen and client.seen[-1].type == "hitl" for client in clients):
                    all_wait.set()
                await all_wait.wait()
                await client.collect(stream)

        client_tasks = asyncio.gather(*(follow(client) for client in clients))
        async with asyncio.timeout(90):
            await all_wait.wait()
        assert len(redis_client.pubsub_channels("hitl:channel:*")) == COUNT
        max_connections = len(connection_ids(redis_client) - others)
        model.play(*(ScriptedTurn(text=DONE) for _ in range(COUNT)))
        with redis_client.pipeline(transaction=False) as pipeline:
            for client in clients:
                signal = {"type": "approval", "requestId": client.seen[-1]["requestId"], "status": "approved"}
                pipeline.publish(f"hitl:channel:{client.session_id}", json.dumps(signal))
            assert pipeline.execute() == [1] * COUNT
        async with asyncio.timeout(90):
            while not client_tasks.done():
                max_connections = max(max_connections, len(connection_ids(redis_client) - others))
                await asyncio.wait([client_tasks], timeout=0.02)
        await client_tasks
        for client in clients:
            check(client.seen)
            assert answer(client.seen) == DONE
        assert len(smtp.messages) == COUNT
        assert max_connections <= CONNECTIONS
        await eventually(lambda: not redis_client.pubsub_channels("hitl:channel:*"))


@pytest.mark.slow
async def test_200_waiting_runs_are_recovered_after_the_only_node_was_killed(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    """Each run completes once, and its deadline is not changed by the takeover."""
    async with SmtpSink() as smtp:
        first = await nodes.start(AURA_LEASE_SECONDS="4", **mail_settings(smtp))
        model.play(*(mail_turn() for _ in range(COUNT)))
        clients = [Follower("메일", f"user{number}") for number in range(COUNT)]
        await asyncio.gather(*(client.read(first, of_type("hitl")) for client in clients))
        before = deadlines(redis_client)
        first.kill()
        second = await nodes.start(AURA_LEASE_SECONDS="30", **mail_settings(smtp))
        await eventually(lambda: len(redis_client.pubsub_channels("hitl:channel:*")) == COUNT)
        assert deadlines(redis_client) == before
        model.play(*(ScriptedTurn(text=DONE) for _ in range(COUNT)))

        async def finish(client: Follower) -> None:
            request_id = client.seen[-1]["requestId"]
            assert (await second.decide("approve", request_id, as_=headers(client.user))).status_code == 200
            await client.read(second)

        await asyncio.gather(*(finish(client) for client in clients))
        for client in clients:
            check(client.seen)
            assert answer(client.seen) == DONE
        assert len(smtp.messages) == COUNT


def deadlines(client: redis.Redis) -> dict[str, float]:
    return {str(key): json.loads(str(client.get(key)))["deadline_at"] for key in client.keys("checkpoint:*")}
