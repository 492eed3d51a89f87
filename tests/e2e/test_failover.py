"""A master of Redis dies: the service finds the new one by itself, and no run is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.redis_deployments import ClusterServers, SentinelServers
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.mail import mail_settings, mail_turn
from tests.e2e.test_storage import NodesOn
from tests.harness.follow import Follower, of_type
from tests.harness.frames import answer, check
from tests.harness.process import ServeProcess
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

DONE = "메일을 보냈습니다."
SERVED_AGAIN_SECONDS = 20
"""The aim is 10 s on a quiet machine."""

Servers = ClusterServers | SentinelServers


@pytest.fixture(params=["cluster", "sentinel"])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with ClusterServers() if request.param == "cluster" else SentinelServers() as started:
        yield started


def masters_in_turn(servers: Servers) -> list[RedisServer]:
    """The seeds that the address names, or the master and the first replica: each is a master when it is killed."""
    return servers.servers[:3] if isinstance(servers, ClusterServers) else servers.servers[:1]


def is_replaced(servers: Servers, master: RedisServer) -> bool:
    if isinstance(servers, ClusterServers):
        return master not in servers.masters()
    return servers.master() is not master


async def serve_again(node: ServeProcess, model: ScriptedModelServer) -> None:
    """Send a prompt until it is served. Each attempt that starts a run must complete it."""
    deadline = time.monotonic() + SERVED_AGAIN_SECONDS
    while True:
        model.play(ScriptedTurn(text="네."))
        async with node.stream("질문") as stream:
            frames = await stream.rest()
        if stream.response.status_code == 200:
            check(frames)
            assert answer(frames) == "네."
            return
        assert stream.response.status_code == 503
        model.clear()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_waiting_run_and_new_runs_go_on_while_masters_are_killed_in_turn(
    nodes_on: NodesOn, servers: Servers, model: ScriptedModelServer
) -> None:
    async with SmtpSink() as smtp:
        node = await nodes_on(servers.url).start(**mail_settings(smtp), AURA_REDIS_TIMEOUT_SECONDS="2")
        model.play(mail_turn())
        client = Follower("메일")
        async with node.stream("메일") as stream:
            hitl = await client.collect(stream, of_type("hitl"))
        for master in masters_in_turn(servers):
            master.kill()
            await serve_again(node, model)
            await eventually(partial(is_replaced, servers, master))  # started before, it would be empty
            master.start()
            if isinstance(servers, ClusterServers):
                await eventually(servers.is_whole)
        model.play(ScriptedTurn(text=DONE))
        assert (await node.decide("approve", hitl["requestId"])).status_code == 200
        await client.read(node)
        check(client.seen)
        assert answer(client.seen) == DONE
        assert len(smtp.messages) == 1
