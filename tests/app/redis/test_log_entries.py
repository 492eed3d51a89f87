"""An entry of a run's stream holds the events of one commit; readers see single events, wherever they begin."""

from __future__ import annotations

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.ports.journal import LogEntry
from app.redis import keys
from app.redis.log_entries import first_id, last_id
from app.redis.wire.advice import configuration_advice
from app.redis.wire.connection import Connection
from tests.harness.approvals import FINAL_ANSWER, StartWaitingRun, WaitingRun
from tests.harness.frames import DONE, Frame, check, types
from tests.harness.raw import LONG_TEXT, MakeSettings, raw_frames, read_stream
from tests.harness.service import STREAM, Aura, headers, running
from tests.harness.stored import raw_log, read_log, write_log
from tests.harness.tools import NoteTool, calling


async def approve(run: WaitingRun) -> None:
    response = await run.aura.client.post(
        f"/aura/hitl/approve/{run.request_id}", headers=headers(**{"X-User-ID": "user1"}), json={"userId": "user1"}
    )
    assert response.status_code == 200


async def check_resuming_after_each(services: list[Aura], frames: list[Frame]) -> None:
    """Resume after each event, by its id alone and with the session: always exactly the later ones come."""
    session = {"sessionId": frames[0]["sessionId"]}
    for aura in services:
        for position, frame in enumerate(frames[:-1]):
            sent = headers(**{"Last-Event-ID": str(frame.id)})
            for query in ({}, session):
                _, rest = await read_stream(aura, method="GET", headers=sent, params=query)
                assert raw_frames(rest) == raw_frames(frames[position + 1 :])
        _, whole = await read_stream(aura, method="GET", params=session)
        assert raw_frames(whole) == raw_frames(frames)


async def test_an_entry_holds_the_events_of_one_commit_and_has_the_id_of_the_first(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(calling(("write_note", {"to": "김"})), ScriptedTurn(text="네."))
    async with running(settings(), tools=[NoteTool()]) as aura:
        _, frames = await read_stream(aura)
    entries = raw_log(redis_client, frames[0]["sessionId"])
    assert len(entries) < len(frames)
    ids = [id for entry in entries for id in range(first_id(entry), last_id(entry) + 1)]
    assert ids == [frame.id for frame in frames]
    assert first_id(entries[0]) == frames[0].id
    assert last_id(entries[0]) == frames[1].id, "`start` and the first `thought` are one commit"


@pytest.mark.slow
async def test_every_replica_resumes_inside_an_entry_without_gap_or_duplicate(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(calling(("write_note", {"to": "김"})), ScriptedTurn(text=LONG_TEXT, chunk_chars=2000))
    async with running(settings(), tools=[NoteTool()]) as aura, running(settings()) as other:
        _, frames = await read_stream(aura)
        check(frames)
        await check_resuming_after_each([aura, other], frames)


async def test_only_the_id_of_the_end_marker_stops_an_event_source(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="네."))
    async with running(settings()) as aura, running(settings()) as other:
        _, frames = await read_stream(aura)
        for service in (aura, other):
            for frame in frames:
                sent = headers(**{"Last-Event-ID": str(frame.id)})
                response = await service.client.get(STREAM, headers=sent)
                assert response.status_code == (204 if frame.is_done else 200)
            _, again = await read_stream(service, headers=headers(**{"Last-Event-ID": str(frames[-1].id)}))
            assert types(again) == [DONE]


@pytest.mark.slow
async def test_a_run_begun_by_the_earlier_release_continues_with_packed_entries(
    waiting_run: StartWaitingRun, settings: MakeSettings
) -> None:
    async with waiting_run(FINAL_ANSWER) as run, running(settings()) as other:
        begun = read_log(run.redis, run.session_id)
        write_log(run.redis, run.session_id, [LogEntry(id, body) for id, body in begun], packed=False)
        await approve(run)
        await run.expect_completed()
        frames = run.stream.seen
        check(frames)
        assert [id for id, _ in read_log(run.redis, run.session_id)] == [frame.id for frame in frames]
        await check_resuming_after_each([run.aura, other], frames)


async def test_the_log_of_a_waiting_run_takes_little_more_than_its_events(waiting_run: StartWaitingRun) -> None:
    """Redis allocates 4 KiB for a stream, unless the rest is given back."""
    async with waiting_run(FINAL_ANSWER) as run:
        assert run.redis.memory_usage(keys.events(run.session_id), samples=0) < 1800
        assert run.redis.xlen(keys.events(run.session_id)) == 2
        await approve(run)
        await run.expect_completed()
        assert run.redis.memory_usage(keys.events(run.session_id), samples=0) < 3000


async def test_a_log_that_others_have_written_hides_no_other_run(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    async with running(settings()) as aura:
        _, frames = await read_stream(aura)
        _, changed = await read_stream(aura)
        for nonsense in (b"", b"\x01", b"\x019 nonsense", b"\xff" * 40):
            write_log(redis_client, changed[0]["sessionId"], [LogEntry(1, nonsense)], packed=False)
            _, rest = await read_stream(aura, method="GET", headers=headers(**{"Last-Event-ID": str(frames[2].id)}))
            assert raw_frames(rest) == raw_frames(frames[3:])


@pytest.mark.parametrize(("configured", "is_advised"), [(4096, False), (1024, False), (16384, True), (0, True)])
async def test_a_server_on_which_logs_cannot_be_shrunk_is_advised_on(
    redis_server: RedisServer, redis_client: redis.Redis, configured: int, is_advised: bool
) -> None:
    connection = Connection(redis_server.url, timeout_seconds=3)
    redis_client.config_set("stream-node-max-bytes", configured)
    try:
        advice = await configuration_advice(connection)
    finally:
        redis_client.config_set("stream-node-max-bytes", 4096)
        await connection.close()
    assert any("stream-node-max-bytes" in line for line in advice) is is_advised
