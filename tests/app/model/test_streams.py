"""Streams as model servers send them: other spellings, malformed ones, invalid HTTP."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.dev.demo.http import HttpServer, Request, Response
from app.errors import ModelError
from app.model.chat import OpenAIModel
from app.settings import Settings
from tests.harness.frames import check
from tests.harness.outcomes import KEY, completed, failed
from tests.harness.service import running

MakeSettings = Callable[..., Settings]


@pytest.fixture(name="serve")
async def _serve() -> AsyncIterator[Callable[..., Any]]:
    """A server that answers each request with these bytes."""
    servers: list[HttpServer] = []

    async def serve(*pieces: bytes, content_type: str = "text/event-stream") -> str:
        async def handle(_: Request, answering: Response) -> None:
            await answering.begin(content_type)
            for piece in pieces:
                await answering.write(piece)
            await answering.end()

        servers.append(await HttpServer(handle).start())
        return f"{servers[-1].origin}/v1"

    yield serve
    for server in servers:
        await server.stop()


def chunk(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


STOP = chunk(delta={}, finish_reason="stop")


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([chunk(delta={"content": "네."}), STOP], id="no [DONE]"),
        pytest.param(
            [chunk(delta={"content": "네."}).replace(b"\n", b"\r\n"), STOP, b"data: [DONE]\r\n\r\n"], id="CRLF"
        ),
        pytest.param([b": ping\n\n", b"event: x\n", chunk(delta={"content": "네."}), STOP], id="comments"),
        pytest.param([chunk(delta={"content": "네."})[:20], chunk(delta={"content": "네."})[20:], STOP], id="torn"),
        pytest.param([chunk(delta={"content": "네."}) + STOP[:-2]], id="no newline at the end"),
        pytest.param(
            [chunk(delta={"role": "assistant"}), chunk(delta=None), chunk(delta={"content": "네."}), STOP], id="nulls"
        ),
        pytest.param([chunk(delta={"content": "네."}, finish_reason="stop")], id="all in one"),
    ],
)
async def test_streams_in_other_valid_formats_are_parsed(
    settings: MakeSettings, serve: Callable[..., Any], pieces: list[bytes]
) -> None:
    async with running(settings(openai_base_url=await serve(*pieces))) as aura, aura.stream("질문") as stream:
        completed(await stream.rest(), "네.")


@pytest.mark.parametrize(
    "spelled", [b'"12", "completion_tokens": 3.0', b'12, "completion_tokens": 3, "total_tokens": 0']
)
async def test_tokens_are_counted_however_the_server_spells_them(
    settings: MakeSettings, serve: Callable[..., Any], spelled: bytes
) -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": %b}}\n\n' % spelled
    pieces = (chunk(delta={"content": "네."}), STOP, usage)
    async with running(settings(openai_base_url=await serve(*pieces))) as aura, aura.stream("질문") as stream:
        frames = await stream.rest()
    assert frames[-2]["usage"] == {"promptTokens": 12, "completionTokens": 3, "totalTokens": 15}


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"<html>login</html>"], id="HTML"),
        pytest.param([], id="nothing"),
        pytest.param([b"data: [1]\n\n"], id="a list"),
        pytest.param([b'data: {"choices": [5]}\n\n'], id="a number for a choice"),
        pytest.param([b'data: {"choices": [{"delta": {"content": {"a": 1}}}]}\n\n'], id="an object for text"),
        pytest.param([b'data: {"choices": [{"delta": {"tool_calls": [5]}}]}\n\n'], id="a number for a call"),
        pytest.param([b"data: " + b"[" * 100_000 + b"\n\n"], id="deep"),
        pytest.param(
            [b'data: {"choices": [{"delta": {"content": 5}, "finish_reason": "stop"}]}\n\n'], id="a number for text"
        ),
        pytest.param([b'data: {"error": "boom"}\n\n'], id="an error that is text"),
        pytest.param([b'data: {"error": {"message": "\\ud800"}}\n\n'], id="an error with half a character"),
        pytest.param([b'data: {"usage": {"prompt_tokens": [1]}}\n\n'], id="a list for a count"),
    ],
)
async def test_malformed_streams_are_model_errors(
    settings: MakeSettings, serve: Callable[..., Any], pieces: list[bytes]
) -> None:
    made = settings(openai_base_url=await serve(*pieces), aura_model_attempts=1)
    async with running(made) as aura, aura.stream("질문") as stream, asyncio.timeout(30):
        frames = await stream.rest()
    check(frames)
    failed(frames, "ModelError", "E5000", retryable=True)


# --- a connection that breaks -----------------------------------------------------------------------------------------

MESSAGES = [{"role": "user", "content": "질문"}]


@asynccontextmanager
async def model_on(
    respond: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[OpenAIModel]:
    """A model client; `respond` writes the response to the first request of each connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        await respond(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    model = OpenAIModel("scripted", api_key=KEY, base_url=url, timeout_seconds=60)
    try:
        async with asyncio.timeout(30):
            yield model
    finally:
        await model.close()
        server.close()


async def test_invalid_http_inside_a_response_breaks_it_at_once() -> None:
    is_read = asyncio.Event()

    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        piece = chunk(delta={"content": "네."})
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(piece), piece))
        await is_read.wait()
        writer.write(b"no length of a chunk\r\n")

    async with model_on(respond) as model, model.stream(MESSAGES, []) as deltas:
        assert (await anext(deltas)).text == "네."
        is_read.set()
        with pytest.raises(ModelError) as broken:
            await anext(deltas)
    assert broken.value.kind == "interrupted"


async def test_closing_the_model_during_a_response_leaves_no_connection() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = STOP + b"data: [DONE]\n\n"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + lines)
        assert await reader.read() == b""

    async with model_on(respond) as model:
        async with model.stream(MESSAGES, []) as deltas:
            async for _ in deltas:
                pass
        await asyncio.sleep(0)
        await model.close()
    gc.collect()
    assert reported == []
