"""Redis restarts, hangs, loses its data, or its answers get lost: runs pause and go on, or end with a clear error."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import pytest
import redis

from app.demo.model import ScriptedModelServer
from app.demo.redis import RedisServer
from app.demo.script import ScriptedTurn
from app.demo.smtp import SmtpSink
from app.redis import scripts
from tests.e2e.conftest import Nodes
from tests.e2e.mail import asks_for_mail, mail_settings
from tests.harness.follow import Follower, of_type
from tests.harness.frames import Frame, answer, check, types
from tests.harness.process import ServeProcess
from tests.harness.redis_proxy import RedisProxy
from tests.harness.service import headers
from tests.harness.waiting import eventually

TEXT = "분기 보고서를 정리했습니다. 매출은 12% 늘었고, 비용은 그대로입니다. 자세한 표는 첨부를 보세요."
DONE = "메일을 보냈습니다."

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


async def refused(node: ServeProcess, prompt: str = "저장소") -> float:
    """A new prompt gets a 503 that says so; the seconds it took."""
    asked_at = time.monotonic()
    async with node.stream(prompt) as stream:
        frames = await stream.rest()
    assert stream.response.status_code == 503
    assert frames[0]["errorType"] == "StorageUnavailable"
    assert "retry-after" in stream.response.headers
    return time.monotonic() - asked_at


@pytest.mark.parametrize("lease_seconds", [2, 10])
async def test_redis_restarts_with_its_data_in_the_middle(
    nodes_on: NodesOn, durable: RedisServer, model: ScriptedModelServer, lease_seconds: int
) -> None:
    """One run is in the middle of an answer, the other waits for an approval."""
    async with SmtpSink() as smtp:
        node = await nodes_on(durable.url).start(**mail_settings(smtp), AURA_LEASE_SECONDS=lease_seconds)
        model.play(asks_for_mail())
        waiting, writing = Follower("메일", "user2"), Follower("보고서")
        async with AsyncExitStack() as streams:
            approval = await streams.enter_async_context(node.stream("메일", headers=headers("user2")))
            hitl = await waiting.take(approval, of_type("hitl"))
            model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=10))
            report = await streams.enter_async_context(node.stream("보고서"))
            while len(answer(writing.seen)) < 40:
                await writing.take(report, of_type("content"))
            durable.kill()
            model.release()
            assert await refused(node) < 3
            assert (await node.client.get("/ready")).status_code == 503
            assert (await node.client.get("/health")).status_code == 200
            durable.restart(keep_data=True)
            await writing.take(report)
            async with asyncio.timeout(5):
                await node.ready()
            model.play(ScriptedTurn(text=DONE))
            with redis.Redis.from_url(durable.url, decode_responses=True) as client:
                await eventually(lambda: client.pubsub_channels("hitl:channel:*"))
            assert (await node.decide("approve", hitl["requestId"], as_=headers("user2"))).status_code == 200
            decided_at = time.monotonic()
            await waiting.take(approval, of_type("timeline_step_update"))
            assert time.monotonic() - decided_at < 2
            await waiting.take(approval)
        for follower, text in ((waiting, DONE), (writing, TEXT)):
            check(follower.seen)
            assert answer(follower.seen) == text
        assert len(smtp.messages) == 1
        assert len(model.requests) == 3


async def test_redis_hangs(nodes_on: NodesOn, durable: RedisServer, model: ScriptedModelServer) -> None:
    """It accepts and does not answer: runs pause, streams get heartbeats, requests an answer in a bounded time."""
    async with SmtpSink() as smtp:
        node = await nodes_on(durable.url).start(**mail_settings(smtp), AURA_LEASE_SECONDS=10, AURA_HEARTBEAT_SECONDS=1)
        model.play(asks_for_mail())
        waiting, writing = Follower("메일", "user2"), Follower("보고서")
        async with AsyncExitStack() as streams:
            approval = await streams.enter_async_context(node.stream("메일", headers=headers("user2")))
            hitl = await waiting.take(approval, of_type("hitl"))
            model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=10))
            report = await streams.enter_async_context(node.stream("보고서"))
            while len(answer(writing.seen)) < 40:
                await writing.take(report, of_type("content"))
            durable.pause()
            paused_at = time.monotonic()
            model.release()
            assert await refused(node) < 3
            asked_at = time.monotonic()
            response = await node.decide("approve", hitl["requestId"], as_=headers("user2"))
            assert response.status_code == 503
            assert response.json()["errorCode"] == "E5002"
            assert time.monotonic() - asked_at < 3
            before = report.comments
            async with asyncio.timeout(3):
                while report.comments < before + 2:
                    await report.any()
            while time.monotonic() - paused_at < 4:
                await report.any()  # a heartbeat a second
            durable.resume()
            async with asyncio.timeout(5):
                await writing.take(report)
            model.play(ScriptedTurn(text=DONE))
            async with asyncio.timeout(5):
                await node.ready()
            response = await node.decide("approve", hitl["requestId"], as_=headers("user2"))
            assert response.json()["data"]["status"] == "approved"
            async with asyncio.timeout(5):
                await waiting.take(approval)
        for follower, text in ((waiting, DONE), (writing, TEXT)):
            check(follower.seen)
            assert answer(follower.seen) == text
        assert not node.logged("node.lease_lost")
        assert len(smtp.messages) == 1
        # What was refused was not begun after all, or ended before the model was asked.
        with redis.Redis.from_url(durable.url, decode_responses=True) as client:
            await eventually(lambda: sorted(states(client)) in (["done"] * 2, ["cancelled", "done", "done"]))
        assert len(model.requests) == 3


def states(client: redis.Redis) -> list[str]:
    return [str(json.loads(str(client.get(key)))["state"]) for key in client.keys("checkpoint:*")]


async def test_redis_loses_its_data(nodes_on: NodesOn, model: ScriptedModelServer) -> None:
    """The streams of what was lost end with a clear error; the node takes new runs."""
    with RedisServer() as volatile:
        async with SmtpSink() as smtp:
            first, second = await nodes_on(volatile.url).pair(**mail_settings(smtp))
            model.play(asks_for_mail())
            waiting, writing, other = Follower("메일", "user2"), Follower("보고서"), Follower("메일", "user2")
            async with AsyncExitStack() as streams:
                approval = await streams.enter_async_context(first.stream("메일", headers=headers("user2")))
                hitl = await waiting.take(approval, of_type("hitl"))
                model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=10))
                report = await streams.enter_async_context(first.stream("보고서"))
                while len(answer(writing.seen)) < 40:
                    await writing.take(report, of_type("content"))
                async with second.stream(method="GET", headers=headers("user2")) as elsewhere:
                    await other.take(elsewhere, of_type("hitl"))
                    volatile.kill()
                    volatile.restart(keep_data=False)
                    async with asyncio.timeout(10):
                        await asyncio.gather(writing.take(report), waiting.take(approval), other.take(elsewhere))
            for follower in (waiting, writing, other):
                check(follower.seen)
                assert types(follower.seen)[-3:] == ["error", "end", "[DONE]"]
                assert follower.seen[-3]["errorType"] == "StorageUnavailable"
                assert follower.seen[-2]["status"] == "failed"
            await eventually(lambda: first.logged("node.lease_lost"))
            assert (await first.decide("approve", hitl["requestId"], as_=headers("user2"))).status_code == 404
            await model.idle()  # the model's turn was let go
            model.play(ScriptedTurn(text="새로"))
            async with asyncio.timeout(3):
                frames = await posted(first, "새로")
            assert answer(frames) == "새로"
            with redis.Redis.from_url(volatile.url, decode_responses=True) as client:
                assert len(client.keys("checkpoint:*")) == 1
                assert len(client.keys("aura:*events*")) == 1


def sha(script: str) -> bytes:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()


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
        proxy.lose_answers(sha(getattr(scripts, script)), how=how)  # type: ignore[arg-type]
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
        proxy.lose_answers(sha(scripts.CREATE), times=2)  # the driver tries twice
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
            proxy.freeze()
            await eventually(lambda: cut.logged("node.lease_lost"), 3)
            await eventually(lambda: whole.logged("run.taken_over"), 4)
            assert (await whole.decide("approve", hitl["requestId"])).status_code == 200
            await eventually(lambda: whole.logged("run.ended"), 5)
            assert (await cut.client.get("/ready")).status_code == 503
            proxy.thaw()
            async with asyncio.timeout(10):
                await client.take(stream)
        check(client.seen)
        assert answer(client.seen) == DONE
        assert len(smtp.messages) == 1
        async with asyncio.timeout(5):
            await cut.ready()
        # Its Pub/Sub line is well again: a decision through the other node is heard at once.
        model.play(asks_for_mail(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with cut.stream("메일") as stream:
            hitl = await client.take(stream, of_type("hitl"))
            await whole.decide("approve", hitl["requestId"])
            decided_at = time.monotonic()
            await client.take(stream, of_type("timeline_step_update"))
            assert time.monotonic() - decided_at < 1
            await client.take(stream)
