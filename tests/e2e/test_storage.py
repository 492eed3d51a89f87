"""Redis restarts, hangs or loses its data, or its replies are lost: runs pause and continue, or end with an error."""

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
from tests.e2e.mail import mail_settings, mail_turn
from tests.e2e.two_runs import APPROVER, DONE, TEXT, start_two_runs
from tests.harness.follow import Follower, of_type
from tests.harness.frames import Frame, answer, check, types
from tests.harness.process import ServeProcess
from tests.harness.redis_proxy import RedisProxy
from tests.harness.service import headers
from tests.harness.stored import read_checkpoints, read_log
from tests.harness.waiting import eventually

BOUND_SECONDS = 10
"""The limit for what takes a few seconds at most; it is long because the machine may be loaded."""

NodesOn = Callable[[str], Nodes]


@pytest.fixture
def durable_redis() -> Iterator[RedisServer]:
    with RedisServer(persistent=True) as server:
        yield server


async def post_until_accepted(node: ServeProcess, prompt: str) -> list[Frame]:
    """Post a prompt, and repeat it while the node answers 503; returns the frames."""
    while True:
        async with node.stream(prompt) as stream:
            frames = await stream.rest()
        if stream.response.status_code != 503:
            return frames


async def expect_refusal(node: ServeProcess, prompt: str = "저장소") -> None:
    """Post a prompt, which must be refused with 503 and `StorageUnavailable` within `BOUND_SECONDS`."""
    async with asyncio.timeout(BOUND_SECONDS), node.stream(prompt) as stream:
        frames = await stream.rest()
    assert stream.response.status_code == 503
    assert frames[0]["errorType"] == "StorageUnavailable"
    assert "retry-after" in stream.response.headers


@pytest.mark.parametrize("lease_seconds", [2, 10])
async def test_redis_restart_with_its_data_loses_nothing(
    nodes_on: NodesOn, durable_redis: RedisServer, model: ScriptedModelServer, lease_seconds: int
) -> None:
    async with SmtpSink() as smtp:
        node = await nodes_on(durable_redis.url).start(**mail_settings(smtp), AURA_LEASE_SECONDS=lease_seconds)
        async with start_two_runs(node, model) as runs:
            durable_redis.kill()
            model.release()
            await expect_refusal(node)
            assert (await node.client.get("/ready")).status_code == 503
            assert (await node.client.get("/health")).status_code == 200
            durable_redis.restart(keep_data=True)
            await runs.writing.collect(runs.report)
            async with asyncio.timeout(5):
                await node.ready()
            model.play(ScriptedTurn(text=DONE))
            with redis.Redis.from_url(durable_redis.url, decode_responses=True) as client:
                await eventually(lambda: client.pubsub_channels("hitl:channel:*"))
            assert await runs.approve() == 200
            await runs.waiting.collect(runs.approval)
        runs.check_both_completed()
        assert len(smtp.messages) == 1
        assert len(model.requests) == 3


@pytest.mark.slow
async def test_hanging_redis_pauses_runs_and_refuses_requests(
    nodes_on: NodesOn, durable_redis: RedisServer, model: ScriptedModelServer
) -> None:
    """Runs pause, streams get heartbeats, and requests are answered within a limited time."""
    async with SmtpSink() as smtp:
        node = await nodes_on(durable_redis.url).start(
            **mail_settings(smtp),
            AURA_LEASE_SECONDS=10,
            AURA_HEARTBEAT_SECONDS=0.5,
            AURA_REDIS_TIMEOUT_SECONDS=0.5,
        )
        async with start_two_runs(node, model) as runs:
            durable_redis.pause()
            paused_at = time.monotonic()
            model.release()
            await expect_refusal(node)
            async with asyncio.timeout(BOUND_SECONDS):
                response = await node.decide("approve", runs.hitl["requestId"], as_=headers(APPROVER))
                assert response.status_code == 503
                assert response.json()["errorCode"] == "E5002"
                await runs.expect_heartbeats()
            while time.monotonic() - paused_at < 2.5:  # longer than any command waits for its reply
                await runs.report.any()  # reads a heartbeat
            durable_redis.resume()
            await runs.finish(15)
        assert not node.logged("node.lease_lost")
        assert len(smtp.messages) == 1
        # A refused run was not created; or, where its creation had reached Redis, it was cancelled.
        with redis.Redis.from_url(durable_redis.url, decode_responses=True) as client:
            ended = (["done", "done"], ["cancelled", "done", "done"])
            await eventually(lambda: sorted(checkpoint["state"] for checkpoint in read_checkpoints(client)) in ended)


