"""Whatever the `openai` client reads, the service reads, too: both get the same bytes of the same server."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from openai import AsyncOpenAI

from app.model.chat import OpenAIModel
from statemachine.finish_reasons import TurnEnd, turn_end
from statemachine.messages import AnswerArrived
from statemachine.surrogates import repair
from statemachine.turn import AnswerCompleted, ToolCallsCompleted, TurnBuffer
from tests.harness.outcomes import KEY
from tests.harness.stream_cases import Case, Expectation, Turn, load_cases
from tests.harness.stream_player import StreamPlayer

MESSAGES: list[Any] = [{"role": "user", "content": "질문"}]
TOOLS = frozenset({"get_current_time", "send_email"})
MINIMUM_COMPARED = 100
"""Of the responses, so many are at least read to their end by the client. It keeps the test from comparing nothing."""

_PAUSE_SECONDS = 0.05
_THOUGHT = re.compile(r"^\s*<think>.*?(</think>\s*|$)", re.DOTALL)

Pieces = dict[Any, list[tuple[Any, Any]]]
"""By the index of a call: its pieces, each a name and arguments."""

Read = tuple[str, list[tuple[str, Any]] | None]
"""The text of a turn and its calls with parsed arguments; None for calls that cannot be used as they were read."""


@pytest.fixture(name="player")
async def _player() -> AsyncIterator[StreamPlayer]:
    async with StreamPlayer() as player:
        yield player


@pytest.fixture(name="model")
async def _model(player: StreamPlayer) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel("m", api_key=KEY, base_url=player.base_url, timeout_seconds=10)
    yield model
    await model.close()


async def test_what_the_openai_client_reads_whole_is_read_alike(player: StreamPlayer, model: OpenAIModel) -> None:
    compared = 0
    differences = []
    async with AsyncOpenAI(api_key=KEY, base_url=player.base_url, max_retries=0, timeout=10) as client:
        for name, turn in _responses():
            player.play(Case(name, "", [[turn]], Expectation()))
            theirs = await _read_by_the_client(client)
            if theirs is None:
                continue
            compared += 1
            ours = await _read_by_the_service(model)
            if ours[0] != theirs[0] or (theirs[1] is not None and ours[1] != theirs[1]):
                differences.append((name, ours, theirs))
    assert differences == []
    assert compared >= MINIMUM_COMPARED


def _responses() -> list[tuple[str, Turn]]:
    """Return every different response with an end, under the name of its case, with short pauses."""
    found = {turn.body: (case.name, turn) for case in load_cases() for turn in reversed(case.responses)}
    return [
        (name, replace(turn, pieces=[min(it, _PAUSE_SECONDS) if isinstance(it, float) else it for it in turn.pieces]))
        for name, turn in found.values()
        if turn.status == 200 and turn.end != "hang"
    ]


async def _read_by_the_client(client: AsyncOpenAI) -> Read | None:
    """Read a turn as programs that use the client do; None where it has no whole and usable end for them."""
    try:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        chunks = [chunk async for chunk in stream]
    except Exception:  # noqa: BLE001 - of any type: the client does not translate what breaks inside of a stream
        return None
    texts, calls, reason = list[str](), Pieces(), ""
    for choice in [choice for chunk in chunks for choice in _choices(chunk)]:
        reason = choice.finish_reason if isinstance(choice.finish_reason, str) else reason
        if choice.delta is not None:
            texts += _texts(choice.delta)
            _add_calls(calls, choice.delta)
    text = _THOUGHT.sub("", repair("".join(texts)))
    is_whole = turn_end(reason) is TurnEnd.WHOLE and (calls or text.strip())
    return (text, _parsed(calls)) if is_whole else None


def _choices(chunk: Any) -> list[Any]:
    """Return what the chunk has of the first choice. The client passes on chunks and choices of any type."""
    choices = getattr(chunk, "choices", None) or []
    return [choice for choice in choices if hasattr(choice, "delta") and choice.index in (0, None)]


def _texts(delta: Any) -> list[str]:
    content = delta.content
    parts = [part.get("text", "") for part in content if part["type"] == "text"] if isinstance(content, list) else []
    return [text for text in [content, delta.refusal, *parts] if isinstance(text, str)]


def _add_calls(calls: Pieces, delta: Any) -> None:
    """Collect the pieces of calls by their index, as the documentation of the API shows it."""
    pieces = [(piece.index, piece.function) for piece in delta.tool_calls or [] if hasattr(piece, "function")]
    for index, function in [*pieces, (0, delta.function_call)]:
        if function is not None:
            calls.setdefault(index, []).append((function.name or "", function.arguments or ""))


def _parsed(calls: Pieces) -> list[tuple[str, Any]] | None:
    if not all(isinstance(text, str) for pieces in calls.values() for piece in pieces for text in piece):
        return None
    joined = [("".join(name for name, _ in pieces), "".join(text for _, text in pieces)) for pieces in calls.values()]
    parsed = [(name, _object(arguments)) for name, arguments in joined]
    return parsed if all(name in TOOLS and arguments is not None for name, arguments in parsed) else None


def _object(arguments: str) -> Any:
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


async def _read_by_the_service(model: OpenAIModel) -> Read:
    turn = TurnBuffer(tool_names=TOOLS)
    async with model.stream(MESSAGES, []) as deltas:
        async for delta in deltas:
            turn.add_delta(delta, 0.0)
    facts, end = turn.finish()
    match end:
        case AnswerCompleted(text=text):
            return text, []
        case ToolCallsCompleted(calls=calls, text=text):
            return text, [(call.name, _object(call.arguments)) for call in calls]
        case _:
            return f"{end} after {[fact.text for fact in facts if isinstance(fact, AnswerArrived)]}", None
