"""Streams of a run that another process writes, in a cluster: wake-ups arrive, and what fails costs no event.

The readers do not poll here: they get what a wake-up, or a new subscription, makes them read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis_deployments import ClusterServers, execute
from app.dev.demo.script import ScriptedTurn
from app.redis import feeds, keys
from app.settings import Settings
from tests.harness.frames import Frame, StreamReader, answer, check
from tests.harness.raw import raw_frames
from tests.harness.service import Aura, running
from tests.harness.slots import SlotMove, master_of
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

MakeSettings = Callable[..., Settings]
NOTE = ("send_note", {"to": "김", "text": "안녕하세요"})
ANSWER = "보냈습니다. " * 20
DECIDE_SECONDS = 30.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers() as servers:
        yield servers


@pytest.fixture
async def nodes(
    settings: MakeSettings, cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Aura]]:
    """Two processes: the first one gets the prompt."""
    await eventually(cluster.is_whole)
    monkeypatch.setattr(feeds, "_POLL_SECONDS", 3600.0)
    own = settings(redis_url=cluster.url, aura_redis_timeout_seconds=2)
    async with running(own, tools=[risky()]) as first, running(own, tools=[risky()]) as second:
        yield [first, second]


async def follow_run(
    nodes: list[Aura],
    model: ScriptedModelServer,
    cluster: ClusterServers,
    while_it_waits: Callable[[str], Awaitable[None]],
) -> list[Frame]:
    """Start a run with an approval in one process, follow it in the other one, and return what that one received.

    `while_it_waits` is called with the session id; afterwards the call is approved.
    """
    writer, reader = nodes
    model.play(calling(NOTE), ScriptedTurn(text=ANSWER))
    async with writer.stream("메모") as written:
        hitl = await written.until("hitl")
        session_id = hitl["sessionId"]
        async with reader.stream(method="GET", params={"sessionId": session_id}) as read:
            await read.until("hitl")
            await eventually(lambda: wake_channels(cluster) == {keys.wake(session_id)})
            await while_it_waits(session_id)
            await approve(writer, hitl["requestId"])
            frames = await read.rest()
        check(frames)
        assert answer(frames) == ANSWER
        await agree(written, frames)
    return frames


async def approve(node: Aura, request_id: str) -> None:
    """Approve until it is answered: in a failover some requests get 503."""
    deadline = time.monotonic() + DECIDE_SECONDS
    while True:
        response = await node.decide("approve", request_id)
        if response.status_code in (200, 409):  # one that got 503 may have counted
            return
        assert response.status_code == 503, response.text
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def agree(written: StreamReader, frames: list[Frame]) -> None:
    assert raw_frames(await written.rest()) == raw_frames(frames)


def wake_channels(cluster: ClusterServers) -> set[str]:
    """The wake-up channels that anybody is subscribed to, on all masters."""
    return {name for it in cluster.masters() for name in execute(it, "PUBSUB", "SHARDCHANNELS", "aura:wake:*")}


def total(cluster: ClusterServers, counter: str) -> int:
    """The sum of one of the counters of CLUSTER INFO over all nodes."""
    found = [str(execute(it, "CLUSTER", "INFO")) for it in cluster.servers if it.is_running]
    fields = [dict(line.split(":") for line in text.splitlines() if ":" in line) for text in found]
    return sum(int(each.get(counter, 0)) for each in fields)


async def test_stream_in_another_process_is_woken_without_a_broadcast(
    nodes: list[Aura], model: ScriptedModelServer, cluster: ClusterServers
) -> None:
    """Only the decision is published to all nodes."""
    counters = ("cluster_stats_messages_publish_sent", "cluster_stats_messages_publishshard_sent")
    before, sharded_before = (total(cluster, counter) for counter in counters)

    async def while_it_waits(session_id: str) -> None:
        for server in cluster.servers:
            assert execute(server, "PUBSUB", "CHANNELS", "aura:wake:*") == []
        listened = [execute(server, "PUBSUB", "CHANNELS", "hitl:channel:*") for server in cluster.servers]
        assert [f"hitl:channel:{session_id}"] in listened  # classic, as CONTRACT §5 says

    await follow_run(nodes, model, cluster, while_it_waits)
    after, sharded_after = (total(cluster, counter) for counter in counters)
    assert after - before <= len(cluster.servers) - 1
    assert sharded_after - sharded_before >= 4  # a wake-up for each commit, to the one replica
    await eventually(lambda: not wake_channels(cluster))


async def test_stream_goes_on_after_its_slot_has_moved(
    nodes: list[Aura], model: ScriptedModelServer, cluster: ClusterServers
) -> None:
    async def while_it_waits(session_id: str) -> None:
        move = SlotMove(cluster, keys.wake(session_id))
        move.begin()
        move.send_keys(move.keys())
        move.end()
        await eventually(lambda: execute(move.target, "PUBSUB", "SHARDCHANNELS") == [keys.wake(session_id)])
        assert execute(move.source, "PUBSUB", "SHARDCHANNELS") == []

    await follow_run(nodes, model, cluster, while_it_waits)


async def test_stream_goes_on_while_its_slot_moves(
    nodes: list[Aura], model: ScriptedModelServer, cluster: ClusterServers
) -> None:
    """The run is written at the new master before that one has the slot, so its first wake-ups reach nobody."""
    moves = list[SlotMove]()

    async def while_it_waits(session_id: str) -> None:
        moves.append(move := SlotMove(cluster, keys.wake(session_id)))
        move.begin()
        move.send_keys(move.keys())
        asyncio.get_running_loop().call_later(1.0, move.end)

    await follow_run(nodes, model, cluster, while_it_waits)
    assert len(moves) == 1


async def test_stream_goes_on_after_its_master_was_killed(
    nodes: list[Aura], model: ScriptedModelServer, cluster: ClusterServers
) -> None:
    killed = list[Any]()

    async def while_it_waits(session_id: str) -> None:
        master = master_of(cluster, keys.wake(session_id))
        killed.append(master)
        master.kill()
        await eventually(lambda: master not in cluster.masters())

    await follow_run(nodes, model, cluster, while_it_waits)
    killed[0].start()  # as a replica
