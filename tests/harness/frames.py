"""Reads a stream as a strict client: frames, their ids, their JSON, the end of the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx2

from tests.harness.conformity import check_event

DONE = "[DONE]"


@dataclass(frozen=True)
class Frame:
    """One server-sent event; `data` is its parsed JSON, {} for `[DONE]` and for comments."""

    raw: str
    id: int | None = None
    type: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    is_done: bool = False

    def __getitem__(self, name: str) -> Any:
        return self.data[name]


def parse_frame(raw: str) -> Frame:
    """Parse one frame without its blank line."""
    id: int | None = None
    type, is_done = "", False
    data: dict[str, Any] = {}
    for line in raw.split("\n"):
        name, _, value = line.partition(": ")
        if name == "id":
            id = int(value)
        elif name == "event":
            type = value
        elif name == "data":
            is_done = value == DONE
            data = {} if is_done else json.loads(value)
    return Frame(raw, id, type, data, is_done)


_EVENT_SECONDS = 180.0


class StreamReader:
    """Reads the frames of one response; `seen` holds those that were read so far."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.seen: list[Frame] = []
        self.comments = 0
        self.last: Frame | None = None
        """The last frame of any kind, also a comment."""
        self._frames = self._read()

    async def _read(self) -> AsyncIterator[Frame]:
        buffer = b""
        async for chunk in self.response.aiter_raw():
            buffer += chunk
            while b"\n\n" in buffer:
                raw, _, buffer = buffer.partition(b"\n\n")
                yield parse_frame(raw.decode())
        assert buffer == b"", f"the stream ended inside a frame: {buffer!r}"

    async def next(self) -> Frame:
        """Return the next event frame, without comments. Raises `StopAsyncIteration` at the end of the stream.

        Raises `TimeoutError` after `_EVENT_SECONDS`: heartbeats alone would keep a failed test waiting for ever.
        """
        async with asyncio.timeout(_EVENT_SECONDS):
            while True:
                frame = await self.any()
                if frame.id is not None:
                    return frame

    async def any(self) -> Frame:
        """Return the next frame of any kind. Raises `StopAsyncIteration` at the end of the stream."""
        self.last = frame = await anext(self._frames)
        if frame.id is None:
            self.comments += 1
        else:
            self.seen.append(frame)
        return frame

    async def until(self, type: str, accept: Callable[[Frame], bool] = lambda _: True) -> Frame:
        """Read up to the next frame of this type that `accept` accepts, and return it."""
        while True:
            frame = await self.next()
            if frame.type == type and accept(frame):
                return frame

    async def rest(self) -> list[Frame]:
        """Read to the end of the stream and return all frames of the response."""
        while True:
            try:
                await self.next()
            except StopAsyncIteration:
                return self.seen


def types(frames: Sequence[Frame]) -> list[str]:
    """Return the event types, with `[DONE]` for the end marker."""
    return [DONE if frame.is_done else frame.type for frame in frames]


def answer(frames: Sequence[Frame]) -> str:
    """Return the answer as a client that appends the content events shows it."""
    return "".join(frame["content"] for frame in frames if frame.type == "content")


def check(frames: Sequence[Frame]) -> None:
    """Check what holds for every complete stream (§2, §3): rising ids, one `end`, `[DONE]` last, equal shapes."""
    ids = [frame.id for frame in frames]
    assert all(later > earlier for earlier, later in pairwise(ids)), ids  # type: ignore[operator]
    assert types(frames).count("end") == 1
    assert types(frames)[-2:] == ["end", DONE]
    for frame in frames[:-1]:
        assert frame["type"] == frame.type
        assert frame["version"] == "1.0"
        check_event(frame.data)
        for name, value in frame["data"].items():
            assert frame.data[name] == value, (frame.type, name)
