"""A client behind the platform's gateway receives every event once and complete (CONTRACT §2.1)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from tests.e2e.conftest import Nodes
from tests.e2e.mail import mail_settings, mail_turn
from tests.harness.follow import Follower, of_type
from tests.harness.frames import answer, check
from tests.harness.gateway import Gateway, transform_buffer
from tests.harness.service import Client, headers

KOREAN = "가나다라마바사아자차카타파하 🇰🇷 뷁쀍 " * 150
GENERATED_ID = 1706156400123456


class Browser(Client):
    """A client of the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.client = httpx2.AsyncClient(base_url=gateway.url + "/api", timeout=httpx2.Timeout(30, pool=None))


@asynccontextmanager
async def run_gateway(url: str) -> AsyncIterator[tuple[Gateway, Browser]]:
    async with Gateway(url) as gateway:
        browser = Browser(gateway)
        async with browser.client:
            yield gateway, browser


async def test_gateway_forwards_every_event_unchanged(nodes: Nodes, model: ScriptedModelServer) -> None:
    async with SmtpSink() as smtp:
        node = await nodes.start(**mail_settings(smtp), AURA_HEARTBEAT_SECONDS=0.2)
        model.play(
            ScriptedTurn(
                reasoning="먼저 시각을 확인하고 메일을 씁니다. " * 200,
                tool_calls=[ScriptedCall(name="get_current_time")],
            ),
            mail_turn(),
            ScriptedTurn(text=KOREAN, chunk_chars=2000, hang_after=1),
        )
        async with run_gateway(node.url) as (gateway, browser):
            client = Follower("메일")
            async with browser.stream("메일") as stream:
                hitl = await client.collect(stream, of_type("hitl"))
                while stream.comments < 2:
                    await stream.any()  # heartbeats
                assert (await node.decide("approve", hitl["requestId"])).status_code == 200
                await model.wait_for_requests(3)
                await client.collect(stream, of_type("content"))
                model.release()
                await client.collect(stream)
            assert gateway.generated_ids == []
            check(client.seen)
            assert answer(client.seen) == KOREAN
            direct = Follower("메일")
            async with node.stream(method="GET") as stream:
                await direct.collect(stream)
            assert [frame.raw for frame in client.seen] == [frame.raw for frame in direct.seen]
            (at,) = (buffer for buffer in gateway.buffers if b"event: hitl" in buffer)
            assert at.count(b"event: ") == 1
            assert at.endswith(b"\n\n")
            events = [buffer for buffer in gateway.buffers if b'"chunk":true' in buffer]
            assert max(len(buffer) for buffer in events) <= 2048


async def test_slow_reader_behind_the_gateway_receives_every_frame(nodes: Nodes, model: ScriptedModelServer) -> None:
    """The client does not read for a while, so that frames fill the buffers of the sockets."""
    node = await nodes.start()
    text = KOREAN * 20
    model.play(ScriptedTurn(text=text, chunk_chars=500))
    async with run_gateway(node.url) as (_, browser):
        client = Follower("길게")
        async with browser.stream("길게") as stream:
            await client.collect(stream, of_type("content"))
            await model.wait_until_idle()
            await client.collect(stream)
        check(client.seen)
        assert answer(client.seen) == text


def dispatched_events(stream: bytes) -> list[tuple[str, str]]:
    """The id and data of each event that an EventSource dispatches; events whose data is not JSON are left out."""
    events, last_id = [], ""
    for block in stream.decode().split("\n\n"):
        data = None
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            if name == "id":
                last_id = value.removeprefix(" ")
            elif name == "data":
                data = value.removeprefix(" ")
        if data is not None and (data == "[DONE]" or is_json(data)):
            events.append((last_id, data))
    return events


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


async def test_split_buffers_never_produce_a_different_event(nodes: Nodes, model: ScriptedModelServer) -> None:
    """The network may split or join writes at any byte. Joined writes pass unchanged. A split write loses at most its
    own event, or gives it a generated id or one that is not a number. No other event is dispatched."""
    node = await nodes.start(AURA_HEARTBEAT_SECONDS=0.05)
    model.play(
        ScriptedTurn(reasoning="시각을 확인합니다.", tool_calls=[ScriptedCall(name="get_current_time")]),
        ScriptedTurn(text=KOREAN[:1000], chunk_chars=500, hang_after=1),
    )
    writes = []
    async with node.stream("지금 몇 시") as stream:
        while True:
            frame = await stream.any()
            writes.append(f"{frame.raw}\n\n".encode())
            if stream.comments > 1:
                model.release()
            if frame.is_done:
                break
    assert stream.comments > 1
    for size in range(1, len(writes) + 1):
        joined = [b"".join(writes[start : start + size]) for start in range(0, len(writes), size)]
        assert b"".join(transform_buffer(buffer, GENERATED_ID) for buffer in joined) == b"".join(writes)
    for write in writes:
        sent = dispatched_events(write)
        for place in range(1, len(write)):
            got = dispatched_events(
                transform_buffer(write[:place], GENERATED_ID) + transform_buffer(write[place:], GENERATED_ID)
            )
            assert [data for _, data in got] in ([], [data for _, data in sent]), (place, write)
            assert all(id in (sent[0][0], str(GENERATED_ID)) or not id.isdigit() for id, _ in got), (place, write)


async def test_generated_id_resumes_by_prompt_and_time(nodes: Nodes, model: ScriptedModelServer) -> None:
    """The gateway generates ids in microseconds, which no event has: the prompt selects the run, the time the event."""
    first, second = await nodes.start_pair()
    model.play(ScriptedTurn(text=KOREAN, chunk_chars=100, hang_after=10), ScriptedTurn(text="다른"))
    client = Follower("길게")
    async with first.stream("길게") as stream:
        while len(answer(client.seen)) < 1000:
            await client.collect(stream, of_type("content"))
    while time.time() * 1000 <= float(client.seen[-1].id or 0):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    generated_id = str(time.time_ns() // 1000)
    other = Follower("다른 것")
    await other.read(first)  # a newer run of the same user, with another prompt
    async with run_gateway(second.url) as (_, browser):
        async with browser.stream("길게", headers=headers(**{"Last-Event-ID": generated_id})) as stream:
            model.release()
            await client.collect(stream)
        check(client.seen)
        assert answer(client.seen) == KOREAN
        for id in ("not-a-number", "0"):  # such an id resumes from the start
            async with browser.stream("길게", headers=headers(**{"Last-Event-ID": id})) as stream:
                frames = await stream.rest()
            assert [frame.raw for frame in frames] == [frame.raw for frame in client.seen]
    assert len(model.requests) == 2
