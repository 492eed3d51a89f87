"""The Python client: events are neither lost nor repeated on broken connections; a prompt is executed once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from app.client.events import Thought
from app.client.frames import Frame, FrameParser, StreamDamaged, parse_event
from app.client.responses import ApiError, ClientError, ConnectionLost, ServiceUnreachable
from app.client.stream import Interrupted, Resumed
from app.dev.demo.http import HttpServer, Request, Response
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
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

# --- the stream across broken connections ----------------------------------------------------------------------------


@pytest.mark.slow
async def test_connection_cut_at_any_byte_loses_and_repeats_no_event(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text=ANSWER, chunk_chars=8))
    async with running(settings()) as aura:
        async with client(aura.url) as direct:
            stream = direct.run("안녕하세요")
            complete = events(await collected(stream))
        assert stream.session_id is not None
        size = 0
        async with CuttingProxy(aura.url) as proxy, client(proxy.url) as proxied:
            assert events(await collected(proxied.attach(stream.session_id))) == complete
            size = len(proxy.connections[0].answer)
        for cut in [*range(0, 700, 53), *range(700, size, 211)]:
            faults = [ConnectionFaults(cut_after=cut, reset=cut % 2 == 1), ConnectionFaults(cut_after=600 + cut % 400)]
            async with CuttingProxy(aura.url, faults) as proxy, client(proxy.url) as proxied:
                items = await collected(proxied.attach(stream.session_id))
                assert events(items) == complete, cut
                assert any(isinstance(item, Resumed) for item in items)


@pytest.mark.parametrize("cut", [0, 1, 100, 400, 900, 2500])
async def test_prompt_is_never_executed_twice(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, cut: int
) -> None:
    model.play(ScriptedTurn(text=ANSWER))
    async with (
        running(settings()) as aura,
        CuttingProxy(aura.url, [ConnectionFaults(cut_after=cut), ConnectionFaults(cut_after=cut)]) as proxy,
        client(proxy.url) as proxied,
    ):
        items = await collected(proxied.run("안녕하세요", {"activeApp": "mail"}))
    assert "".join(item.fields["content"] for item in events(items) if item.type == "content") == ANSWER
    ids = [item.id for item in events(items) if item.id is not None]
    assert ids == sorted(set(ids))
    assert len(model.requests) == 1
    assert len(list(redis_client.scan_iter("checkpoint:*"))) == 1


@pytest.mark.parametrize(
    "link", [ConnectionFaults(piece_bytes=1), ConnectionFaults(piece_bytes=7), ConnectionFaults(merge_seconds=0.2)]
)
async def test_chunks_of_any_size_give_the_same_events(
    settings: MakeSettings, model: ScriptedModelServer, link: ConnectionFaults
) -> None:
    model.play(ScriptedTurn(text=ANSWER))
    async with running(settings()) as aura, CuttingProxy(aura.url, [link]) as proxy, client(proxy.url) as proxied:
        items = await collected(proxied.run("안녕하세요"))
    assert len(events(items)) == len(items)
    assert events(items)[-1].fields["status"] == "completed"


async def test_rejected_token_raises_without_retry(settings: MakeSettings) -> None:
    async with running(settings()) as aura, client(aura.url, token=token()[:-4] + "AAAA") as wrong:
        with pytest.raises(ApiError, match="유효하지 않은 토큰") as caught:
            await collected(wrong.run("안녕하세요"))
    assert (caught.value.status, caught.value.code) == (401, "E2003")


async def test_attaching_to_an_unknown_run_raises(settings: MakeSettings) -> None:
    async with running(settings()) as aura, client(aura.url) as aura_client:
        with pytest.raises(ApiError, match="E1004"):
            await collected(aura_client.attach("session_user1_1_abcd"))


async def test_unreachable_address_raises() -> None:
    async with client("http://127.0.0.1:9") as aura_client:
        with pytest.raises(ServiceUnreachable):
            await collected(aura_client.run("안녕하세요"))


def test_invalid_address_raises() -> None:
    with pytest.raises(ClientError):
        client("127.0.0.1:9000")


# --- against a service that misbehaves ------------------------------------------------------------------------------


def frame(id: int, **fields: Any) -> bytes:
    return f"id: {id}\nevent: {fields['type']}\ndata: {json.dumps(fields)}\n\n".encode()


@asynccontextmanager
async def serve(*bodies: bytes | int) -> AsyncIterator[tuple[str, list[Request]]]:
    """A server that returns one body (or error status) for each request, and the last one for all further requests."""
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


async def test_retry_field_of_the_service_sets_the_delay() -> None:
    reconnect_notice = START + b": shutting down id:\nretry: 300\n\n"
    async with serve(reconnect_notice, END) as (url, requests), client(url) as aura_client:
        items = await collected(aura_client.run("안녕하세요"))
    (interrupted,) = (item for item in items if isinstance(item, Interrupted))
    assert 0.2 < interrupted.retry_delay_seconds < 0.4
    assert [request.method for request in requests] == ["POST", "GET"]
    assert requests[1].query == {"events": "aura", "sessionId": "s-1"}
    assert requests[1].headers["last-event-id"] == "1000"


async def test_unavailable_service_is_retried_with_the_same_idempotency_key() -> None:
    async with serve(503, START + END) as (url, requests), client(url) as aura_client:
        items = await collected(aura_client.run("안녕하세요"))
    assert [item.type for item in events(items)] == ["start", "end"]
    assert len({request.headers["idempotency-key"] for request in requests}) == 1


@pytest.mark.parametrize("status", [400, 403, 413, 429, 500])
async def test_final_error_is_not_retried(status: int) -> None:
    async with serve(status) as (url, requests), client(url) as aura_client:
        with pytest.raises(ApiError, match="later"):
            await collected(aura_client.run("안녕하세요"))
    assert len(requests) == 1


async def test_retries_end_after_the_retry_timeout() -> None:
    async with serve(START, 502) as (url, _), client(url, retry_timeout_seconds=0.3) as aura_client:
        with pytest.raises(ConnectionLost):
            await collected(aura_client.run("안녕하세요"))


async def test_damaged_frame_is_read_again() -> None:
    damaged = START + b'id: 1001\nevent: thought\ndata: {"type":"tho\n\n'
    async with serve(damaged, END) as (url, requests), client(url) as aura_client:
        items = await collected(aura_client.run("안녕하세요"))
    assert [item.type for item in events(items)] == ["start", "end"]
    assert requests[1].headers["last-event-id"] == "1000"


@pytest.mark.slow
async def test_stream_that_is_damaged_at_every_read_raises() -> None:
    async with (
        serve(START + b"id: 1001\ndata: {\n\n", b"id: 1001\ndata: {\n\n") as (url, _),
        client(url) as aura_client,
    ):
        with pytest.raises(ConnectionLost, match="damaged"):
            await collected(aura_client.run("안녕하세요"))


async def test_response_that_is_not_a_stream_raises() -> None:
    async def handle(_: Request, answer: Response) -> None:
        await answer.json(200, {})

    async with HttpServer(handle) as server, client(server.origin) as aura_client:
        with pytest.raises(ApiError, match="Aura's address"):
            await collected(aura_client.run("안녕하세요"))


def test_ids_inserted_by_the_gateway_are_ignored() -> None:
    text = b'id: 1706156400123456\nid: 5\ndata: {}\n\nid: 6\nid: 1706156400123456\ndata: {"a":\ndata: 1}\n\n: id:\n\n'
    assert list(FrameParser().feed(text)) == [Frame(5, "{}"), Frame(6, '{"a":\n1}')]


@pytest.mark.parametrize("shape", ["flat", "nested"])
def test_flat_and_nested_events_are_parsed(shape: str) -> None:
    fields = {"thoughtType": "analysis", "content": "생각", "later": 1}
    message = {"type": "thought", **fields} if shape == "flat" else {"type": "thought", "data": fields}
    event = parse_event(Frame(1, json.dumps(message))).event
    assert event == Thought(thought_type="analysis", content="생각")


def test_event_of_unknown_type_has_fields_only() -> None:
    item = parse_event(Frame(1, '{"type":"weather","sun":true}'))
    assert (item.type, item.event, item.fields["sun"]) == ("weather", None, True)
    with pytest.raises(StreamDamaged):
        parse_event(Frame(1, "[1]"))


# --- requests beside the stream -------------------------------------------------------------------------------------


async def test_listing_runs_and_requests_and_cancelling(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as waiting, client(waiting.aura.url) as aura_client:
        (run,) = (await aura_client.runs(state="awaiting_approval", limit=5))["runs"]
        (request,) = (await aura_client.pending())["requests"]
        details = await aura_client.details(waiting.session_id)
        assert run["sessionId"] == request["sessionId"] == details["sessionId"] == waiting.session_id
        assert (request["requestId"], details["answer"]) == (waiting.request_id, None)
        with pytest.raises(ApiError, match="E1004"):
            await aura_client.reject("req-000000000000", "아니오")
        assert await aura_client.cancel(waiting.session_id)
        await waiting.stream.rest()
        assert not await aura_client.cancel(waiting.session_id)
        assert (await aura_client.runs(state="awaiting_approval", scope="own")) == {"runs": []}


async def test_requests_are_retried_while_the_service_is_unavailable(waiting_run: StartWaitingRun) -> None:
    async with waiting_run() as waiting:
        faults = [ConnectionFaults(refuse=True), ConnectionFaults(cut_after=0), ConnectionFaults(cut_after=50)]
        async with CuttingProxy(waiting.aura.url, faults) as proxy, client(proxy.url) as aura_client:
            assert (await aura_client.details(waiting.session_id))["state"] == "awaiting_approval"
            reply = await aura_client.reject(waiting.request_id, "아니오")
        assert (reply.status, reply.accepted) == ("rejected", True)
        await waiting.expect_rejected("아니오")


async def test_same_idempotency_key_attaches_to_the_run_and_a_reader_may_start_in_the_middle(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text=ANSWER))
    async with running(settings()) as aura, client(aura.url) as aura_client:
        first = [item async for item in aura_client.run("안녕", thread_id="t-1", idempotency_key="k-1").events()]
        second = [item async for item in aura_client.run("안녕", thread_id="t-1", idempotency_key="k-1").events()]
        session_id = str(first[0].fields["sessionId"])
        rest = [item async for item in aura_client.attach(session_id, last_event_id=first[1].id).events()]
        done_id = (first[-1].id or 0) + 1
        assert [item async for item in aura_client.attach(session_id, last_event_id=done_id).items()] == []
    assert first == second
    assert rest == first[2:]
    assert first[0].fields["threadId"] == "t-1"
