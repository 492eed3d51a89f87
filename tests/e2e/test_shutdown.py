"""SIGTERM: the node refuses new runs, open streams end with `retry:`, other nodes take over at once (CONTRACT §2.3)."""

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
from tests.e2e.mail import BlockedSmtp, mail_settings, mail_turn
from tests.e2e.test_storage import NodesOn
from tests.e2e.two_runs import DONE, TEXT, start_two_runs
from tests.harness.clients import client, collected, events, token
from tests.harness.follow import Follower, of_type
from tests.harness.frames import StreamReader, answer, check, types
from tests.harness.service import Client
from tests.harness.waiting import eventually


async def expect_drain(client: Follower, stream: StreamReader) -> None:
    """The stream must end with the frame that requests a reconnect (`retry: 1000`), and without `[DONE]`."""
    with pytest.raises(StopAsyncIteration):
        await client.collect(stream)
    assert not client.is_done
    assert stream.last is not None
    assert "retry: 1000" in stream.last.raw
    assert "id:" in stream.last.raw
    assert stream.last.id is None


async def test_streams_continue_on_another_node_after_sigterm(
    nodes: Nodes, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes.start_pair(**mail_settings(smtp))
        async with start_two_runs(first, model) as runs:
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
            await expect_drain(runs.waiting, runs.approval)
            await expect_drain(runs.writing, runs.report)
        await runs.writing.read(second)
        assert await first.wait_for_exit() == 0
        model.play(ScriptedTurn(text=DONE))
        await eventually(lambda: redis_client.pubsub_channels("hitl:channel:*"))
        assert await runs.approve(second) == 200
        await runs.waiting.read(second)
        runs.check_both_completed()
        assert len(smtp.messages) == 1
        assert len(model.requests) == 4  # the answer was continued once


async def test_draining_node_hands_a_waiting_run_over_at_once(nodes: Nodes, model: ScriptedModelServer) -> None:
    async with SmtpSink() as smtp:
        first, second = await nodes.start_pair(**mail_settings(smtp), AURA_LEASE_SECONDS=600)
        model.play(mail_turn(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with first.stream("메일") as stream:
            hitl = await client.collect(stream, of_type("hitl"))
            first.terminate()
            await expect_drain(client, stream)
        await eventually(lambda: second.logged("run.taken_over"))
        await second.decide("approve", hitl["requestId"])
        await client.read(second)
        assert await first.wait_for_exit() == 0
        check(client.seen)
        assert answer(client.seen) == DONE


async def test_running_tool_finishes_before_the_node_exits(nodes: Nodes, model: ScriptedModelServer) -> None:
    """Its result is committed before the node exits, so that no approver is asked about an unknown outcome."""
    async with BlockedSmtp() as smtp:
        first, second = await nodes.start_pair(**mail_settings(smtp), AURA_DRAIN_SECONDS=5)
        model.play(mail_turn(), ScriptedTurn(text=DONE))
        client = Follower("메일")
        async with first.stream("메일") as stream:
            hitl = await client.collect(stream, of_type("hitl"))
            await first.decide("approve", hitl["requestId"])
            await smtp.wait_for_messages(1)
            first.terminate()
            await eventually(lambda: first.logged("server.stop_requested"))
            smtp.unblocked.set()
            await expect_drain(client, stream)
        await client.read(second)
        assert await first.wait_for_exit() == 0
        check(client.seen)
        assert types(client.seen).count("hitl") == 1
        assert answer(client.seen) == DONE
        assert len(smtp.messages) == 1


class AddressClient(Client):
    """A client of the server at an address, which may change."""

    def __init__(self, url: str) -> None:
        limits = httpx2.Limits(max_connections=None)
        self.client = httpx2.AsyncClient(base_url=url, timeout=httpx2.Timeout(60, pool=None), limits=limits)


async def follow(follower: Follower, node: Client) -> None:
    """Read to the end of the run; reconnect whenever the stream ends early."""
    while not follower.is_done:
        with contextlib.suppress(StopAsyncIteration):
            try:
                await follower.read(node)
            except httpx2.RemoteProtocolError as error:
                # A kept-alive connection was closed just when it was used again.
                assert "without sending a response" in str(error)  # noqa: PT017 - otherwise it is retried


async def read_run(url: str, user: str) -> str:
    """Execute a prompt with the client of `aura ask`; returns the answer."""
    async with client(url, token=token(user)) as terminal:
        received = events(await collected(terminal.run("보고서")))
    return "".join(event.fields["content"] for event in received if event.type == "content")


@pytest.mark.slow
async def test_rolling_restart_under_load(nodes: Nodes, model: ScriptedModelServer) -> None:
    """Both nodes behind one address are restarted one after the other while 100 answers stream, 10 of them to the
    client of `aura ask`: every client receives the complete answer, and sees only reconnects."""
    browsers, terminals = 90, 10
    count = browsers + terminals
    first, second = await nodes.start_pair(AURA_DRAIN_SECONDS=0.5)
    model.pace = 1.0
    model.play(*(ScriptedTurn(text=TEXT, chunk_chars=4, delay_ms=100) for _ in range(4 * count)))
    followers = [Follower("보고서", f"user{number}", idempotency_key="once") for number in range(browsers)]
    async with Relay("127.0.0.1", first.port) as address, AsyncExitStack() as opened:
        url = f"http://127.0.0.1:{address.port}"
        proxied = AddressClient(url)
        await opened.enter_async_context(proxied.client)
        follower_task = asyncio.gather(*(follow(follower, proxied) for follower in followers))
        ask_task = asyncio.gather(*(read_run(url, f"terminal{number}") for number in range(terminals)))
        await model.wait_for_requests(count)
        address.target = ("127.0.0.1", second.port)
        first.terminate()
        assert await first.wait_for_exit() == 0
        again = await nodes.start(AURA_DRAIN_SECONDS=0.5)
        address.target = ("127.0.0.1", again.port)
        second.terminate()
        async with asyncio.timeout(60):
            answers = await ask_task
            await follower_task
        assert await second.wait_for_exit() == 0
    await model.wait_until_idle()
    model.clear()
    assert answers == [TEXT] * terminals
    for follower in followers:
        check(follower.seen)
        assert answer(follower.seen) == TEXT


async def test_idle_node_exits_on_sigterm(nodes: Nodes) -> None:
    node = await nodes.start()
    node.terminate()
    assert await node.wait_for_exit() == 0


async def test_sigint_exits_as_sigterm(nodes: Nodes) -> None:
    node = await nodes.start()
    node.signal(signal.SIGINT)
    assert await node.wait_for_exit() == 0


@pytest.mark.slow
async def test_node_exits_while_redis_hangs(nodes_on: NodesOn, model: ScriptedModelServer) -> None:
    with RedisServer() as server:
        async with SmtpSink() as smtp:
            node = await nodes_on(server.url).start(**mail_settings(smtp), AURA_REDIS_TIMEOUT_SECONDS=0.5)
            async with start_two_runs(node, model) as runs:
                server.pause()
                model.release()
                node.terminate()
                await expect_drain(runs.waiting, runs.approval)
                await expect_drain(runs.writing, runs.report)
                assert await node.wait_for_exit() == 0
            server.resume()
