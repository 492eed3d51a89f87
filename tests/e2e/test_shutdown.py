"""SIGTERM: no new runs, the open streams end with the word to come back, others go on at once (§2.3)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from contextlib import AsyncExitStack

import httpx2
import pytest
import redis

from app.dev.chaos.link import Relay
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.conftest import Nodes
from tests.e2e.mail import HeldSmtp, asks_for_mail, mail_settings
from tests.e2e.test_storage import NodesOn
from tests.e2e.two_runs import DONE, TEXT, two_runs
from tests.harness.clients import client, collected, events, token
from tests.harness.follow import Follower, of_type
from tests.harness.frames import StreamReader, answer, check, types
from tests.harness.service import Client
from tests.harness.waiting import eventually


async def sent_away(client: Follower, stream: StreamReader) -> None:
    """The stream ends with the comment frame that says when to come back, and without `[DONE]`."""
    with pytest.raises(StopAsyncIteration):
        await client.take(stream)
    assert not client.is_done
    assert stream.last is not None
    assert "retry: 1000" in stream.last.raw
    assert "id:" in stream.last.raw
    assert stream.last.id is None


async def test_streams_move_to_the_other_node(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes.pair(**mail_settings(smtp))
        async with two_runs(first, model) as runs:
            model.play(ScriptedTurn(text=TEXT, chunk_chars=4))
            first.terminate()
            await eventually(lambda: first.logged("server.stop_requested"))
            assert (await first.client.get("/ready")).status_code == 503
            assert (await first.client.get("/health")).status_code == 200
            async with first.stream("새로") as stream:
                refused = await stream.rest()
            assert stream.response.status_code == 503
            assert int(stream.response.headers["retry-after"]) >= 1
            assert types(refused) == ["error", "end", "[DONE]"]
            await sent_away(runs.waiting, runs.approval)
            await sent_away(runs.writing, runs.report)
        await runs.writing.read(second)
        assert await first.ended() == 0
        model.play(ScriptedTurn(text=DONE))
        await eventually(lambda: redis_client.pubsub_channels("hitl:channel:*"))
        assert await runs.approve(second) == 200
        await runs.waiting.read(second)
        runs.both_whole()
        assert len(smtp.messages) == 1
        assert len(model.requests) == 4  # the answer was gone on with, once


async def test_a_waiting_run_moves_without_waiting_for_the_lease(nodes: Nodes, model: ScriptedModelServer) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes.pair(**mail_settings(smtp), AURA_LEASE_SECONDS=600)
        model.play(asks_for_mail(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with first.stream("메일") as stream:
            hitl = await client.take(stream, of_type("hitl"))
            first.terminate()
            await sent_away(client, stream)
        await eventually(lambda: second.logged("run.taken_over"))
        await second.decide("approve", hitl["requestId"])
        await client.read(second)
        assert await first.ended() == 0
        check(client.seen)
        assert answer(client.seen) == DONE


async def test_a_tool_under_way_may_finish(nodes: Nodes, model: ScriptedModelServer) -> None:
    """Its result is committed before the node leaves, so nobody is asked whether it happened."""
    async with HeldSmtp() as smtp:
        first, second = await nodes.pair(**mail_settings(smtp), AURA_DRAIN_SECONDS=5)
        model.play(asks_for_mail(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with first.stream("메일") as stream:
            hitl = await client.take(stream, of_type("hitl"))
            await first.decide("approve", hitl["requestId"])
            await smtp.received(1)
            first.terminate()
            await eventually(lambda: first.logged("server.stop_requested"))
            smtp.go_on.set()
            await sent_away(client, stream)
        await client.read(second)
        assert await first.ended() == 0
        check(client.seen)
        assert types(client.seen).count("hitl") == 1
        assert answer(client.seen) == DONE
        assert len(smtp.messages) == 1


class Behind(Client):
    """A client of whatever is at an address."""

    def __init__(self, url: str) -> None:
        limits = httpx2.Limits(max_connections=None)
        self.client = httpx2.AsyncClient(base_url=url, timeout=httpx2.Timeout(60, pool=None), limits=limits)


async def test_rolling_restart_under_load(nodes: Nodes, model: ScriptedModelServer) -> None:
    """Both nodes, one after the other, behind one address, while 100 answers stream, some of them to `aura ask`: every
    client ends with the whole answer and sees no more than a reconnect."""
    browsers, terminals = 90, 10
    count = browsers + terminals
    first, second = await nodes.pair(AURA_DRAIN_SECONDS=0.5)
    model._pace = 1.0
    model.play(*(ScriptedTurn(text=TEXT, chunk_chars=4, delay_ms=100) for _ in range(4 * count)))
    followers = [Follower("보고서", f"user{number}", key="once") for number in range(browsers)]
    async with Relay("127.0.0.1", first.port) as address, AsyncExitStack() as opened:
        url = f"http://127.0.0.1:{address.port}"
        behind = Behind(url)
        await opened.enter_async_context(behind.client)

        async def follow(follower: Follower) -> None:
            while not follower.is_done:
                with contextlib.suppress(StopAsyncIteration):
                    try:
                        await follower.read(behind)
                    except httpx2.RemoteProtocolError as error:
                        # A kept connection was closed in the very moment in which it was used again.
                        assert "without sending a response" in str(error)  # noqa: PT017 - else it is tried again

        async def ask(number: int) -> str:
            async with client(url, token=token(f"asker{number}")) as terminal:
                got = events(await collected(terminal.run("보고서")))
            return "".join(event.fields["content"] for event in got if event.type == "content")

        following = asyncio.gather(*(follow(follower) for follower in followers))
        asking = asyncio.gather(*(ask(number) for number in range(terminals)))
        await model.arrived(count)
        address.target = ("127.0.0.1", second.port)
        first.terminate()
        assert await first.ended() == 0
        again = await nodes.start(AURA_DRAIN_SECONDS=0.5)
        address.target = ("127.0.0.1", again.port)
        second.terminate()
        async with asyncio.timeout(60):
            answers = await asking
            await following
        assert await second.ended() == 0
    await model.idle()
    model._queue.clear()
    assert answers == [TEXT] * terminals
    for follower in followers:
        check(follower.seen)
        assert answer(follower.seen) == TEXT


async def test_a_node_with_nothing_under_way_ends(nodes: Nodes) -> None:
    node = await nodes.start()
    node.terminate()
    assert await node.ended() == 0


async def test_interrupt_ends_as_terminate_does(nodes: Nodes) -> None:
    node = await nodes.start()
    node.signal(signal.SIGINT)
    assert await node.ended() == 0


async def test_it_ends_although_redis_hangs(nodes_on: NodesOn, model: ScriptedModelServer) -> None:
    with RedisServer() as server:
        async with SmtpSink() as smtp:
            node = await nodes_on(server.url).start(**mail_settings(smtp), AURA_REDIS_TIMEOUT_SECONDS=0.5)
            async with two_runs(node, model) as runs:
                server.pause()
                model.release()
                node.terminate()
                await sent_away(runs.waiting, runs.approval)
                await sent_away(runs.writing, runs.report)
                assert await node.ended() == 0
            server.resume()
