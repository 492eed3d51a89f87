"""The scripted model, tested with the real OpenAI client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from app.dev.demo.embeddings import EMBEDDING_MODEL_NAME
from app.dev.demo.model import MODEL_NAME, ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn

MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
CALL = ScriptedCall(
    name="send_email", arguments={"to": ["kim@example.com"], "subject": "안녕하세요 여러분"}, id="call_1"
)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedModelServer]:
    async with ScriptedModelServer() as running:
        yield running


@pytest.fixture
async def client(server: ScriptedModelServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(api_key="test", base_url=server.base_url, max_retries=0) as running:
        yield running


async def chunks(client: AsyncOpenAI, **options: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True, **options)
    return [chunk async for chunk in stream]


def text_of(received: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in received if chunk.choices)


async def test_text_streams_as_role_deltas_and_finish_reason(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(text="안녕하세요, 반갑습니다", chunk_chars=5))
    received = await chunks(client)
    assert received[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in received[1:-1]] == ["안녕하세요", ", 반갑습", "니다"]
    assert [chunk.choices[0].finish_reason for chunk in received] == [None] * 4 + ["stop"]
    assert len({chunk.id for chunk in received}) == 1
    server.check()


async def test_items_of_a_list_are_streamed_as_deltas(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(text=["one ", "two"]))
    assert [chunk.choices[0].delta.content for chunk in await chunks(client)] == ["", "one ", "two", None]


async def test_usage_is_the_last_chunk_and_only_sent_on_request(
    server: ScriptedModelServer, client: AsyncOpenAI
) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    server.play(ScriptedTurn(text="a", usage=usage), ScriptedTurn(text="a", usage=usage))
    received = await chunks(client, stream_options={"include_usage": True})
    assert received[-1].choices == []
    assert received[-1].usage is not None
    assert received[-1].usage.total_tokens == 10
    assert all(chunk.usage is None for chunk in received[:-1])
    assert all(chunk.usage is None for chunk in await chunks(client))


async def test_reasoning_precedes_text(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(reasoning="생각 중입니다", text="답"))
    deltas = [chunk.choices[0].delta for chunk in await chunks(client)]
    thought = [getattr(delta, "reasoning_content", None) for delta in deltas]
    assert "".join(part for part in thought if part) == "생각 중입니다"
    assert deltas[-2].content == "답"


async def test_id_and_name_of_a_tool_call_are_in_its_first_chunk_only(
    server: ScriptedModelServer, client: AsyncOpenAI
) -> None:
    server.play(
        ScriptedTurn(text_before_tools="보내겠습니다", tool_calls=[CALL, ScriptedCall(name="clock", arguments="{bad")])
    )
    received = await chunks(client)
    calls = [call for chunk in received for call in chunk.choices[0].delta.tool_calls or []]
    assert [call.index for call in calls if call.id] == [0, 1]
    assert calls[0].id == "call_1"
    assert [call.function.name for call in calls if call.function and call.function.name] == ["send_email", "clock"]
    arguments = ["".join(call.function.arguments or "" for call in calls if call.index == at) for at in (0, 1)]  # type: ignore[union-attr]
    assert arguments == [CALL.arguments_text, "{bad"]
    assert sum(call.index == 0 for call in calls) > 2
    assert received[-1].choices[0].finish_reason == "tool_calls"


async def test_logprobs_are_sent_on_request(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    turn = ScriptedTurn(text=["a", "b", "c"], logprobs=[-0.1, -0.2])
    server.play(turn, turn)
    found = [chunk.choices[0].logprobs for chunk in await chunks(client, logprobs=True)]
    assert [entry.content[0].logprob for entry in found if entry and entry.content] == [-0.1, -0.2]
    assert all(chunk.choices[0].logprobs is None for chunk in await chunks(client))


async def test_response_without_streaming_is_complete(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(text_before_tools="잠시만요", tool_calls=[CALL]))
    answer = await client.chat.completions.create(model="m", messages=MESSAGES)
    message = answer.choices[0].message
    assert message.content == "잠시만요"
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == CALL.arguments_text  # type: ignore[union-attr]
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


async def test_models_are_listed(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL_NAME, EMBEDDING_MODEL_NAME]


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, openai.AuthenticationError), (429, openai.RateLimitError), (500, openai.InternalServerError)],
)
async def test_http_error_is_sent_with_its_headers(
    server: ScriptedModelServer, client: AsyncOpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    server.play(ScriptedTurn(status=status, headers={"Retry-After": "7"}, error_message="no, not now"))
    with pytest.raises(error, match="no, not now") as raised:
        await chunks(client)
    assert raised.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("deltas", [0, 2, 3])
async def test_cut_connection_delivers_the_earlier_deltas(
    server: ScriptedModelServer, client: AsyncOpenAI, deltas: int
) -> None:
    server.play(ScriptedTurn(text=["a", "b", "c"], cut_after=deltas))
    stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    for text in ("", *"abc"[:deltas]):  # the first chunk has the role
        assert (await anext(stream)).choices[0].delta.content == text
    with pytest.raises(Exception, match=r"(?i)incomplete|closed|disconnect|connection"):
        await anext(stream)


async def test_cut_before_the_first_byte_sends_nothing(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(text="abc", cut_after=-1))
    with pytest.raises(openai.APIConnectionError):
        await chunks(client)


async def test_hanging_turn_continues_after_release(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(text=["a", "b"], hang_after=1))
    stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    received = []
    async for chunk in stream:
        received.append(chunk)
        if text_of(received) == "a" and len(received) == 2:
            server.release()
    assert text_of(received) == "ab"


async def test_disconnect_during_a_hanging_turn_is_detected(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(text="abc", hang_after=0))
    request_task = asyncio.create_task(chunks(client))
    await server.wait_for_requests(1)
    request_task.cancel()
    await asyncio.wait_for(server.wait_until_idle(), 30)
    server.check()


async def test_error_object_ends_the_stream(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(text=["a", "b"], error_chunk_after=1, error_message="overloaded"))
    with pytest.raises(openai.APIError, match="overloaded"):
        await chunks(client)


async def test_malformed_chunk_is_sent(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(text=["a", "b"], malformed_chunk_after=1))
    with pytest.raises(ValueError, match="Expecting value"):
        await chunks(client)


async def test_stream_may_end_without_a_finish_reason(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(text="abc", finish_reason=None))
    received = await chunks(client)
    assert text_of(received) == "abc"
    assert {chunk.choices[0].finish_reason for chunk in received} == {None}


async def test_unexpected_request_is_refused_and_fails_the_check(
    server: ScriptedModelServer, client: AsyncOpenAI
) -> None:
    with pytest.raises(openai.InternalServerError):
        await chunks(client)
    with pytest.raises(AssertionError, match="unexpected request"):
        server.check()


async def test_what_a_strict_server_refuses_takes_no_turn_and_fails_the_check(
    server: ScriptedModelServer, client: AsyncOpenAI
) -> None:
    server.play(ScriptedTurn(text="a"))
    wrong: list[Any] = [{"role": "assistant", "content": "a"}, *MESSAGES]
    with pytest.raises(openai.BadRequestError, match="assistant after the beginning"):
        await client.chat.completions.create(model="m", messages=wrong)
    assert [len(server.requests), server.turns_left, len(server.violations)] == [1, 1, 1]
    await chunks(client)
    with pytest.raises(AssertionError, match="assistant after the beginning"):
        server.check()
    with pytest.raises(AssertionError, match="assistant after the beginning"):
        await server.__aexit__()
    server.violations.clear()


@pytest.mark.parametrize("scripted_id", ["call_1", None])
@pytest.mark.parametrize("stream", [True, False])
async def test_ids_that_the_server_did_not_send_are_refused(
    server: ScriptedModelServer, client: AsyncOpenAI, scripted_id: str | None, stream: bool
) -> None:
    server.play(ScriptedTurn(tool_calls=[CALL.model_copy(update={"id": scripted_id})]), ScriptedTurn(text="ok"))
    raw = await client.post(
        "/chat/completions", body={"model": "m", "messages": MESSAGES, "stream": stream}, cast_to=str
    )
    sent_id = re.findall(r'"id":"(call_\w+)"', raw)[0]
    assert await _send_history(client, sent_id) == "ok"
    with pytest.raises(openai.BadRequestError, match='"call_other" was not sent by this server'):
        await _send_history(client, "call_other")
    assert len(server.violations) == 2, "one for the call, one for its result"
    server.violations.clear()


async def _send_history(client: AsyncOpenAI, id: str) -> str | None:
    call = {"id": id, "type": "function", "function": {"name": "send_email", "arguments": "{}"}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": id, "content": "ok"},
    ]
    return (await client.chat.completions.create(model="m", messages=messages)).choices[0].message.content


async def test_unused_turns_fail_the_check(server: ScriptedModelServer) -> None:
    server.play(ScriptedTurn(text="unused"))
    with pytest.raises(AssertionError, match="unused turn"):
        server.check()


async def test_requests_are_recorded_in_order(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    server.play(ScriptedTurn(text="a"), ScriptedTurn(text="b"))
    await chunks(client, temperature=0)
    await chunks(client, temperature=1)
    assert [request["temperature"] for request in server.requests] == [0, 1]


async def test_interrupted_turn_is_continued_after_the_clients_text(
    server: ScriptedModelServer, client: AsyncOpenAI
) -> None:
    server.play(ScriptedTurn(text="하나 둘 셋 넷"), ScriptedTurn(text="something else"))
    messages: list[Any] = [
        *MESSAGES,
        {"role": "assistant", "content": "하나 둘"},
        {"role": "user", "content": "Your previous answer was cut off. Continue it from exactly where it stops."},
    ]
    answers = [await client.chat.completions.create(model="m", messages=messages) for _ in range(2)]
    assert [answer.choices[0].message.content for answer in answers] == [" 셋 넷", "something else"]


async def test_malformed_request_is_answered_with_400(server: ScriptedModelServer, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.post("/chat/completions", body={"messages": "none"}, cast_to=object)
    assert server.requests == []
