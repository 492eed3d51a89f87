"""Connections to a model server that break or are closed in ways that no stream in `fixtures/model_streams/` plays."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.errors import ModelError
from app.model.chat import OpenAIModel
from tests.harness.outcomes import KEY


def chunk(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


STOP = chunk(delta={}, finish_reason="stop")
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


async def test_request_on_a_connection_that_the_server_closes_is_sent_on_another_one() -> None:
    """llama.cpp promises to keep its connections and closes them after each stream."""
    connections = 0

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        lines = chunk(delta={"content": "네."}) + STOP + b"data: [DONE]\n\n"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(lines) + lines)
        await reader.read(1)  # the first byte of the next request: the connection is closed then

    async with model_on(respond) as model:
        for _ in range(3):
            async with model.stream(MESSAGES, []) as deltas:
                assert "".join([delta.text async for delta in deltas]) == "네."
    assert connections == 3


async def test_request_on_a_new_connection_is_not_repeated() -> None:
    connections = 0

    async def respond(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1

    async with model_on(respond) as model:
        with pytest.raises(ModelError) as broken:
            async with model.stream(MESSAGES, []) as deltas:
                await anext(deltas)
    assert broken.value.kind == "unavailable"
    assert connections == 1
