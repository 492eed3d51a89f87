"""nginx and HAProxy with the configurations of `fixtures/gateway/` neither delay, change nor lose frames (CONTRACT §2),
and disconnected clients are detected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from tests.harness.frames import Frame, answer, check, types
from tests.harness.gateways import KINDS, ProxyClient, find_program, run_proxy
from tests.harness.service import Aura, headers, running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

KOREAN = "가나다라마바사아자차카타파하 🇰🇷 뷁쀍 " * 150

MakeSettings = Callable[..., Settings]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if find_program(name) is None:
        pytest.skip(f"{name.removeprefix('plain ')} is not installed (apt-get install nginx haproxy)")
    return name


@asynccontextmanager
async def running_behind(
    kind: str, settings: Settings, folder: Path, **kwargs: object
) -> AsyncIterator[tuple[Aura, ProxyClient]]:
    tools = kwargs.get("tools")
    async with (
        running(settings, tools=tools) as aura,  # type: ignore[arg-type]
        run_proxy(kind, aura.url, folder) as browser,
    ):
        yield aura, browser


async def read_directly(aura: Aura, session_id: str) -> list[Frame]:
    async with aura.stream(method="GET", params={"sessionId": session_id}) as stream:
        return await stream.rest()


async def test_proxy_forwards_the_stream_unchanged_and_unbuffered(
    kind: str, settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path
) -> None:
    """The model waits until the first events, an approval and heartbeats have passed the proxy."""
    tool = risky()
    model.play(
        calling((tool.name, {"to": "김"})).model_copy(update={"hang_after": 0}),
        ScriptedTurn(text=KOREAN, chunk_chars=2000, hang_after=1),
    )
    made = settings(aura_heartbeat_seconds=0.2)
    sent = headers(**{"X-Correlation-ID": "corr-1", "X-Agent-ID": "agent-7", "X-DWP-Source": "FRONTEND"})
    async with running_behind(kind, made, tmp_path, tools=[tool]) as (aura, browser):
        async with browser.stream("메모를 보내주세요", headers=sent) as stream:
            start, thought = await stream.next(), await stream.next()
            assert (start.type, thought.type) == ("start", "thought")
            while stream.comments < 2:
                await stream.any()
            model.release()
            hitl = await stream.until("hitl")
            assert (await browser.decide("approve", hitl["requestId"])).status_code == 200
            await stream.until("content")
            assert model.turns_left == 0
            model.release()
            frames = await stream.rest()
        check(frames)
        assert answer(frames) == KOREAN
        assert [frame.raw for frame in frames] == [frame.raw for frame in await read_directly(aura, start["sessionId"])]
        assert start["threadId"] == "agent-7"
        got = stream.response.headers
        assert got["content-type"] == "text/event-stream"
        assert got["cache-control"] == "no-cache"
        assert got["x-session-id"] == start["sessionId"]
        assert got["x-correlation-id"] == "corr-1"
        assert "content-encoding" not in got
        assert (await browser.client.get(f"/aura/runs/{start['sessionId']}", headers=sent)).status_code == 200


async def test_slow_reader_behind_a_proxy_receives_every_frame(
    kind: str, settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path
) -> None:
    """The text exceeds the proxy's buffers, and its three-byte characters lie across their borders."""
    text = KOREAN * 20
    model.play(ScriptedTurn(text=text, chunk_chars=700))
    async with running_behind(kind, settings(), tmp_path) as (aura, browser):
        async with browser.stream("길게") as stream:
            start = await stream.next()
            await model.wait_until_idle()
            frames = await stream.rest()
        check(frames)
        assert answer(frames) == text
        assert [frame.raw for frame in frames] == [frame.raw for frame in await read_directly(aura, start["sessionId"])]


async def test_disconnected_client_is_detected_and_the_run_continues(
    kind: str, settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path
) -> None:
    model.play(ScriptedTurn(text=KOREAN, chunk_chars=500, hang_after=2))
    async with running_behind(kind, settings(aura_heartbeat_seconds=0.2), tmp_path) as (aura, browser):
        async with browser.stream("길게") as stream:
            start = await stream.next()
            last = await stream.until("content")
        await eventually(lambda: aura.service.stores.journal.reader_count == 0)
        model.release()
        back = headers(**{"Last-Event-ID": str(last.id)})
        async with browser.stream("길게", headers=back) as stream:
            rest = await stream.rest()
        frames = await read_directly(aura, start["sessionId"])
        check(frames)
        assert answer(frames) == KOREAN
        assert [frame.raw for frame in rest] == [frame.raw for frame in frames if (frame.id or 0) > (last.id or 0)]
        assert len(model.requests) == 1


async def test_refusal_keeps_its_status_and_format(kind: str, settings: MakeSettings, tmp_path: Path) -> None:
    async with running_behind(kind, settings(), tmp_path) as (_, browser):
        async with browser.stream("안녕", headers={"X-Tenant-ID": "tenant1"}) as stream:
            assert stream.response.status_code == 401
            assert types(await stream.rest()) == ["error", "end", "[DONE]"]
        too_large = {"prompt": "안녕", "context": {"text": "x" * 1_100_000}}
        if kind != "plain nginx":  # nginx itself refuses such a body by default
            async with browser.stream(body=too_large) as stream:
                assert stream.response.status_code == 413
                assert types(await stream.rest()) == ["error", "end", "[DONE]"]
