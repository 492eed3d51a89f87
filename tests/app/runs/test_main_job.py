"""The main job: a prompt in, the machine's run streamed out, a person's decision in between."""

from __future__ import annotations

from collections.abc import Callable

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from tests.harness.frames import answer, check, types
from tests.harness.service import running


async def test_plain_prompt_streams_start_content_end(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="안녕하세요! 무엇을 도와드릴까요?"))
    async with running(settings()) as aura, aura.stream("안녕하세요") as stream:
        frames = await stream.rest()
    check(frames)
    assert types(frames)[:2] == ["start", "thought"]
    assert answer(frames) == "안녕하세요! 무엇을 도와드릴까요?"
    assert frames[-2]["status"] == "completed"
    assert frames[1]["content"] == "사용자의 요청을 분석하고 있습니다..."
    assert stream.response.headers["content-type"] == "text/event-stream"
    assert stream.response.headers["x-session-id"] == frames[0]["sessionId"]
