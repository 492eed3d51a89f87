"""The platform's gateway, a real Spring Cloud Gateway with the recipe of `fixtures/gateway/`, delivers every event as
Aura sent it (CONTRACT §1–§3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx2
import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.follow import Follower
from tests.harness.frames import Frame, answer, check, types
from tests.harness.service import FIXTURES, STREAM, Aura, headers
from tests.harness.spring import Browser, JavaProgram, numbered, spring_gateway
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually
from tests.spring.conftest import Start

pytestmark = pytest.mark.slow

KOREAN = "가나다라마바사아자차카타파하 🇰🇷 뷁쀍 " * 150
SHORT_TIMEOUT_MS = 1000


@pytest.fixture(scope="session")
def impatient_gateway(java_main: JavaProgram, aura_port: int) -> Iterator[JavaProgram]:
    """A gateway that waits one second where the recipe says 300."""
    with spring_gateway(aura_port, java_main.url, response_timeout_ms=SHORT_TIMEOUT_MS) as program:
        yield program


async def read_directly(aura: Aura, session_id: str) -> list[Frame]:
    async with aura.stream(method="GET", params={"sessionId": session_id}, headers=numbered()) as stream:
        return await stream.rest()


def raws(frames: list[Frame]) -> list[str]:
    return [frame.raw for frame in frames]


async def test_stream_passes_unchanged_with_its_ids_and_korean_text(start: Start, model: ScriptedModelServer) -> None:
    """The model waits until the first events and heartbeats have passed: nothing is held back."""
    model.play(ScriptedTurn(reasoning="생각합니다. " * 300, text=KOREAN, chunk_chars=500, hang_after=0))
    async with start(aura_heartbeat_seconds=0.2) as (aura, browser):
        async with browser.stream("길게 써 주세요 🇰🇷") as stream:
            first = await stream.next()
            assert (first.type, (await stream.next()).type) == ("start", "thought")
            while stream.comments < 3:
                assert "id:" in (await stream.any()).raw
            model.release()
            frames = await stream.rest()
        check(frames)
        assert answer(frames) == KOREAN
        assert raws(frames) == raws(await read_directly(aura, first["sessionId"]))
        assert model.requests[0]["messages"][-1]["content"].endswith("길게 써 주세요 🇰🇷")


async def test_headers_pass_in_both_directions(start: Start, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="안녕하세요"))
    sent = numbered(**{"X-Correlation-ID": "corr-1", "X-Agent-ID": "agent-7", "Accept": "text/event-stream"})
    async with start() as (aura, browser):
        async with browser.stream("안녕", headers=sent) as stream:
            frames = await stream.rest()
        got = stream.response.headers
        assert got.get_list("content-type") == ["text/event-stream"]
        assert got.get_list("cache-control") == ["no-cache"]
        assert got.get_list("x-accel-buffering") == ["no"]
        assert got["x-session-id"] == frames[0]["sessionId"]
        assert got["x-correlation-id"] == "corr-1"
        assert "content-encoding" not in got
        assert frames[0]["threadId"] == "agent-7"
        run = (await browser.client.get(f"/aura/runs/{got['x-session-id']}", headers=numbered())).json()["data"]
        assert run["traceId"] == "corr-1"
        assert aura.url not in json.dumps(run)


async def test_tenant_is_required_and_replaced_by_the_number_of_the_token(
    start: Start, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="안녕하세요"))
    async with start() as (_, browser):
        without = {name: value for name, value in numbered().items() if name != "X-Tenant-ID"}
        for refused in (without, headers(tenant="tenant1")):
            answer_ = await browser.client.post(STREAM, json={"prompt": "안녕"}, headers=refused)
            assert (answer_.status_code, answer_.content) == (400, b"")
        async with browser.stream("안녕", headers={**numbered(), "X-Tenant-ID": "회사".encode().hex()}) as stream:
            check(await stream.rest())


async def test_hitl_event_of_60_kb_arrives_whole(start: Start, model: ScriptedModelServer) -> None:
    """A person decides on the arguments: nothing of them is left out, and no alias (§2.1)."""
    tool, text = risky(), "내용 " * 8600
    assert len(text.encode()) > 60_000
    model.play(calling((tool.name, {"to": "김", "text": text})), ScriptedTurn(text="보냈습니다."))
    async with start(tools=[tool]) as (aura, browser):
        async with browser.stream("메모") as stream:
            tool_execution, hitl = await stream.until("tool_execution"), await stream.until("hitl")
            shown_by = [(tool_execution, ("toolArgs", "params", "parameters")), (hitl, ("context", "params"))]
            for shown in [
                place[name] for frame, names in shown_by for name in names for place in (frame, frame["data"])
            ]:
                assert shown["text"] == text
            assert (await browser.decide("approve", hitl["requestId"])).status_code == 200
            frames = await stream.rest()
        check(frames)
        assert [call["text"] for call in tool.ran] == [text]
        assert raws(frames) == raws(await read_directly(aura, hitl["sessionId"]))


async def test_post_is_never_sent_twice(gateway: JavaProgram, aura_port: int) -> None:
    """Aura dies after it has read a prompt: the gateway must not run the prompt again."""
    heads: list[bytes] = []

    async def break_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    server = await asyncio.start_server(break_connection, "127.0.0.1", aura_port)
    async with server, Browser(gateway.url).client as client:
        answer_ = await client.post(STREAM, json={"prompt": "한 번만"}, headers=numbered())
        assert answer_.status_code >= 500
        await asyncio.sleep(1)  # a retry would come at once
    assert [head.partition(b" HTTP")[0] for head in heads] == [b"POST " + STREAM.encode()]


async def test_aura_notices_a_client_that_leaves(start: Start, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text=KOREAN, chunk_chars=500, hang_after=2))
    async with start(aura_heartbeat_seconds=0.2) as (aura, browser):
        async with browser.stream("길게") as stream:
            first = await stream.next()
            await stream.until("content")
            assert aura.service.stores.journal.reader_count == 1
        await eventually(lambda: aura.service.stores.journal.reader_count == 0)
        model.release()
        frames = await read_directly(aura, first["sessionId"])
        check(frames)
        assert answer(frames) == KOREAN


async def test_40_streams_at_once(start: Start, model: ScriptedModelServer) -> None:
    model.play(*[ScriptedTurn(text=KOREAN, chunk_chars=500, hang_after=1)] * 40)
    async with start() as (aura, browser):

        async def read(number: int) -> list[Frame]:
            async with browser.stream(f"길게 {number}", headers=numbered(f"user{number}")) as stream:
                return await stream.rest()

        reading = [asyncio.create_task(read(number)) for number in range(40)]
        await model.wait_for_requests(40)
        await eventually(lambda: aura.service.stores.journal.reader_count == 40)
        model.release()
        for frames in await asyncio.gather(*reading):
            check(frames)
            assert answer(frames) == KOREAN


async def test_heartbeats_keep_a_stream_open_beyond_the_response_timeout(
    start: Start, impatient_gateway: JavaProgram, model: ScriptedModelServer
) -> None:
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), ScriptedTurn(text="보냈습니다."))
    async with start(impatient_gateway, tools=[tool], aura_heartbeat_seconds=0.3) as (_, browser):
        async with browser.stream("메모") as stream:
            hitl = await stream.until("hitl")
            while stream.comments < 10:  # three times the timeout
                await stream.any()
            assert (await browser.decide("approve", hitl["requestId"])).status_code == 200
            check(await stream.rest())


async def test_silence_ends_the_stream_at_the_timeout_and_the_client_resumes(
    start: Start, impatient_gateway: JavaProgram, model: ScriptedModelServer
) -> None:
    """What 300 s of silence do in the recipe. The run is not ended by it."""
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), ScriptedTurn(text="보냈습니다."))
    async with start(impatient_gateway, tools=[tool], aura_heartbeat_seconds=60) as (aura, browser):
        client = Follower("메모")
        async with browser.stream("메모") as stream:
            with pytest.raises((httpx2.HTTPError, StopAsyncIteration)):
                await client.collect(stream)
        hitl = client.seen[-1]
        assert hitl.type == "hitl"
        await eventually(lambda: aura.service.stores.journal.reader_count == 0)
        assert (await browser.decide("approve", hitl["requestId"])).status_code == 200
        async with browser.stream("메모", headers=numbered(**{"Last-Event-ID": str(hitl.id)})) as stream:
            await client.collect(stream)
        check(client.seen)
        assert raws(client.seen) == raws(await read_directly(aura, client.session_id))


async def test_last_event_id_of_the_gateway_resumes_though_the_context_has_a_new_time(
    start: Start, model: ScriptedModelServer
) -> None:
    """The browser puts the time into the context of each call, and the gateway's ids are microseconds (§3)."""
    model.play(ScriptedTurn(text=KOREAN, chunk_chars=500))
    async with start() as (_, browser):
        body = {"prompt": "길게", "context": {"path": "/mail", "timestamp": 1}}
        async with browser.stream(body=body) as stream:
            frames = await stream.rest()
        before = str((frames[2].id or 0) * 1000 - 1000 + 7)
        body["context"] = {"path": "/mail", "timestamp": 2}
        async with browser.stream(body=body, headers=numbered(**{"Last-Event-ID": before})) as stream:
            resumed = await stream.rest()
        assert raws(resumed) == [frame.raw for frame in frames if (frame.id or 0) * 1000 > int(before)]
        assert "error" not in types(resumed)
    assert len(model.requests) == 1


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_refusal_keeps_its_status_and_its_form(start: Start, accept: str) -> None:
    """JSON on the stream's path goes through the filter that adds ids, and must still be JSON (§1.4)."""
    async with start() as (_, browser):
        for body, status in (({"prompt": ""}, 400), ({"prompt": "안녕", "context": {"text": "x" * 1_100_000}}, 413)):
            async with browser.stream(body=body, headers=numbered(Accept=accept)) as stream:
                assert stream.response.status_code == status
                if accept == "text/event-stream":
                    assert types(await stream.rest()) == ["error", "end", "[DONE]"]
                else:
                    assert json.loads(await stream.response.aread())["status"] == "ERROR"


