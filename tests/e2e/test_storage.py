"""Redis restarts, hangs, loses its data, or its answers get lost: runs pause and go on, or end with a clear error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from app.redis import scripts
from tests.e2e.conftest import Nodes
from tests.e2e.mail import asks_for_mail, mail_settings
from tests.e2e.two_runs import APPROVER, DONE, TEXT, two_runs
from tests.harness.follow import Follower, of_type
from tests.harness.frames import Frame, answer, check, types
from tests.harness.process import ServeProcess
from tests.harness.redis_proxy import RedisProxy
from tests.harness.service import headers
from tests.harness.stored import checkpoints
from tests.harness.waiting import eventually

BOUND_SECONDS = 10
"""What is bounded to a few seconds, on a machine that has much else to do."""

NodesOn = Callable[[str], Nodes]


@pytest.fixture
def durable() -> Iterator[RedisServer]:
    with RedisServer(persistent=True) as server:
        yield server


async def posted(node: ServeProcess, prompt: str) -> list[Frame]:
    """A prompt, posted again for as long as the node says 503."""
    while True:
        async with node.stream(prompt) as stream:
            frames = await stream.rest()
        if stream.response.status_code != 503:
            return frames


async def refused(node: ServeProcess, prompt: str = "저장소") -> None:
    """A new prompt gets a 503 that says so, in a bounded time."""
    async with asyncio.timeout(BOUND_SECONDS), node.stream(prompt) as stream:
        frames = await stream.rest()
    assert stream.response.status_code == 503
    assert frames[0]["errorType"] == "StorageUnavailable"
    assert "retry-after" in stream.response.headers


@pytest.mark.parametrize("lease_seconds", [2, 10])
async def test_redis_restarts_with_its_data_in_the_middle(
    nodes_on: NodesOn, durable: RedisServer, model: ScriptedModelServer, lease_seconds: int
) -> None:
    async with SmtpSink() as smtp:
        node = await nodes_on(durable.url).start(**mail_settings(smtp), AURA_LEASE_SECONDS=lease_seconds)
        async with two_runs(node, model) as runs:
            durable.kill()
            model.release()
            await refused(node)
            assert (await node.client.get("/ready")).status_code == 503
            assert (await node.client.get("/health")).status_code == 200
            durable.restart(keep_data=True)
            await runs.writing.take(runs.report)
            async with asyncio.timeout(5):
                await node.ready()
            model.play(ScriptedTurn(text=DONE))
            with redis.Redis.from_url(durable.url, decode_responses=True) as client:
                await eventually(lambda: client.pubsub_channels("hitl:channel:*"))
            assert await runs.approve() == 200
            await runs.waiting.take(runs.approval)
        runs.both_whole()
        assert len(smtp.messages) == 1
        assert len(model.requests) == 3


async def test_redis_hangs(nodes_on: NodesOn, durable: RedisServer, model: ScriptedModelServer) -> None:
    """It accepts and does not answer: runs pause, streams get heartbeats, requests an answer in a bounded time."""
    async with SmtpSink() as smtp:
        node = await nodes_on(durable.url).start(
            **mail_settings(smtp),
            AURA_LEASE_SECONDS=10,
            AURA_HEARTBEAT_SECONDS=0.5,
            AURA_REDIS_TIMEOUT_SECONDS=0.5,
        )
        async with two_runs(node, model) as runs:
            durable.pause()
            paused_at = time.monotonic()
            model.release()
            await refused(node)
            async with asyncio.timeout(BOUND_SECONDS):
                response = await node.decide("approve", runs.hitl["requestId"], as_=headers(APPROVER))
                assert response.status_code == 503
                assert response.json()["errorCode"] == "E5002"
                await runs.heartbeats()
            while time.monotonic() - paused_at < 2.5:  # longer than any answer is waited for
                await runs.report.any()  # a heartbeat
            durable.resume()
            await runs.finish(15)
        assert not node.logged("node.lease_lost")
        assert len(smtp.messages) == 1
        # What was refused does not go on: it was not begun, or, where its creation had reached Redis, it was cancelled.
        with redis.Redis.from_url(durable.url, decode_responses=True) as client:
            ended = (["done", "done"], ["cancelled", "done", "done"])
            await eventually(lambda: sorted(checkpoint["state"] for checkpoint in checkpoints(client)) in ended)


async def test_redis_loses_its_data(nodes_on: NodesOn, model: ScriptedModelServer) -> None:
    """The streams of what was lost end with a clear error; the node takes new runs."""
    with RedisServer() as volatile:
        async with SmtpSink() as smtp:
            first, second = await nodes_on(volatile.url).pair(**mail_settings(smtp))
            other = Follower("메일", APPROVER)
            async with two_runs(first, model) as runs:
                async with second.stream(method="GET", headers=headers(APPROVER)) as elsewhere:
                    await other.take(elsewhere, of_type("hitl"))
                    volatile.kill()
                    volatile.restart(keep_data=False)
                    async with asyncio.timeout(10):
                        await asyncio.gather(
                            runs.writing.take(runs.report), runs.waiting.take(runs.approval), other.take(elsewhere)
                        )
            for follower in (runs.waiting, runs.writing, other):
                check(follower.seen)
                assert types(follower.seen)[-3:] == ["error", "end", "[DONE]"]
                assert follower.seen[-3]["errorType"] == "StorageUnavailable"
                assert follower.seen[-2]["status"] == "failed"
            await eventually(lambda: first.logged("node.lease_lost"))
            assert await runs.approve() == 404
            await model.idle()  # the model's turn was let go
            model.play(ScriptedTurn(text="새로"))
            async with asyncio.timeout(3):
                frames = await posted(first, "새로")
            assert answer(frames) == "새로"
            with redis.Redis.from_url(volatile.url, decode_responses=True) as client:
                assert len(client.keys("checkpoint:*")) == 1
                assert len(client.keys("aura:*events*")) == 1


@pytest.mark.parametrize("how", ["close", "silence"])
@pytest.mark.parametrize("script", ["CREATE", "COMMIT"])
async def test_a_lost_answer_duplicates_nothing(
    nodes_on: NodesOn,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    model: ScriptedModelServer,
    script: str,
    how: str,
) -> None:
    async with RedisProxy(redis_server.port) as proxy:
        node = await nodes_on(proxy.url).start()
        model.play(ScriptedTurn(text="처음"))
        await Follower("처음", "user9").read(node)  # the scripts are loaded
        model.play(ScriptedTurn(text=TEXT, chunk_chars=4))
        proxy.lose_answers(getattr(scripts, script).sha.encode(), how=how)  # type: ignore[arg-type]
        client = Follower("보고서")
        async with asyncio.timeout(8):
            await client.read(node)
        assert proxy.lost == 1
        check(client.seen)
        assert answer(client.seen) == TEXT
        assert types(client.seen).count("start") == 1
        assert redis_client.xlen(next(iter(redis_client.keys("aura:{user1}:events:*")))) == len(client.seen)
        assert len(model.requests) == 2


async def test_a_run_whose_creation_was_never_answered_is_no_zombie(
    nodes_on: NodesOn, redis_server: RedisServer, redis_client: redis.Redis, model: ScriptedModelServer
) -> None:
    """The client was told 503, so it asks again: that is one run, not two, and none that nobody carries."""
    async with RedisProxy(redis_server.port) as proxy:
        node = await nodes_on(proxy.url).start(AURA_LEASE_SECONDS=10)
        model.play(ScriptedTurn(text="처음"))
        await Follower("처음", "user9").read(node)
        proxy.lose_answers(scripts.CREATE.sha.encode(), times=2)  # the driver tries twice
        keyed = headers(**{"Idempotency-Key": "key-1"})
        model.play(ScriptedTurn(text=TEXT))
        async with node.stream("보고서", headers=keyed) as stream:
            frames = await stream.rest()
        assert proxy.lost == 2
        if stream.response.status_code == 503:
            async with asyncio.timeout(8), node.stream("보고서", headers=keyed) as stream:
                frames = await stream.rest()
        check(frames)
        assert answer(frames) == TEXT
        assert len(model.requests) == 2
        await eventually(lambda: len(redis_client.keys("checkpoint:{user1}:*")) == 1, 5)


async def test_a_node_that_is_cut_off_stops_while_its_clients_stay(
    nodes_on: NodesOn, redis_server: RedisServer, redis_client: redis.Redis, model: ScriptedModelServer
) -> None:
    """Its connection to Redis hangs, the other node's does not: the other goes on with the run."""
    async with RedisProxy(redis_server.port) as proxy, SmtpSink() as smtp:
        cut = await nodes_on(proxy.url).start(**mail_settings(smtp), AURA_HEARTBEAT_SECONDS=1)
        whole = await nodes_on(redis_server.url).start(**mail_settings(smtp))
        model.play(asks_for_mail(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with cut.stream("메일") as stream:
            hitl = await client.take(stream, of_type("hitl"))
            proxy.cut()
            await eventually(lambda: cut.logged("node.lease_lost"), 3)
            await eventually(lambda: whole.logged("run.taken_over"), 4)
            assert (await whole.decide("approve", hitl["requestId"])).status_code == 200
            await eventually(lambda: whole.logged("run.ended"), 5)
            assert (await cut.client.get("/ready")).status_code == 503
            proxy.mend()
            async with asyncio.timeout(10):
                await client.take(stream)
        check(client.seen)
        assert answer(client.seen) == DONE
        assert len(smtp.messages) == 1
        async with asyncio.timeout(5):
            await cut.ready()
        # Its Pub/Sub line is well again: a decision through the other node is heard.
        model.play(asks_for_mail(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with cut.stream("메일") as stream:
            hitl = await client.take(stream, of_type("hitl"))
            await whole.decide("approve", hitl["requestId"])
            await client.take(stream)
