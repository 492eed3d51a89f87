"""The model of the benchmarks: a separate process that sends prepared bytes, so that it is never the bottleneck.

The prompt determines the response: `bench chat 200 10` (200 tokens at intervals of 10 ms), `bench pages 200 2` (200
texts at intervals of 2 ms, each of which nearly fills a frame), `bench tools 5 20` (5 calls, one per turn, then 20
tokens), `bench together 5 20` (5 calls in one turn), `bench approval 1 20` (one call that needs an approval).
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import cast

import uvloop

TOOL = "get_current_time"
_PROMPT = re.compile(rb"bench (\w+) (\d+) ([\d.]+)")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_LAST = b"0\r\n\r\n"


def token(index: int) -> str:
    return f"토큰{index} " if index % 4 else f"word{index} "


def page(index: int) -> str:
    """A text that nearly fills a frame, which has room for 145 of these characters (12 bytes each, as JSON twice)."""
    return f"{index:05}" + "\x01" * 90


@cache
def expected_answer(prompt: str) -> str:
    """The complete answer to a prompt."""
    match = _PROMPT.search(prompt.encode())
    assert match, "the prompt is unknown"
    kind, count = match[1].decode(), int(match[2] if match[1] in (b"chat", b"pages") else match[3])
    return "".join(map(_text_source(kind), range(count)))


def _text_source(kind: str) -> Callable[[int], str]:
    return page if kind == "pages" else token


def _event(delta: dict[str, object], finish: str | None = None) -> bytes:
    """One server-sent event with all fields that a real server sends, as one HTTP chunk."""
    body = {
        "id": "chatcmpl-CbenchbenchbenchbenchbenchB",
        "object": "chat.completion.chunk",
        "created": 1767225600,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        "usage": None,
    }
    return _chunk(b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _final_events(finish: str) -> bytes:
    counts = {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}
    usage = {"id": "chatcmpl-x", "object": "chat.completion.chunk", "choices": [], "usage": counts}
    return b"".join(
        [_event({}, finish), _chunk(b"data: " + json.dumps(usage).encode() + b"\n\n"), _chunk(b"data: [DONE]\n\n")]
    )


@cache
def _text_events(kind: str, tokens: int) -> tuple[bytes, ...]:
    first, text = _event({"role": "assistant", "content": "", "refusal": None}), _text_source(kind)
    return (first, *(_event({"content": text(index)}) for index in range(tokens)))


@cache
def _complete_answer(tokens: int) -> bytes:
    return b"".join((_HEAD, *_text_events("chat", tokens), _final_events("stop"), _LAST))


@cache
def _tool_calls(first: int, count: int) -> bytes:
    events = [_HEAD]
    for index in range(count):
        function = {"name": TOOL, "arguments": ""}
        call = {"index": index, "id": f"call_{first + index}", "type": "function", "function": function}
        events.append(_event({"role": "assistant", "content": None, "tool_calls": [call]}))
        events += [
            _event({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
            for text in ('{"timezone"', ':"Asia/', 'Seoul"}')
        ]
    return b"".join((*events, _final_events("tool_calls"), _LAST))


class _Connection(asyncio.Protocol):
    """One connection from the service."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, if not by descent

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(body) < int(length[1]):
            return
        self._buffer = b""
        match = _PROMPT.search(body)
        assert match, "the prompt is unknown"
        self._respond(match[1].decode(), int(match[2]), match[3].decode(), results=body.count(b'"tool_call_id"'))

    def _respond(self, kind: str, count: int, more: str, *, results: int) -> None:
        if kind in ("chat", "pages") and float(more):
            self._send_paced(iter((*_text_events(kind, count), _final_events("stop") + _LAST)), float(more) / 1000)
        elif kind == "chat":
            self._write(_complete_answer(count))
        elif results >= count:
            self._write(_complete_answer(int(more)))
        else:
            self._write(_tool_calls(results, count if kind == "together" else 1))

    def _send_paced(self, events: Iterator[bytes], pace_seconds: float) -> None:
        self._write(_HEAD)
        loop = asyncio.get_running_loop()
        started, sent = loop.time(), 0

        def send() -> None:
            nonlocal sent
            event = next(events, None)
            if event is not None and self._transport is not None:
                self._write(event)
                sent += 1
                loop.call_at(started + sent * pace_seconds, send)

        send()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    closed = asyncio.Event()

    def watch() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=watch, daemon=True).start()
    await closed.wait()


if __name__ == "__main__":
    uvloop.run(_serve())
