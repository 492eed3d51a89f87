"""Failures of the model: each has a precise outcome, and half an answer is never presented as a whole one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from app.clock import SystemClock
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.ports.clock import Clock
from app.settings import Settings
from tests.harness.clock import HurriedClock
from tests.harness.frames import Frame, StreamReader, answer, check
from tests.harness.outcomes import KEY, TEXT, completed, failed
from tests.harness.service import running
from tests.harness.tools import NoteTool, calling

MakeSettings = Callable[..., Settings]

PIECES = [TEXT[start : start + 3] for start in range(0, len(TEXT), 3)]
SHOWN = 80
"""More than the 64 deltas that may be held back: clients have this much of the answer."""


@pytest.fixture(name="run_prompt")
def _run_prompt(settings: MakeSettings, model: ScriptedModelServer) -> Callable[..., Any]:
    async def run_prompt(
        *turns: ScriptedTurn, tools: list[NoteTool] | None = None, clock: Clock | None = None, **overrides: Any
    ) -> list[Frame]:
        model.play(*turns)
        served = running(settings(**overrides), tools=tools or [], clock=clock or HurriedClock())
        async with served as aura, aura.stream("질문") as stream:
            async with asyncio.timeout(30):
                frames = await stream.rest()
        check(frames)
        assert KEY not in "".join(frame.raw for frame in frames)
        return frames

    return run_prompt


# --- HTTP errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_request_that_is_refused_is_not_repeated(
    run_prompt: Callable[..., Any], model: ScriptedModelServer, status: int
) -> None:
    frames = await run_prompt(ScriptedTurn(status=status, error_message=f"Incorrect API key provided: {KEY}."))
    message = failed(frames, "ModelError", "E5000", retryable=False)
    assert str(status) in message
    assert "Incorrect API key provided" in message
    assert len(model.requests) == 1


async def test_429_is_retried_after_the_servers_retry_after(
    run_prompt: Callable[..., Any], model: ScriptedModelServer
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    frames = await run_prompt(
        ScriptedTurn(status=429, headers={"Retry-After": "1"}), ScriptedTurn(text=TEXT), clock=SystemClock()
    )
    completed(frames)
    assert loop.time() - began >= 1
    assert model.requests[0]["messages"] == model.requests[1]["messages"]


async def test_429_with_a_long_retry_after_ends_the_run_at_once(
    run_prompt: Callable[..., Any], model: ScriptedModelServer
) -> None:
    frames = await run_prompt(ScriptedTurn(status=429, headers={"Retry-After": "3600"}))
    assert "429" in failed(frames, "ModelError", "E5000", retryable=True)
    assert len(model.requests) == 1


@pytest.mark.parametrize("status", [500, 503])
async def test_a_server_error_is_retried(run_prompt: Callable[..., Any], status: int) -> None:
    completed(await run_prompt(ScriptedTurn(status=status), ScriptedTurn(text=TEXT)))


async def test_the_last_attempt_ends_the_run(run_prompt: Callable[..., Any], model: ScriptedModelServer) -> None:
    frames = await run_prompt(ScriptedTurn(status=500), ScriptedTurn(status=502), aura_model_attempts=2)
    assert "502" in failed(frames, "ModelError", "E5000", retryable=True)
    assert len(model.requests) == 2


async def test_attempts_are_counted_for_each_turn(run_prompt: Callable[..., Any]) -> None:
    frames = await run_prompt(
        ScriptedTurn(status=500),
        calling(("write_note", {"to": "김"})),
        ScriptedTurn(status=500),
        ScriptedTurn(text=TEXT),
        tools=[NoteTool()],
        aura_model_attempts=2,
    )
    completed(frames)


async def test_an_unreachable_model_server_is_a_model_error(settings: MakeSettings) -> None:
    made = settings(openai_base_url="http://127.0.0.1:1/v1", aura_model_attempts=1)
    async with running(made) as aura, aura.stream("질문") as stream:
        failed(await stream.rest(), "ModelError", "E5000", retryable=True)


async def shown(stream: StreamReader) -> str:
    """Wait until clients have all text that the model sent before its fault."""
    has = "".join(PIECES[:SHOWN])
    while answer(stream.seen) != has:
        await stream.until("content")
    return has


# --- streams that break -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [-1, 0, 3], ids=["before the first byte", "before text", "in text held back"])
async def test_a_stream_that_breaks_before_any_text_is_requested_again(
    run_prompt: Callable[..., Any], model: ScriptedModelServer, after: int
) -> None:
    turns = ScriptedTurn(text=PIECES, cut_after=after), ScriptedTurn(text=PIECES)
    completed(await run_prompt(*turns, clock=SystemClock()))  # a faster clock would release the held text
    assert model.requests[0]["messages"] == model.requests[1]["messages"]


@pytest.mark.parametrize("how", ["cut", "malformed", "error", "no finish_reason"])
async def test_a_stream_that_breaks_in_shown_text_is_continued_from_there_exactly_once(
    settings: MakeSettings, model: ScriptedModelServer, how: str
) -> None:
    faults: dict[str, Any] = {
        "cut": {"cut_after": SHOWN},
        "malformed": {"malformed_chunk_after": SHOWN},
        "error": {"error_chunk_after": SHOWN},
        "no finish_reason": {"finish_reason": None, "text": PIECES[:SHOWN]},
    }
    first = ScriptedTurn(**{"text": PIECES, "hang_after": SHOWN, **faults[how]})
    model.play(first, ScriptedTurn(text=PIECES))
    async with running(settings(), tools=[], clock=HurriedClock()) as aura, aura.stream("질문") as stream:
        has = await shown(stream)
        model.release()
        frames = await stream.rest()
    check(frames)
    completed(frames)
    *conversation, partial, instruction = model.requests[1]["messages"]
    assert conversation == model.requests[0]["messages"]
    assert partial == {"role": "assistant", "content": has}
    assert (instruction["role"], "ontinue" in instruction["content"]) == ("user", True)


@pytest.mark.parametrize("overlap", [0, 15, 40])
async def test_text_that_a_continuation_repeats_is_not_published_twice(
    settings: MakeSettings, model: ScriptedModelServer, overlap: int
) -> None:
    """A real model may begin a little before the position where its answer was cut."""
    model.play(ScriptedTurn(text=PIECES, hang_after=SHOWN, cut_after=SHOWN))
    async with running(settings(), tools=[], clock=HurriedClock()) as aura, aura.stream("질문") as stream:
        has = await shown(stream)
        model.release()
        model.play(ScriptedTurn(text=[TEXT[len(has) - overlap :]]))
        frames = await stream.rest()
    check(frames)
    completed(frames)
    assert model.requests[1]["messages"][-2]["content"] == has


async def test_a_stream_that_always_ends_without_a_finish_reason_is_no_answer(run_prompt: Callable[..., Any]) -> None:
    frames = await run_prompt(*[ScriptedTurn(text="반쪽", finish_reason=None)] * 2, aura_model_attempts=2)
    assert "finish_reason" in failed(frames, "ModelError", "E5000", retryable=True)


async def test_tool_calls_of_a_stream_without_a_finish_reason_are_not_run(run_prompt: Callable[..., Any]) -> None:
    tool = NoteTool()
    call = calling(("write_note", {"to": "김"}), finish_reason=None)
    failed(await run_prompt(call, tools=[tool], aura_model_attempts=1), "ModelError", "E5000", retryable=True)
    assert tool.ran == []


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_answer_that_stops_at_a_limit_is_not_whole(
    run_prompt: Callable[..., Any], model: ScriptedModelServer, reason: str
) -> None:
    frames = await run_prompt(ScriptedTurn(text=PIECES[:SHOWN], finish_reason=reason))
    failed(frames, "LimitExceeded", "E5000", retryable=False)
    assert "".join(PIECES[:SHOWN]).startswith(answer(frames))
    assert len(model.requests) == 1


async def test_a_turn_of_tool_calls_cut_by_the_token_limit_runs_nothing(run_prompt: Callable[..., Any]) -> None:
    tool = NoteTool()
    call = calling(("write_note", '{"to": "김", "te'), finish_reason="length")
    failed(await run_prompt(call, tools=[tool]), "LimitExceeded", "E5000", retryable=False)
    assert tool.ran == []


async def test_an_error_object_in_the_stream(run_prompt: Callable[..., Any]) -> None:
    broken = ScriptedTurn(text=PIECES, error_chunk_after=2, error_message=f"overloaded {KEY}")
    completed(await run_prompt(broken, ScriptedTurn(text=PIECES)))
    message = failed(await run_prompt(broken, aura_model_attempts=1), "ModelError", "E5000", retryable=True)
    assert "overloaded" in message


@pytest.mark.parametrize("turn", [ScriptedTurn(), ScriptedTurn(text=" \n "), ScriptedTurn(reasoning="음…")])
async def test_an_empty_answer_is_a_failure(run_prompt: Callable[..., Any], turn: ScriptedTurn) -> None:
    completed(await run_prompt(turn, ScriptedTurn(text=TEXT)))


async def test_a_model_that_never_answers_anything_fails(run_prompt: Callable[..., Any]) -> None:
    failed(await run_prompt(ScriptedTurn(), aura_model_attempts=1), "ModelError", "E5000", retryable=True)


@pytest.mark.parametrize("after", [-1, 0, SHOWN], ids=["no answer", "no text", "in the text"])
async def test_a_silent_model_times_out(run_prompt: Callable[..., Any], model: ScriptedModelServer, after: int) -> None:
    frames = await run_prompt(ScriptedTurn(text=PIECES, hang_after=after), aura_model_timeout_seconds=0.4)
    failed(frames, "ModelTimeout", "E5001", retryable=True)
    assert "".join(PIECES).startswith(answer(frames))
    await model.wait_until_idle()


# --- nonsense ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected_text"),
    [
        ('{"to": "김"', "JSON"),
        ("not json", "JSON"),
        ("[1]", "object"),
        ({"text": "누구에게?"}, "to"),
        ({"to": "김", "copies": "many"}, "copies"),
        ({"to": "김", "unknown": 1}, "unknown"),
    ],
)
async def test_invalid_arguments_are_reported_to_the_model(
    run_prompt: Callable[..., Any], model: ScriptedModelServer, arguments: Any, expected_text: str
) -> None:
    tool = NoteTool()
    frames = await run_prompt(calling(("write_note", arguments)), ScriptedTurn(text=TEXT), tools=[tool])
    completed(frames)
    assert tool.ran == []
    (execution,) = [frame for frame in frames if frame.type == "tool_execution"]
    assert execution["status"] == "failed"
    *_, request, result = model.requests[1]["messages"]
    assert (result["role"], result["tool_call_id"]) == ("tool", "call_1")
    assert expected_text in result["content"]
    # Servers accept only an object as arguments.
    assert isinstance(json.loads(request["tool_calls"][0]["function"]["arguments"]), dict)


async def test_an_unknown_tool_is_reported_to_the_model(
    run_prompt: Callable[..., Any], model: ScriptedModelServer
) -> None:
    completed(await run_prompt(calling(("launch_rocket", {})), ScriptedTurn(text=TEXT), tools=[NoteTool()]))
    result = model.requests[1]["messages"][-1]["content"]
    assert "launch_rocket" in result
    assert "write_note" in result


async def test_a_model_that_only_calls_tools_reaches_the_limit_of_turns(
    run_prompt: Callable[..., Any], model: ScriptedModelServer
) -> None:
    tool = NoteTool()
    turns = [calling(("write_note", {"to": "김"}))] * 3
    frames = await run_prompt(*turns, tools=[tool], aura_max_turns=3)
    assert "3회" in failed(frames, "LimitExceeded", "E1000", retryable=False)
    assert len(tool.ran) == 3
    ids = [frame["toolCallId"] for frame in frames if frame.type == "tool_execution" and frame["status"] == "executing"]
    assert len(set(ids)) == 3, "each call has an id of its own, though the server numbers each turn anew"


async def test_plain_text_after_reasoning_and_logprobs(
    run_prompt: Callable[..., Any], model: ScriptedModelServer
) -> None:
    """Reasoning becomes a thought, log-probabilities become the confidence."""
    call = calling(("write_note", {"to": "김"}), text_before_tools=["봅시다"], reasoning="생각 중", logprobs=[-0.5])
    frames = await run_prompt(
        call, ScriptedTurn(text=TEXT), tools=[NoteTool()], aura_model_logprobs=True, clock=SystemClock()
    )
    completed(frames)
    thoughts = [(frame["thoughtType"], frame["content"]) for frame in frames if frame.type == "thought"]
    assert thoughts[1:] == [("reasoning", "생각 중"), ("planning", "봅시다")]
    step = next(frame for frame in frames if frame.type == "plan_step")
    assert step["confidenceSource"] == "logprobs"
    assert step["confidence"] == pytest.approx(0.6065, abs=1e-3)
    assert model.requests[0]["logprobs"] is True


# --- servers that the script cannot play ------------------------------------------------------------------------------
