"""The client: no event lost or twice however the connection breaks, no prompt posted twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from app.client.answers import ClientError, Refused, StreamLost, Unreachable
from app.client.frames import Frame, FrameReader, StreamDamaged, received
from app.client.stream import Interrupted, Resumed
from app.dev.demo.http import HttpServer, Request, Response
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from statemachine.states import State
from tests.harness.approvals import StartWaitingRun
from tests.harness.clients import (
    ANSWER,
    MakeSettings,
    client,
    collected,
    events,
    token,
)
from tests.harness.proxy import ConnectionFaults, CuttingProxy
from tests.harness.service import running

# --- the stream across broken connections -----------------------------------------------------------------------------


async def test_cut_at_any_byte_loses_nothing_and_repeats_nothing(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text=ANSWER, chunk_chars=8))
    async with running(settings()) as aura:
        async with client(aura.url) as direct:
            stream = direct.run("안녕하세요")
            whole = events(await collected(stream))
        assert stream.session_id is not None
        size = 0
        async with CuttingProxy(aura.url) as proxy, client(proxy.url) as through:
            assert events(await collected(through.attach(stream.session_id))) == whole
            size = len(proxy.connections[0].answer)
        for cut in [*range(0, 700, 53), *range(700, size, 211)]:
            links = [ConnectionFaults(cut_after=cut, reset=cut % 2 == 1), ConnectionFaults(cut_after=600 + cut % 400)]
            async with CuttingProxy(aura.url, links) as proxy, client(proxy.url) as through:
                items = await collected(through.attach(stream.session_id))
                assert events(items) == whole, cut
                assert any(isinstance(item, Resumed) for item in items)


@pytest.mark.parametrize("cut", [0, 1, 100, 400, 900, 2500])
async def test_prompt_is_never_executed_twice(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, cut: int
) -> None:
    model.play(ScriptedTurn(text=ANSWER))
    async with (
        running(settings()) as aura,
        CuttingProxy(aura.url, [ConnectionFaults(cut_after=cut), ConnectionFaults(cut_after=cut)]) as proxy,
        client(proxy.url) as through,
    ):
        items = await collected(through.run("안녕하세요", {"activeApp": "mail"}))
    assert "".join(item.fields["content"] for item in events(items) if item.type == "content") == ANSWER
    ids = [item.id for item in events(items) if item.id is not None]
    assert ids == sorted(set(ids))
    assert len(model.requests) == 1
    assert len(list(redis_client.scan_iter("checkpoint:*"))) == 1


@pytest.mark.parametrize(
    "link", [ConnectionFaults(piece_bytes=1), ConnectionFaults(piece_bytes=7), ConnectionFaults(merge_seconds=0.2)]
)
async def test_pieces_of_any_size_make_the_same_events(
    settings: MakeSettings, model: ScriptedModelServer, link: ConnectionFaults
) -> None:
    model.play(ScriptedTurn(text=ANSWER))
    async with running(settings()) as aura, CuttingProxy(aura.url, [link]) as proxy, client(proxy.url) as through:
        items = await collected(through.run("안녕하세요"))
    assert len(events(items)) == len(items)
    assert events(items)[-1].fields["status"] == "completed"


async def test_token_refused_at_once(settings: MakeSettings) -> None:
    async with running(settings()) as aura, client(aura.url, token=token()[:-4] + "AAAA") as wrong:
        with pytest.raises(Refused, match="유효하지 않은 토큰") as refused:
            await collected(wrong.run("안녕하세요"))
    assert (refused.value.status, refused.value.code) == (401, "E2003")


async def test_attaching_to_no_run_is_refused(settings: MakeSettings) -> None:
    async with running(settings()) as aura, client(aura.url) as asking:
        with pytest.raises(Refused, match="E1004"):
            await collected(asking.attach("session_user1_1_abcd"))


async def test_nobody_at_the_address() -> None:
    async with client("http://127.0.0.1:9") as asking:
        with pytest.raises(Unreachable):
            await collected(asking.run("안녕하세요"))


def test_address_must_be_one() -> None:
    with pytest.raises(ClientError):
        client("127.0.0.1:9000")


# --- against a service that misbehaves --------------------------------------------------------------------------------


def frame(id: int, **fields: Any) -> bytes:
    return f"id: {id}\nevent: {fields['type']}\ndata: {json.dumps(fields)}\n\n".encode()


@asynccontextmanager
async def playing(*bodies: bytes | int) -> AsyncIterator[tuple[str, list[Request]]]:
    """A server that answers one body (or status) after the other; the last again and again."""
    requests: list[Request] = []

    async def handle(request: Request, answer: Response) -> None:
        requests.append(request)
        body = bodies[min(len(requests), len(bodies)) - 1]
        if isinstance(body, int):
            headers = {"Retry-After": "0", "Connection": "close"}
            await answer.json(body, {"message": "later", "errorCode": "E5003"}, headers)
        else:
            await answer.begin("text/event-stream")
            await answer.write(body)
            await answer.end()

    async with HttpServer(handle) as server:
        yield server.origin, requests


START = frame(1000, type="start", message="", sessionId="s-1", threadId="s-1", state="planning")
END = frame(1002, type="end", message="", status="completed") + b"id: 1003\ndata: [DONE]\n\n"


async def test_word_to_come_back_is_honoured() -> None:
    come_back = START + b": shutting down id:\nretry: 300\n\n"
    async with playing(come_back, END) as (url, requests), client(url) as asking:
        items = await collected(asking.run("안녕하세요"))
    (interrupted,) = (item for item in items if isinstance(item, Interrupted))
    assert 0.2 < interrupted.pause_seconds < 0.4
    assert [request.method for request in requests] == ["POST", "GET"]
    assert requests[1].query == {"sessionId": "s-1"}
    assert requests[1].headers["last-event-id"] == "1000"


async def test_busy_service_is_asked_again_under_the_same_key() -> None:
    async with playing(503, START + END) as (url, requests), client(url) as asking:
        items = await collected(asking.run("안녕하세요"))
    assert [item.type for item in events(items)] == ["start", "end"]
    assert len({request.headers["idempotency-key"] for request in requests}) == 1


@pytest.mark.parametrize("status", [400, 403, 413, 429, 500])
async def test_refusal_is_not_repeated(status: int) -> None:
    async with playing(status) as (url, requests), client(url) as asking:
        with pytest.raises(Refused, match="later"):
            await collected(asking.run("안녕하세요"))
    assert len(requests) == 1


async def test_patience_has_an_end() -> None:
    async with playing(START, 502) as (url, _), client(url, patience_seconds=0.3) as asking:
        with pytest.raises(StreamLost):
            await collected(asking.run("안녕하세요"))


async def test_damaged_frame_is_read_again() -> None:
    damaged = START + b'id: 1001\nevent: thought\ndata: {"type":"tho\n\n'
    async with playing(damaged, END) as (url, requests), client(url) as asking:
        items = await collected(asking.run("안녕하세요"))
    assert [item.type for item in events(items)] == ["start", "end"]
    assert requests[1].headers["last-event-id"] == "1000"


async def test_stream_that_always_comes_damaged_is_given_up() -> None:
    async with playing(START + b"id: 1001\ndata: {\n\n", b"id: 1001\ndata: {\n\n") as (url, _), client(url) as asking:
        with pytest.raises(StreamLost, match="damaged"):
            await collected(asking.run("안녕하세요"))


async def test_page_that_is_no_stream_is_refused() -> None:
    async def handle(_: Request, answer: Response) -> None:
        await answer.json(200, {})

    async with HttpServer(handle) as server, client(server.origin) as asking:
        with pytest.raises(Refused, match="Aura's address"):
            await collected(asking.run("안녕하세요"))


def test_made_up_ids_do_not_count() -> None:
    text = b'id: 1706156400123456\nid: 5\ndata: {}\n\nid: 6\nid: 1706156400123456\ndata: {"a":\ndata: 1}\n\n: id:\n\n'
    assert list(FrameReader().feed(text)) == [Frame(5, "{}"), Frame(6, '{"a":\n1}')]


@pytest.mark.parametrize("shape", ["flat", "nested"])
def test_both_generations_of_events_are_read(shape: str) -> None:
    own = {"thoughtType": "analysis", "content": "생각", "later": 1}
    message = {"type": "thought", **own} if shape == "flat" else {"type": "thought", "data": own}
    event = received(Frame(1, json.dumps(message))).event
    assert event is not None
    assert event.fields()["content"] == "생각"


def test_unknown_event_is_kept_untyped() -> None:
    item = received(Frame(1, '{"type":"weather","sun":true}'))
    assert (item.type, item.event, item.fields["sun"]) == ("weather", None, True)
    with pytest.raises(StreamDamaged):
        received(Frame(1, "[1]"))


# --- calls beside the stream ------------------------------------------------------------------------------------------


async def test_runs_requests_and_cancel(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as waiting, client(waiting.aura.url) as calling:
        (run,) = (await calling.runs(state=State.AWAITING_APPROVAL, limit=5))["runs"]
        (request,) = (await calling.pending())["requests"]
        details = await calling.details(waiting.session_id)
        assert run["sessionId"] == request["sessionId"] == details["sessionId"] == waiting.session_id
        assert (request["requestId"], details["answer"]) == (waiting.request_id, None)
        with pytest.raises(Refused, match="E1004"):
            await calling.reject("req-000000000000", "아니오")
        assert await calling.cancel(waiting.session_id)
        await waiting.stream.rest()
        assert not await calling.cancel(waiting.session_id)
        assert (await calling.runs(state=State.AWAITING_APPROVAL, scope="own")) == {"runs": []}


async def test_calls_are_asked_again_while_the_service_is_away(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as waiting:
        links = [ConnectionFaults(refuse=True), ConnectionFaults(cut_after=0), ConnectionFaults(cut_after=50)]
        async with CuttingProxy(waiting.aura.url, links) as proxy, client(proxy.url) as calling:
            assert (await calling.details(waiting.session_id))["state"] == "awaiting_approval"
            decided = await calling.reject(waiting.request_id, "아니오")
        assert (decided.status, decided.here) == ("rejected", True)
        await waiting.expect_rejected("아니오")


async def test_same_key_is_the_same_run_and_a_reader_may_begin_in_the_middle(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text=ANSWER))
    async with running(settings()) as aura, client(aura.url) as asking:
        first = [item async for item in asking.run("안녕", thread_id="t-1", idempotency_key="k-1").events()]
        second = [item async for item in asking.run("안녕", thread_id="t-1", idempotency_key="k-1").events()]
        session_id = str(first[0].fields["sessionId"])
        rest = [item async for item in asking.attach(session_id, last_event_id=first[1].id).events()]
    assert first == second
    assert rest == first[2:]
    assert first[0].fields["threadId"] == "t-1"
