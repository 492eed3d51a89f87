"""Attaching to a stream and resuming it (§3); clients that disconnect or are slow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.redis import keys
from statemachine.stored import digest
from tests.harness.frames import DONE, Frame, StreamReader, answer, check, parse_frame, types
from tests.harness.raw import LONG_TEXT, MakeSettings, RawStream, raw_frames, read_stream
from tests.harness.service import STREAM, headers, running
from tests.harness.stored import read_log, write_log
from tests.harness.tools import NoteTool, calling
from tests.harness.waiting import eventually

# --- §3: attaching and resuming --------------------------------------------------------------------------------------


async def test_get_attaches_to_the_callers_newest_run_and_never_starts_one(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    async with running(settings()) as aura:
        _, first = await read_stream(aura, "첫 번째")
        _, second = await read_stream(aura, "두 번째")
        stream, newest = await read_stream(aura, method="GET")
        assert raw_frames(newest) == raw_frames(second)
        assert stream.response.headers["x-session-id"] == second[0]["sessionId"]
        _, named = await read_stream(aura, method="GET", params={"sessionId": first[0]["sessionId"]})
        assert raw_frames(named) == raw_frames(first)
        _, header = await read_stream(
            aura, method="GET", headers=headers(**{"X-Session-ID": first[0]["sessionId"], "Last-Event-ID": "0"})
        )
        assert raw_frames(header) == raw_frames(first)
        _, tail = await read_stream(aura, method="GET", headers=headers(**{"Last-Event-ID": str(second[2].id)}))
        assert raw_frames(tail) == raw_frames(second[3:])
    assert len(model.requests) == 2


async def test_get_attaches_to_a_run_in_progress(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="네.", hang_after=0))
    async with running(settings()) as aura, aura.stream("질문") as first:
        await first.until("thought")
        head = await aura.client.head(STREAM, headers=headers())  # does not wait for the run's end
        assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", "text/event-stream")
        async with aura.stream(method="GET") as second:
            await second.until("thought")
            model.release()
            assert raw_frames(await second.rest()) == raw_frames(await first.rest())


async def test_resuming_after_any_event_gives_the_same_frames_without_a_model_request(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(
        calling(("write_note", {"to": "김"}), ("write_note", {"to": "이"}), text_before_tools="생각", reasoning="흠"),
        ScriptedTurn(text=LONG_TEXT, chunk_chars=400),
    )
    async with running(settings(), tools=[NoteTool()]) as aura:
        _, frames = await read_stream(aura, "질문")
        check(frames)
        for position, frame in enumerate(frames[:-1]):
            last_seen = headers(**{"Last-Event-ID": str(frame.id)})
            _, rest = await read_stream(aura, "질문", headers=last_seen)
            assert raw_frames(rest) == raw_frames(frames[position + 1 :])
            async with aura.client.stream("POST", STREAM, headers=last_seen) as response:  # no body at all
                assert raw_frames(await StreamReader(response).rest()) == raw_frames(frames[position + 1 :])
        _, after_the_end = await read_stream(aura, "질문", headers=headers(**{"Last-Event-ID": str(frames[-1].id)}))
        assert types(after_the_end) == [DONE]
    assert len(model.requests) == 2


async def test_resuming_on_a_second_replica_while_the_run_continues(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="가나다라마바사", hang_after=0))
    async with running(settings()) as one, running(settings()) as two, one.stream("질문") as stream:
        start = await stream.until("start")
        last_seen = headers(**{"Last-Event-ID": str(start.id)})
        async with two.stream("질문", headers=last_seen) as resumed:
            await resumed.until("thought")
            model.release()
            resumed_frames = await resumed.rest()
        frames = await stream.rest()
    assert raw_frames(resumed_frames) == raw_frames(frames[1:])
    assert len(model.requests) == 1


@pytest.mark.slow
async def test_reader_of_events_that_a_failover_has_lost_gets_storage_unavailable(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    """What follows would not fit what the reader has. One is connected, the other one comes back."""
    model.play(ScriptedTurn(text="가나다라마바사", hang_after=0))
    async with running(settings()) as one, running(settings()) as two, one.stream("질문") as first:
        thought = await first.until("thought")
        session = thought["sessionId"]
        async with two.stream(method="GET", params={"sessionId": session}) as connected:
            await connected.until("thought")
            kept = read_log(redis_client, session)[:1]
            redis_client.delete(keys.events(session))
            write_log(redis_client, session, kept)
            assert lost(await connected.rest())
        returning = headers(**{"Last-Event-ID": str(thought.id)})
        params = {"sessionId": session}
        resumed, frames = await read_stream(two, params=params, headers=returning)
        assert (resumed.response.status_code, lost(frames)) == (200, True)
        again = await two.client.get(STREAM, params=params, headers=returning)
        assert again.status_code == 404, "an EventSource would come back for ever"
        model.release()


def lost(frames: list[Frame]) -> bool:
    return types(frames)[-3:] == ["error", "end", DONE] and frames[-3]["errorType"] == "StorageUnavailable"


@pytest.mark.parametrize("inserted", ["{ms}000", "{ms}123", "{ms}000000", "not-a-number", "abc-{ms}", "1e3", "-5"])
async def test_id_inserted_by_the_gateway_finds_the_newest_run_of_the_same_prompt(
    settings: MakeSettings, model: ScriptedModelServer, inserted: str
) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    async with running(settings()) as aura:
        _, wanted = await read_stream(aura, body={"prompt": "질문", "context": {"timestamp": 1}})
        await read_stream(aura, "다른 질문")
        middle = wanted[3].id
        last_seen = headers(**{"Last-Event-ID": inserted.format(ms=middle)})
        # A browser puts the time of each call into the context.
        _, resumed = await read_stream(aura, body={"prompt": "질문", "context": {"timestamp": 2}}, headers=last_seen)
        is_time = inserted.startswith("{ms}")
        assert raw_frames(resumed) == raw_frames(wanted[4:] if is_time else wanted)
        _, expired = await read_stream(aura, body={"prompt": "세 번째 질문"}, headers=last_seen)
        assert types(expired) == ["error", "end", DONE]
        assert expired[0]["errorType"] == "ResumeExpired"
    assert len(model.requests) == 2


async def test_run_begun_by_an_older_release_is_resumed_by_prompt_and_context(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    model.play(ScriptedTurn(text="하나"))
    body: dict[str, Any] = {"prompt": "질문", "context": {"activeApp": "mail"}}
    last_seen = headers(**{"Last-Event-ID": "x"})
    async with running(settings()) as aura:
        _, frames = await read_stream(aura, body=body)
        (key,) = redis_client.keys("aura:*:run:*")
        redis_client.hset(key, "prompt", digest([body["prompt"], body["context"]]))
        _, resumed = await read_stream(aura, body=body, headers=last_seen)
        assert raw_frames(resumed) == raw_frames(frames)
        _, expired = await read_stream(aura, body={**body, "context": {}}, headers=last_seen)
        assert expired[0]["errorType"] == "ResumeExpired"


async def test_get_with_the_id_of_the_end_marker_is_204_and_a_post_repeats_the_marker(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    async with running(settings()) as aura:
        _, frames = await read_stream(aura, "질문")
        await read_stream(aura, "다른 질문")
        ids = [str(frame.id) for frame in frames]
        for params in ({}, {"sessionId": frames[0]["sessionId"]}, {"prompt": "질문"}):
            response = await aura.client.get(STREAM, params=params, headers=headers(**{"Last-Event-ID": ids[-1]}))
            assert (response.status_code, response.content) == (204, b"")
            assert not {"content-type", "content-length"} & set(response.headers)  # RFC 9110 §8.6
            assert response.headers["x-session-id"] == frames[0]["sessionId"]
            response = await aura.client.get(STREAM, params=params, headers=headers(**{"Last-Event-ID": ids[-2]}))
            assert (response.status_code, response.text) == (200, frames[-1].raw + "\n\n")
        _, repeated = await read_stream(aura, "질문", headers=headers(**{"Last-Event-ID": ids[-1]}))
        assert raw_frames(repeated) == raw_frames(frames[-1:])
    assert len(aura.service.streams) == 0


async def test_get_with_the_last_id_of_a_run_that_goes_on_is_no_204(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="네.", hang_after=0))
    async with running(settings()) as aura, aura.stream("질문") as first:
        last = await first.until("thought")
        async with aura.stream(method="GET", headers=headers(**{"Last-Event-ID": str(last.id)})) as second:
            assert second.response.status_code == 200
            model.release()
            assert types(await second.rest())[-1] == DONE


async def test_resuming_without_a_run_is_resume_expired(settings: MakeSettings, model: ScriptedModelServer) -> None:
    async with running(settings()) as aura:
        for last in ("1706156400123", "1706156400123000", "x"):
            stream, frames = await read_stream(aura, headers=headers(**{"Last-Event-ID": last}))
            assert stream.response.status_code == 200
            assert stream.response.headers["content-type"] == "text/event-stream"
            check(frames)
            assert types(frames) == ["error", "end", DONE]
            assert (frames[0]["errorType"], frames[0]["retryable"]) == ("ResumeExpired", True)
    assert model.requests == []


async def test_id_of_another_users_run_resumes_nothing(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="비밀"))
    async with running(settings()) as aura:
        _, frames = await read_stream(aura, "질문")
        for other in (headers("user2"), headers("user1", "tenant2"), headers("user2", role="admin")):
            _, rejected = await read_stream(aura, "질문", headers={**other, "Last-Event-ID": str(frames[2].id)})
            assert rejected[0]["errorType"] == "ResumeExpired"


async def test_session_of_another_user_of_the_tenant_is_forbidden(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="비밀"))
    async with running(settings()) as aura:
        _, frames = await read_stream(aura, "질문")
        session = {"sessionId": frames[0]["sessionId"]}
        for method in ("GET", "POST"):
            sent = {**headers("user2"), "Last-Event-ID": "5"}
            stream, rejected = await read_stream(aura, "질문", method=method, params=session, headers=sent)
            assert stream.response.status_code == 403
            assert rejected[0]["errorCode"] == "E2001"
            assert "비밀" not in str(raw_frames(rejected))


async def test_two_posts_are_two_runs(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    async with running(settings()) as aura:
        _, first = await read_stream(aura)
        _, second = await read_stream(aura)
    assert first[0]["sessionId"] != second[0]["sessionId"]
    assert (first[-1].id or 0) < (second[0].id or 0)


async def test_an_idempotency_key_makes_the_second_post_attach_to_the_first(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    key = {"Idempotency-Key": "k-1"}
    async with running(settings()) as aura:
        _, first = await read_stream(aura, headers=headers(**key))
        _, second = await read_stream(aura, headers=headers(**key))
        assert raw_frames(first) == raw_frames(second)
        stream, rejected = await read_stream(aura, "다른 질문", headers=headers(**key))
        assert stream.response.status_code == 400
        assert rejected[0]["errorCode"] == "E4000"
        assert "Idempotency-Key" in rejected[0]["message"]
        _, of_another_user = await read_stream(aura, headers=headers("user2", **key))
        assert answer(of_another_user) == "둘"


async def test_posts_with_one_idempotency_key_at_the_same_time_are_one_run(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="하나"))
    async with running(settings()) as aura:
        streams = await asyncio.gather(
            *(read_stream(aura, headers=headers(**{"Idempotency-Key": "k"})) for _ in range(8))
        )
    assert len({tuple(raw_frames(frames)) for _, frames in streams}) == 1


# --- clients that disconnect or are slow ----------------------------------------------------------------------------


async def test_disconnected_client_does_not_affect_the_run(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="끝까지 갑니다", hang_after=0))
    async with running(settings()) as aura:
        stream = await RawStream.post(aura, {"prompt": "질문"})
        first = await stream.chunk()
        await model.wait_for_requests(1)
        stream.close()
        model.release()
        _, frames = await read_stream(aura, method="GET")
    check(frames)
    assert answer(frames) == "끝까지 갑니다"
    assert frames[-2]["status"] == "completed"
    assert first.decode() == frames[0].raw + "\n\n"


@pytest.mark.slow
async def test_disconnect_after_a_pipelined_request_is_detected(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    """A server that has received the next request stops reading, so it does not notice the disconnect."""
    model.play(ScriptedTurn(text="끝까지 갑니다", hang_after=0))
    async with running(settings(aura_heartbeat_seconds=0.5)) as aura:
        stream = await RawStream.post(aura, {"prompt": "하나"})
        await stream.chunk()
        await stream.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.1)
        stream.abort()
        await eventually(lambda: aura.service.stores.journal.reader_count == 0)
        model.release()
        await model.wait_until_idle()


@pytest.mark.slow
async def test_slow_reader_receives_everything(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    """The run has ended long before; the log holds the events that do not fit into the client's TCP window."""
    text = LONG_TEXT * 4
    model.play(ScriptedTurn(text=text, chunk_chars=2000))
    async with running(settings()) as aura:
        stream = await RawStream.post(aura, {"prompt": "길게"}, buffer=8192)
        session = stream.headers["x-session-id"]
        await eventually(lambda: redis_client.hget(f"aura:{{user1}}:run:{session}", "final") == "1")
        frames = [parse_frame(chunk.decode().removesuffix("\n\n")) for chunk in await stream.rest()]
    check(frames)
    assert answer(frames) == text


async def test_client_that_does_not_read_blocks_no_other(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text=LONG_TEXT * 40, chunk_chars=2000), ScriptedTurn(text="빨리"))
    async with running(settings()) as aura:
        stuck = await RawStream.post(aura, {"prompt": "길게"}, buffer=4096)
        _, frames = await read_stream(aura, "짧게", headers=headers("user2"))
        assert answer(frames) == "빨리"
        await model.wait_until_idle()
        stuck.close()