def test_recipe_never_retries_and_never_holds_a_stream_back() -> None:
    recipe = (FIXTURES / "gateway" / "spring-cloud-gateway.yml").read_text(encoding="utf-8")
    settings = [line.partition("#")[0].strip() for line in recipe.splitlines()]
    assert settings.index("- Path=/api/aura/hitl/**") < settings.index("- Path=/api/aura/**")
    assert not [line for line in settings if "Retry" in line or "ModifyResponseBody" in line]


async def test_decisions_that_only_aura_knows_pass_to_aura(start: Start, model: ScriptedModelServer) -> None:
    """The approvals of Aura's own paths have edited arguments, which the Main Service does not know (§1)."""
    tool = risky()
    model.play(calling((tool.name, {"to": "김"})), ScriptedTurn(text="보냈습니다."))
    async with start(tools=[tool]) as (_, browser):
        async with browser.stream("메모") as stream:
            hitl = await stream.until("hitl")
            path = f"/aura/approvals/{hitl['requestId']}/approve"
            body = {"userId": "user1", "params": {"to": "이"}, "argumentsDigest": hitl["argumentsDigest"]}
            decided = await browser.client.post(path, json=body, headers=numbered())
            assert decided.status_code == 200, decided.text
            check(await stream.rest())
        assert [call["to"] for call in tool.ran] == ["이"]
