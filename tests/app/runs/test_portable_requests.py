"""Whatever a model sends and however a run ends, the next request is one that every known server accepts.

The scripted model refuses all others (`app/dev/demo/request_rules.py`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.settings import Settings
from tests.harness.frames import Frame, check
from tests.harness.outcomes import TEXT, completed
from tests.harness.service import Aura, running
from tests.harness.tools import NoteArguments, NoteTool, calling, risky

pytestmark = pytest.mark.slow

MakeSettings = Callable[..., Settings]

FINAL = ScriptedTurn(text=TEXT)


def call(id: str | None = None, name: str = "write_note", arguments: Any = None) -> ScriptedCall:
    return ScriptedCall(id=id, name=name, arguments={"to": "김"} if arguments is None else arguments)


TURNS: dict[str, list[ScriptedCall]] = {
    "no id": [call("")],
    "an id of 41 characters": [call("i" * 41)],
    "an id of 129 characters": [call("i" * 129)],
    "an id in Korean": [call("호출")],
    "one id twice": [call("call_1"), call("call_1")],
    "no name": [call(name="")],
    "a name with a dot and a space": [call(name="notes.write note")],
    "a name of 65 characters": [call(name="n" * 65)],
    "no arguments": [call(arguments="")],
    "blank arguments": [call(arguments=" \n")],
    "no arguments of a tool that needs none": [call(name="ping", arguments="")],
    "blank arguments of a tool that needs none": [call(name="ping", arguments=" \n")],
    "null as arguments": [call(arguments="null")],
    "a list as arguments": [call(arguments="[]")],
    "arguments that are cut": [call(arguments='{"to": "김')],
    "arguments with NaN": [call(arguments='{"to": "김", "copies": NaN}')],
    "arguments with half of a surrogate pair": [call(arguments='{"to": "\\ud83d"}')],
    "arguments with a key twice": [call(arguments='{"to": "김", "to": "이"}')],
    "a plan without arguments": [call(name="update_plan", arguments="")],
    "129 calls": [call() for _ in range(129)],
}


class PingArguments(BaseModel):
    text: str = ""


class PingTool(NoteTool):
    """Return a pong."""

    arguments: type[BaseModel] = PingArguments


async def whole(aura: Aura, **body: Any) -> list[Frame]:
    async with aura.stream(body={"prompt": "해주세요", **body}) as stream, asyncio.timeout(60):
        frames = await stream.rest()
    check(frames)
    return frames


@pytest.mark.parametrize("odd", TURNS)
async def test_odd_calls_go_back_in_the_form_that_all_servers_accept(
    settings: MakeSettings, model: ScriptedModelServer, odd: str
) -> None:
    model.play(ScriptedTurn(tool_calls=TURNS[odd]), FINAL)
    async with running(settings(), tools=[NoteTool(), PingTool("ping")]) as aura:
        completed(await whole(aura))
    request = model.requests[1]["messages"]
    assert len(request) == 3 + min(128, len(TURNS[odd])), "each call that a message can hold has its result"


@pytest.mark.parametrize("text", ["\n\n", " "])
async def test_blank_text_before_calls_goes_back(settings: MakeSettings, model: ScriptedModelServer, text: str) -> None:
    model.play(calling(("write_note", {"to": "김"}), text_before_tools=[text]), FINAL)
    async with running(settings(), tools=[NoteTool()]) as aura:
        completed(await whole(aura))


@pytest.mark.parametrize("result", ["", None, [], {}, "\ud800"], ids=json.dumps)
async def test_any_result_of_a_tool_is_a_text_that_all_servers_accept(
    settings: MakeSettings, model: ScriptedModelServer, result: Any
) -> None:
    async def work(arguments: NoteArguments) -> Any:
        return result

    model.play(calling(("write_note", {"to": "김"})), FINAL)
    async with running(settings(), tools=[NoteTool(work=work)]) as aura:
        completed(await whole(aura))


async def _fail(aura: Aura, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text=TEXT, finish_reason="length"))
    await whole(aura, thread_id="t")


async def _fail_after_calls(aura: Aura, model: ScriptedModelServer) -> None:
    model.play(calling(("write_note", {"to": "김"})), ScriptedTurn(status=400))
    await whole(aura, thread_id="t")


async def _reject(aura: Aura, model: ScriptedModelServer) -> None:
    model.play(calling(("send_note", {"to": "김"}), ("send_note", {"to": "이"})))
    async with aura.stream(body={"prompt": "보내주세요", "thread_id": "t"}) as stream, asyncio.timeout(30):
        request = await stream.until("hitl")
        await aura.decide("reject", request["requestId"])
        await stream.rest()


@pytest.mark.parametrize("end", [_fail, _fail_after_calls, _reject])
async def test_the_next_prompt_of_a_thread_follows_on_any_end(
    settings: MakeSettings, model: ScriptedModelServer, end: Callable[[Aura, ScriptedModelServer], Any]
) -> None:
    async with running(settings(), tools=[NoteTool(), risky()]) as aura:
        await end(aura, model)
        model.play(FINAL)
        completed(await whole(aura, thread_id="t"))