@pytest.mark.slow
async def test_redis_data_loss_ends_the_runs_with_an_error(nodes_on: NodesOn, model: ScriptedModelServer) -> None:
    """The streams of the lost runs end with an error; the node accepts new runs."""
    with RedisServer() as volatile_redis:
        async with SmtpSink() as smtp:
            first, second = await nodes_on(volatile_redis.url).start_pair(**mail_settings(smtp))
            other = Follower("메일", APPROVER)
            async with start_two_runs(first, model) as runs:
                async with second.stream(method="GET", headers=headers(APPROVER)) as elsewhere:
                    await other.collect(elsewhere, of_type("hitl"))
                    volatile_redis.kill()
                    volatile_redis.restart(keep_data=False)
                    async with asyncio.timeout(10):
                        await asyncio.gather(
                            runs.writing.collect(runs.report),
                            runs.waiting.collect(runs.approval),
                            other.collect(elsewhere),
                        )
            for follower in (runs.waiting, runs.writing, other):
                check(follower.seen)
                assert types(follower.seen)[-3:] == ["error", "end", "[DONE]"]
                assert follower.seen[-3]["errorType"] == "StorageUnavailable"
                assert follower.seen[-2]["status"] == "failed"
            await eventually(lambda: first.logged("node.lease_lost"))
            assert await runs.approve() == 404
            await model.wait_until_idle()  # the request to the model was cancelled
            model.play(ScriptedTurn(text="새로"))
            async with asyncio.timeout(3):
                frames = await post_until_accepted(first, "새로")
            assert answer(frames) == "새로"
            with redis.Redis.from_url(volatile_redis.url, decode_responses=True) as client:
                assert len(client.keys("checkpoint:*")) == 1
                assert len(client.keys("aura:*events*")) == 1


@pytest.mark.parametrize("how", ["close", "silence"])
@pytest.mark.parametrize("script", ["CREATE", "COMMIT"])
async def test_lost_reply_duplicates_nothing(
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
        await Follower("처음", "user9").read(node)  # loads the scripts
        model.play(ScriptedTurn(text=TEXT, chunk_chars=4))
        proxy.drop_replies(getattr(scripts, script).sha.encode(), how=how)  # type: ignore[arg-type]
        client = Follower("보고서")
        async with asyncio.timeout(8):
            await client.read(node)
        assert proxy.dropped_replies == 1
        check(client.seen)
        assert answer(client.seen) == TEXT
        assert types(client.seen).count("start") == 1
        assert len(read_log(redis_client, client.session_id)) == len(client.seen)
        assert len(model.requests) == 2


async def test_run_whose_creation_reply_was_lost_exists_once(
    nodes_on: NodesOn, redis_server: RedisServer, redis_client: redis.Redis, model: ScriptedModelServer
) -> None:
    """The client was answered 503 and repeats its request: there is one run, and no run without an owner."""
    async with RedisProxy(redis_server.port) as proxy:
        node = await nodes_on(proxy.url).start(AURA_LEASE_SECONDS=10)
        model.play(ScriptedTurn(text="처음"))
        await Follower("처음", "user9").read(node)
        proxy.drop_replies(scripts.CREATE.sha.encode(), times=2)  # the driver tries twice
        keyed = headers(**{"Idempotency-Key": "key-1"})
        model.play(ScriptedTurn(text=TEXT))
        async with node.stream("보고서", headers=keyed) as stream:
            frames = await stream.rest()
        assert proxy.dropped_replies == 2
        if stream.response.status_code == 503:
            async with asyncio.timeout(8), node.stream("보고서", headers=keyed) as stream:
                frames = await stream.rest()
        check(frames)
        assert answer(frames) == TEXT
        assert len(model.requests) == 2
        await eventually(lambda: len(redis_client.keys("checkpoint:{user1}:*")) == 1, 5)


@pytest.mark.slow
async def test_node_disconnected_from_redis_loses_its_runs_and_keeps_its_clients(
    nodes_on: NodesOn, redis_server: RedisServer, redis_client: redis.Redis, model: ScriptedModelServer
) -> None:
    """Its connection to Redis hangs, the other node's does not: the other node takes the run over."""
    async with RedisProxy(redis_server.port) as proxy, SmtpSink() as smtp:
        disconnected_node = await nodes_on(proxy.url).start(**mail_settings(smtp), AURA_HEARTBEAT_SECONDS=1)
        connected_node = await nodes_on(redis_server.url).start(**mail_settings(smtp))
        model.play(mail_turn(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with disconnected_node.stream("메일") as stream:
            hitl = await client.collect(stream, of_type("hitl"))
            proxy.cut()
            await eventually(lambda: disconnected_node.logged("node.lease_lost"), 3)
            await eventually(lambda: connected_node.logged("run.taken_over"), 4)
            assert (await connected_node.decide("approve", hitl["requestId"])).status_code == 200
            await eventually(lambda: connected_node.logged("run.ended"), 5)
            assert (await disconnected_node.client.get("/ready")).status_code == 503
            proxy.mend()
            async with asyncio.timeout(10):
                await client.collect(stream)
        check(client.seen)
        assert answer(client.seen) == DONE
        assert len(smtp.messages) == 1
        async with asyncio.timeout(5):
            await disconnected_node.ready()
        # Its Pub/Sub connection works again: it receives a decision that the other node published.
        model.play(mail_turn(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with disconnected_node.stream("메일") as stream:
            hitl = await client.collect(stream, of_type("hitl"))
            await connected_node.decide("approve", hitl["requestId"])
            await client.collect(stream)
