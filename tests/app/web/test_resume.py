"""Coming back to a stream (§3): attaching, resuming, clients that leave or are slow."""

from __future__ import annotations

import asyncio

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.frames import DONE, StreamReader, answer, check, parse_frame, types
from tests.harness.raw import LONG, MakeSettings, RawStream, raw, whole
from tests.harness.service import STREAM, headers, running
from tests.harness.tools import NoteTool, calling
from tests.harness.waiting import eventually

# --- §3: attaching and resuming ---------------------------------------------------------------------------------------


async def test_get_attaches_to_the_callers_newest_run_and_never_starts_one(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    async with running(settings()) as aura:
        _, first = await whole(aura, "첫 번째")
        _, second = await whole(aura, "두 번째")
        stream, newest = await whole(aura, method="GET")
        assert raw(newest) == raw(second)
        assert stream.response.headers["x-session-id"] == second[0]["sessionId"]
        _, named = await whole(aura, method="GET", params={"sessionId": first[0]["sessionId"]})
        assert raw(named) == raw(first)
        _, header = await whole(
            aura, method="GET", headers=headers(**{"X-Session-ID": first[0]["sessionId"], "Last-Event-ID": "0"})
        )
        assert raw(header) == raw(first)
        _, tail = await whole(aura, method="GET", headers=headers(**{"Last-Event-ID": str(second[2].id)}))
        assert raw(tail) == raw(second[3:])
    assert len(model.requests) == 2


async def test_get_attaches_to_a_run_under_way(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="네.", hang_after=0))
    async with running(settings()) as aura, aura.stream("질문") as first:
        await first.until("thought")
        head = await aura.client.head(STREAM, headers=headers())  # does not wait for the run's end
        assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", "text/event-stream")
        async with aura.stream(method="GET") as second:
            await second.until("thought")
            model.release()
            assert raw(await second.rest()) == raw(await first.rest())


async def test_resume_after_every_event_gives_the_same_frames_and_asks_no_model(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(
        calling(("write_note", {"to": "김"}), ("write_note", {"to": "이"}), text_before_tools="생각", reasoning="흠"),
        ScriptedTurn(text=LONG, chunk_chars=400),
    )
    async with running(settings(), tools=[NoteTool()]) as aura:
        _, frames = await whole(aura, "질문")
        check(frames)
        for position, frame in enumerate(frames[:-1]):
            seen = headers(**{"Last-Event-ID": str(frame.id)})
            _, rest = await whole(aura, "질문", headers=seen)
            assert raw(rest) == raw(frames[position + 1 :])
            async with aura.client.stream("POST", STREAM, headers=seen) as response:  # no body at all
                assert raw(await StreamReader(response).rest()) == raw(frames[position + 1 :])
        _, after_the_end = await whole(aura, "질문", headers=headers(**{"Last-Event-ID": str(frames[-1].id)}))
        assert types(after_the_end) == [DONE]
    assert len(model.requests) == 2


async def test_resume_on_a_second_replica_while_the_run_goes_on(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="가나다라마바사", hang_after=0))
    async with running(settings()) as one, running(settings()) as two, one.stream("질문") as stream:
        start = await stream.until("start")
        seen = headers(**{"Last-Event-ID": str(start.id)})
        async with two.stream("질문", headers=seen) as resumed:
            await resumed.until("thought")
            model.release()
            there = await resumed.rest()
        here = await stream.rest()
    assert raw(there) == raw(here[1:])
    assert len(model.requests) == 1


@pytest.mark.parametrize("made", ["{ms}000", "{ms}123", "{ms}000000", "not-a-number", "abc-{ms}", "1e3", "-5"])
async def test_ids_the_gateway_made_find_the_newest_run_of_the_same_prompt(
    settings: MakeSettings, model: ScriptedModelServer, made: str
) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    context = {"activeApp": "mail"}
    async with running(settings()) as aura:
        _, wanted = await whole(aura, body={"prompt": "질문", "context": context})
        await whole(aura, "다른 질문")
        middle = wanted[3].id
        seen = headers(**{"Last-Event-ID": made.format(ms=middle)})
        _, resumed = await whole(aura, body={"prompt": "질문", "context": context}, headers=seen)
        is_time = made.startswith("{ms}")
        assert raw(resumed) == raw(wanted[4:] if is_time else wanted)
        _, expired = await whole(aura, body={"prompt": "질문", "context": {"activeApp": "chat"}}, headers=seen)
        assert types(expired) == ["error", "end", DONE]
        assert expired[0]["errorType"] == "ResumeExpired"
    assert len(model.requests) == 2


async def test_resume_without_a_run_is_a_200_that_says_so(settings: MakeSettings, model: ScriptedModelServer) -> None:
    async with running(settings()) as aura:
        for last in ("1706156400123", "1706156400123000", "x"):
            stream, frames = await whole(aura, headers=headers(**{"Last-Event-ID": last}))
            assert stream.response.status_code == 200
            assert stream.response.headers["content-type"] == "text/event-stream"
            check(frames)
            assert types(frames) == ["error", "end", DONE]
            assert (frames[0]["errorType"], frames[0]["retryable"]) == ("ResumeExpired", True)
    assert model.requests == []


