"""A decision reaches the run through another node, by PUBLISH alone, or by the Redis keys alone (CONTRACT §5)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.conftest import Nodes
from tests.e2e.mail import mail_settings, mail_turn
from tests.harness.follow import Follower, of_type
from tests.harness.frames import answer, check
from tests.harness.process import ServeProcess
from tests.harness.service import headers

DONE = "메일을 보냈습니다."


async def test_approval_through_another_node_completes_the_run(nodes: Nodes, model: ScriptedModelServer) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes.start_pair(**mail_settings(smtp))
        model.play(mail_turn(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with first.stream("메일") as stream:
            hitl = await client.collect(stream, of_type("hitl"))
            response = await second.decide("approve", hitl["requestId"])
            assert (response.status_code, response.json()["data"]["status"]) == (200, "approved")
            await client.collect(stream, of_type("timeline_step_update"))
            await client.collect(stream)
        check(client.seen)
        assert answer(client.seen) == DONE
        assert len(smtp.messages) == 1
        for node in (first, second):
            late = await node.decide("reject", hitl["requestId"])
            assert (late.status_code, late.json()["data"]["status"]) == (409, "approved")


def publish(client: redis.Redis, session_id: str, request_id: str) -> None:
    signal = {"type": "approval", "requestId": request_id, "timestamp": int(time.time())}
    assert client.publish(f"hitl:channel:{session_id}", json.dumps(signal)) == 1


def set_signal(client: redis.Redis, session_id: str, request_id: str) -> None:
    signal = {"type": "approval", "requestId": request_id, "status": "approved", "timestamp": int(time.time())}
    client.set(f"hitl:signal:{session_id}", json.dumps(signal), ex=300)


def set_request(client: redis.Redis, session_id: str, request_id: str) -> None:
    request = json.loads(str(client.get(f"hitl:request:{request_id}")))
    request |= {"status": "approved", "approvedBy": "boss", "approvedAt": int(time.time() * 1000)}
    client.set(f"hitl:request:{request_id}", json.dumps(request), keepttl=True)


@pytest.mark.parametrize("decide", [publish, set_signal, pytest.param(set_request, marks=pytest.mark.slow)])
async def test_decision_in_redis_completes_the_run(
    nodes: Nodes,
    model: ScriptedModelServer,
    redis_client: redis.Redis,
    decide: Callable[[redis.Redis, str, str], None],
) -> None:
    async with SmtpSink() as smtp:
        node = await nodes.start(**mail_settings(smtp))
        model.play(mail_turn(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with node.stream("메일") as stream:
            hitl = await client.collect(stream, of_type("hitl"))
            session_id = str(hitl["sessionId"])
            assert redis_client.pubsub_channels("hitl:channel:*") == [f"hitl:channel:{session_id}"]
            (key,) = redis_client.keys("checkpoint:*")
            checkpoint = json.loads(str(redis_client.get(key)))
            assert checkpoint["state"] == "awaiting_approval"
            assert checkpoint["pending_approvals"][0]["request_id"] == hitl["requestId"]
            decide(redis_client, session_id, str(hitl["requestId"]))
            await client.collect(stream, of_type("timeline_step_update"))
            await client.collect(stream)
        check(client.seen)
        assert client.seen[-2]["status"] == "completed"
        stored = json.loads(str(redis_client.get(f"hitl:request:{hitl['requestId']}")))
        assert stored["status"] == "approved"
        assert len(smtp.messages) == 1


async def test_concurrent_decisions_on_two_nodes_count_once(nodes: Nodes, model: ScriptedModelServer) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes.start_pair(**mail_settings(smtp))
        model.play(mail_turn(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with first.stream("메일") as stream:
            hitl = await client.collect(stream, of_type("hitl"))

            async def approve(node: ServeProcess) -> tuple[int, str]:
                response = await node.decide("approve", hitl["requestId"], as_=headers(), reason=node.url)
                return response.status_code, response.json()["data"]["reason"]

            answers = await asyncio.gather(*(approve(node) for node in (first, second) * 5))
            await client.collect(stream)
        assert sorted(status for status, _ in answers) == [200] + [409] * 9
        assert len({reason for _, reason in answers}) == 1
        assert len(smtp.messages) == 1
