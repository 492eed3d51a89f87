"""Wake-ups of readers in other processes: on a single server, where they are classic, and when none arrives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.errors import RunLost
from app.redis import feeds, journal, keys
from app.redis.feeds import Feeds
from app.redis.wake_ups import WakeUps
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from app.settings import Settings
from tests.harness.frames import check
from tests.harness.raw import raw_frames, read_stream
from tests.harness.service import running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
NOTE = ("send_note", {"to": "김", "text": "안녕하세요"})
SESSION = "session_u1_1706156400_a2ef"


async def test_stream_on_another_process_is_woken_on_a_single_server(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_POLL_SECONDS", 3600.0)
    await approve_while_another_process_reads(settings, model, redis_client)
    assert redis_client.pubsub_shardchannels() == []


@pytest.mark.slow
async def test_stream_reads_again_by_itself_if_an_older_release_has_woken_its_own_readers_only(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = journal.names_of_run

    def as_before(session_id: str) -> dict[str, str]:
        return {**present(session_id), "wake_channel": f"aura:wake:{session_id}"}

    monkeypatch.setattr(journal, "names_of_run", as_before)
    await approve_while_another_process_reads(settings, model, redis_client)


async def test_run_ends_although_the_server_refuses_its_wake_ups(
    settings: MakeSettings, model: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WakeUps, "command", "UNKNOWN")
    model.play(ScriptedTurn(text="네."))
    async with running(settings()) as aura:
        _, frames = await read_stream(aura)
    check(frames)


async def test_feed_subscribes_only_when_the_kind_of_server_is_known(redis_server: RedisServer) -> None:
    connection = Connection(redis_server.url, timeout_seconds=3)
    pubsub = PubSub(connection, "node-x", timeout_seconds=3)
    await pubsub.start()
    reading = Feeds(connection, WakeUps(connection, pubsub))
    reader = reading.tail(SESSION, 0, lambda: None)
    for is_subscribed in (False, True):  # the first request to Redis tells
        with pytest.raises(RunLost):  # nobody has created it
            await reader.fetch()
        assert pubsub.is_subscribed(keys.wake(SESSION)) == is_subscribed
    reader.close()
    assert not pubsub.is_subscribed(keys.wake(SESSION))
    await pubsub.stop()
    await connection.close()


async def approve_while_another_process_reads(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(calling(NOTE), ScriptedTurn(text="보냈습니다."))
    async with running(settings(), tools=[risky()]) as writer, running(settings(), tools=[risky()]) as reader:
        async with writer.stream("메모") as written:
            hitl = await written.until("hitl")
            query = {"sessionId": hitl["sessionId"]}
            async with reader.stream(method="GET", params=query) as read:
                await read.until("hitl")
                await eventually(lambda: redis_client.pubsub_channels("aura:wake:*") == [keys.wake(hitl["sessionId"])])
                assert (await writer.decide("approve", hitl["requestId"])).status_code == 200
                frames = await read.rest()
            check(frames)
            assert raw_frames(frames) == raw_frames(await written.rest())