async def test_an_id_of_another_users_run_resumes_nothing(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="비밀"))
    async with running(settings()) as aura:
        _, frames = await whole(aura, "질문")
        for other in (headers("user2"), headers("user1", "tenant2"), headers("user2", role="admin")):
            _, refused = await whole(aura, "질문", headers={**other, "Last-Event-ID": str(frames[2].id)})
            assert refused[0]["errorType"] == "ResumeExpired"


async def test_another_users_session_is_forbidden(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="비밀"))
    async with running(settings()) as aura:
        _, frames = await whole(aura, "질문")
        session = {"sessionId": frames[0]["sessionId"]}
        for other in (headers("user2"), headers("user1", "tenant2"), headers("user2", "tenant2", role="admin")):
            for method in ("GET", "POST"):
                stream, refused = await whole(
                    aura, "질문", method=method, params=session, headers={**other, "Last-Event-ID": "5"}
                )
                assert stream.response.status_code == 403
                assert refused[0]["errorCode"] == "E2001"
                assert "비밀" not in str(raw(refused))


async def test_two_posts_are_two_runs(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    async with running(settings()) as aura:
        _, first = await whole(aura)
        _, second = await whole(aura)
    assert first[0]["sessionId"] != second[0]["sessionId"]
    assert (first[-1].id or 0) < (second[0].id or 0)


async def test_an_idempotency_key_makes_the_second_post_attach_to_the_first(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="하나"), ScriptedTurn(text="둘"))
    key = {"Idempotency-Key": "k-1"}
    async with running(settings()) as aura:
        _, first = await whole(aura, headers=headers(**key))
        _, second = await whole(aura, headers=headers(**key))
        assert raw(first) == raw(second)
        stream, refused = await whole(aura, "다른 질문", headers=headers(**key))
        assert stream.response.status_code == 400
        assert refused[0]["errorCode"] == "E4000"
        assert "Idempotency-Key" in refused[0]["message"]
        _, of_another_user = await whole(aura, headers=headers("user2", **key))
        assert answer(of_another_user) == "둘"


async def test_posts_with_one_idempotency_key_at_the_same_time_are_one_run(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="하나"))
    async with running(settings()) as aura:
        streams = await asyncio.gather(*(whole(aura, headers=headers(**{"Idempotency-Key": "k"})) for _ in range(8)))
    assert len({tuple(raw(frames)) for _, frames in streams}) == 1


# --- clients that are not there, or slow ------------------------------------------------------------------------------


async def test_a_client_that_leaves_changes_nothing(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="끝까지 갑니다", hang_after=0))
    async with running(settings()) as aura:
        stream = await RawStream.post(aura, {"prompt": "질문"})
        first = await stream.chunk()
        await model.arrived(1)
        stream.close()
        model.release()
        _, frames = await whole(aura, method="GET")
    check(frames)
    assert answer(frames) == "끝까지 갑니다"
    assert frames[-2]["status"] == "completed"
    assert first.decode() == frames[0].raw + "\n\n"


async def test_a_client_who_asked_again_before_the_end_and_left_is_given_up(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    """With his next request in hand the server reads no more, so that it does not hear him leave."""
    model.play(ScriptedTurn(text="끝까지 갑니다", hang_after=0))
    async with running(settings(aura_heartbeat_seconds=0.5)) as aura:
        stream = await RawStream.post(aura, {"prompt": "하나"})
        await stream.chunk()
        stream._writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await stream._writer.drain()
        await asyncio.sleep(0.1)
        stream._writer.transport.abort()
        await eventually(lambda: aura.service.journal.reader_count == 0)
        model.release()
        await model.idle()


async def test_a_slow_reader_gets_everything(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    """The run is over long before: the log holds what the client's window does not."""
    text = LONG * 4
    model.play(ScriptedTurn(text=text, chunk_chars=2000))
    async with running(settings()) as aura:
        stream = await RawStream.post(aura, {"prompt": "길게"}, buffer=8192)
        session = stream.headers["x-session-id"]
        await eventually(lambda: redis_client.hget(f"aura:{{user1}}:run:{session}", "final") == "1")
        frames = [parse_frame(chunk.decode().removesuffix("\n\n")) for chunk in await stream.rest()]
    check(frames)
    assert answer(frames) == text


async def test_a_reader_that_does_not_read_stops_nobody(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text=LONG * 40, chunk_chars=2000), ScriptedTurn(text="빨리"))
    async with running(settings()) as aura:
        stuck = await RawStream.post(aura, {"prompt": "길게"}, buffer=4096)
        _, frames = await whole(aura, "짧게", headers=headers("user2"))
        assert answer(frames) == "빨리"
        await model.idle()
        stuck.close()
