"""A reader that resumes on any node receives the same events with the same ids, none missing or twice (CONTRACT §3)."""

from __future__ import annotations

import asyncio

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from tests.e2e.conftest import Nodes
from tests.harness.frames import Frame, answer, check, types
from tests.harness.service import headers

TEXT = "결재 서류를 검토했습니다. 총 세 건이며, 모두 정상입니다. 감사합니다!"


def resume_headers(frame: Frame) -> dict[str, str]:
    return headers(**{"Last-Event-ID": str(frame.id)})


async def test_resume_after_every_event_of_an_ended_run(nodes: Nodes, model: ScriptedModelServer) -> None:
    first, second = await nodes.start_pair()
    model.play(ScriptedTurn(tool_calls=[ScriptedCall(name="get_current_time")]), ScriptedTurn(text=TEXT))
    async with first.stream("검토") as stream:
        read_stream = await stream.rest()
    check(read_stream)
    raws = [frame.raw for frame in read_stream]
    for number, frame in enumerate(read_stream[:-1], start=1):
        async with second.stream("검토", headers=resume_headers(frame)) as stream:
            assert [frame.raw for frame in await stream.rest()] == raws[number:]
    async with second.stream(method="GET") as stream:
        assert [frame.raw for frame in await stream.rest()] == raws
    assert len(model.requests) == 2


async def test_resume_after_every_event_of_a_running_run(nodes: Nodes, model: ScriptedModelServer) -> None:
    """The client switches the node after each event, while the run is executed on the first one."""
    pair = await nodes.start_pair()
    model.play(ScriptedTurn(text=TEXT, chunk_chars=4))
    seen: list[Frame] = []
    async with pair[0].stream("검토") as stream:
        seen.append(await stream.next())
    while not seen[-1].is_done:
        node = pair[len(seen) % 2]
        async with node.stream("검토", headers=resume_headers(seen[-1])) as stream:
            seen.append(await stream.next())
    check(seen)
    assert answer(seen) == TEXT
    async with pair[1].stream(method="GET") as stream:
        assert [frame.raw for frame in await stream.rest()] == [frame.raw for frame in seen]
    assert len(model.requests) == 1


async def test_reader_on_another_node_receives_the_live_events(nodes: Nodes, model: ScriptedModelServer) -> None:
    first, second = await nodes.start_pair()
    pieces = [f"조각 {number} " for number in range(8)]
    model.play(ScriptedTurn(text=pieces, delay_ms=20))
    model.pace = 1.0  # the fixture removes all delays
    async with first.stream("검토") as here:
        start = await here.next()
        async with second.stream(method="GET", params={"sessionId": start["sessionId"]}) as there:
            read_stream, frames = await asyncio.gather(here.rest(), there.rest())
    check(frames)
    assert answer(frames) == "".join(pieces)
    assert [frame.raw for frame in frames] == [frame.raw for frame in read_stream]


async def test_unknown_last_event_id_starts_no_run(nodes: Nodes, model: ScriptedModelServer) -> None:
    node = await nodes.start()
    async with node.stream("없는 실행", headers=headers(**{"Last-Event-ID": "1706156400123"})) as stream:
        frames = await stream.rest()
    assert types(frames) == ["error", "end", "[DONE]"]
    assert frames[0]["errorType"] == "ResumeExpired"
    assert model.requests == []


async def test_idempotency_key_attaches_on_another_node(nodes: Nodes, model: ScriptedModelServer) -> None:
    first, second = await nodes.start_pair()
    model.play(ScriptedTurn(text=TEXT))
    keyed = headers(**{"Idempotency-Key": "key-1"})
    async with first.stream("검토", headers=keyed) as stream:
        read_stream = await stream.rest()
    async with second.stream("검토", headers=keyed) as stream:
        assert [frame.raw for frame in await stream.rest()] == [frame.raw for frame in read_stream]
    assert len(model.requests) == 1
