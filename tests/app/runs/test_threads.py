"""The history of a thread: what the model gets of it, what it is told of the rest, and what the run's record shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from statemachine.instructions import INSTRUCTIONS
from tests.harness.frames import Frame, answer, types
from tests.harness.outcomes import completed, failed
from tests.harness.service import Aura, headers, running
from tests.harness.tools import NoteTool, calling

MakeSettings = Callable[..., Settings]
TOO_LONG = ScriptedTurn(
    status=400,
    error_message="This model's maximum context length is 4096 tokens. However, your messages resulted in 9000 tokens.",
)


async def ask(aura: Aura, prompt: str, thread_id: str = "t-1", **body: Any) -> list[Frame]:
    async with aura.stream(body={"prompt": prompt, "thread_id": thread_id, **body}) as stream:
        return await stream.rest()


async def record(aura: Aura, frames: list[Frame]) -> Any:
    response = await aura.client.get(f"/aura/runs/{frames[0]['sessionId']}", headers=headers())
    assert response.status_code == 200, response.text
    return response.json()["data"]


def sent(model: ScriptedModelServer, index: int = -1) -> tuple[str, list[str]]:
    """Return the system prompt of a request, and the contents of the messages after it."""
    first, *others = model.requests[index]["messages"]
    assert "system" not in {message["role"] for message in others}
    return first["content"], [message["content"] for message in others]


async def test_one_long_answer_does_not_hide_the_thread(settings: MakeSettings, model: ScriptedModelServer) -> None:
    long = "긴 답변 " * 2000
    model.play(ScriptedTurn(text="먼저"), ScriptedTurn(text=[long]), ScriptedTurn(text="네."))
    async with running(settings(aura_thread_tokens=500)) as aura:
        first, second = await record(aura, await ask(aura, "하나")), await record(aura, await ask(aura, "둘"))
        third = await record(aura, await ask(aura, "셋"))
    told, (question, shortened, prompt) = sent(model)
    assert (question, prompt) == ("둘", "셋")
    assert shortened.startswith("긴 답변 ")
    assert "characters left out …]" in shortened
    assert len(shortened.encode()) <= 1500
    assert told.splitlines()[-1].startswith("To save space, the first 1 earlier turn(s)")
    assert first["history"] == {"messages": 0, "omittedTurns": 0, "isShortened": False}
    assert second["history"] == {"messages": 2, "omittedTurns": 0, "isShortened": False}
    assert third["history"] == {"messages": 2, "omittedTurns": 1, "isShortened": True}


async def test_turns_that_are_too_old_to_be_loaded_are_counted(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(*(ScriptedTurn(text=f"답 {n}") for n in range(23)))
    async with running(settings()) as aura:
        for n in range(23):
            frames = await ask(aura, f"질문 {n}")
        assert (await record(aura, frames))["history"] == {"messages": 40, "omittedTurns": 2, "isShortened": False}
    told, contents = sent(model)
    assert contents[0] == "질문 2"
    assert "the first 2 earlier turn(s)" in told


async def test_no_thread_tokens_mean_no_history(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="먼저"), ScriptedTurn(text="네."))
    async with running(settings(aura_thread_tokens=0)) as aura:
        await ask(aura, "하나")
        assert (await record(aura, await ask(aura, "둘")))["history"]["omittedTurns"] == 1
    assert sent(model)[1] == ["둘"]


async def test_every_request_begins_with_the_same_bytes(settings: MakeSettings, model: ScriptedModelServer) -> None:
    """Servers cache the beginning of a request: instructions and, within a thread, what follows them."""
    model.play(
        ScriptedTurn(text="먼저"),
        calling(("write_note", {"to": "kim", "text": "안녕"})),
        ScriptedTurn(text=["긴 답 " * 1000]),
        ScriptedTurn(text="네."),
    )
    async with running(settings(aura_thread_tokens=300), tools=[NoteTool()]) as aura:
        await ask(aura, "하나", context={"activeApp": "mail"})
        await ask(aura, "둘")
        await ask(aura, "셋", context={"activeApp": "chat", "title": "대화"})
    assert len(model.requests) == 4
    assert all(sent(model, index)[0].startswith(INSTRUCTIONS) for index in range(4))
    assert model.requests[2]["messages"][: len(model.requests[1]["messages"])] == model.requests[1]["messages"]


async def test_turn_that_is_too_long_for_the_model_is_requested_again_without_the_thread(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="먼저"), TOO_LONG, ScriptedTurn(text="네."))
    async with running(settings()) as aura:
        await ask(aura, "하나")
        frames = await ask(aura, "둘")
        run = await record(aura, frames)
    completed(frames, "네.")
    assert [frame["thoughtType"] for frame in frames if frame.type == "thought"] == ["analysis", "decision"]
    assert sent(model, -2)[1] == ["하나", "먼저", "둘"]
    told, contents = sent(model)
    assert contents == ["둘"]
    assert "the first 1 earlier turn(s)" in told
    assert run["history"] == {"messages": 0, "omittedTurns": 1, "isShortened": False}


async def test_prompt_that_is_too_long_for_the_model_ends_the_run_with_the_remedy(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(TOO_LONG)
    async with running(settings()) as aura:
        frames = await ask(aura, "둘")
    message = failed(frames, "LimitExceeded", "E5000", retryable=False)
    assert "요청을 줄이거나" in message
    assert "4096 tokens" in message
    assert answer(frames) == ""
    assert types(frames).count("error") == 1
