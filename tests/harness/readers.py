"""The platform's three generations of browser readers, each with the rules by which it reads a stream (§2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.harness.frames import Frame, StreamReader

Row = dict[str, Any]


class Reader(Protocol):
    """What a page keeps of a stream. `approval` is the id of the request that it shows, None where it shows none."""

    query: dict[str, str]
    answer: str
    approval: str | None

    def take(self, frame: Frame) -> None: ...


@dataclass
class MiniOverlay:
    """The first one: it reads `data.data || data`, and appends the content of `content` and `message`."""

    query: dict[str, str] = field(default_factory=dict)
    answer: str = ""
    approval: str | None = None
    shown: Row = field(default_factory=dict)

    def take(self, frame: Frame) -> None:
        body = frame.data.get("data") or frame.data
        if frame.data["type"] in ("content", "message"):
            self.answer += body["content"]
        elif frame.data["type"] == "hitl":
            self.approval, self.shown = body["requestId"], body


@dataclass
class AgentHook:
    """The second one: it appends the `content` beside every type but thoughts, and resumes with `Last-Event-ID`."""

    query: dict[str, str] = field(default_factory=dict)
    answer: str = ""
    approval: str | None = None
    last_event_id: int = 0

    def take(self, frame: Frame) -> None:
        assert frame.id is not None
        assert frame.id > self.last_event_id, "an event came twice"
        self.last_event_id = frame.id
        if frame.data["type"] != "thought" and frame.data.get("content"):
            self.answer += frame.data["content"]
        if frame.data["type"] == "hitl":
            self.approval = frame.data["requestId"]


@dataclass
class WorkspacePage:
    """The third one: it takes `event` or `type` as the name, and `data.data || data` as the body.

    Events that it has no name for are unknown to it. Rows are updated by their `id`.
    """

    query: dict[str, str] = field(default_factory=lambda: {"events": "workspace"})
    answer: str = ""
    approval: str | None = None
    requests: dict[str, Row] = field(default_factory=dict)
    thoughts: list[tuple[str, str]] = field(default_factory=list)
    actions: list[Row] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)

    def take(self, frame: Frame) -> None:
        name = frame.data.get("event") or frame.data["type"]
        body = frame.data.get("data") or frame.data
        readers: dict[str, Callable[[Row], None]] = {
            "hitl_request": self._ask,
            "thought_chain": lambda body: self.thoughts.append((body["type"], body["content"])),
            "action_execution": self.actions.append,
            "stream_status": lambda body: self.statuses.append(body["status"]),
            "plan_step": lambda body: self.rows.update({body["id"]: body}),
            "plan_step_update": self._update,
            "timeline_step_update": lambda body: self.rows.update({body["id"]: body}),
            "content": self._append,
            "error": lambda body: self.errors.append(body["message"]),
        }
        reader = readers.get(name)
        if reader is None:
            self.unknown.add(name)
        else:
            reader(body)

    def _ask(self, body: Row) -> None:
        self.approval = body["id"]
        self.requests[body["id"]] = {name: body[name] for name in ("action", "params", "stepId", "message")}

    def _update(self, body: Row) -> None:
        self.rows[body["id"]] = {**self.rows[body["id"]], **body}

    def _append(self, body: Row) -> None:
        self.answer += body["content"]


async def read_until_asked(reader: Reader, stream: StreamReader) -> str:
    """Read until the page shows an approval; returns its id."""
    while reader.approval is None:
        frame = await stream.next()
        assert not frame.is_done, "the page has shown no approval"
        reader.take(frame)
    return reader.approval


async def read_to_the_end(reader: Reader, stream: StreamReader) -> list[Frame]:
    """Read to the end of the stream; returns all frames of the response."""
    seen = len(stream.seen)
    frames = await stream.rest()
    assert frames[-1].is_done
    take_all(reader, frames[seen:-1])
    return frames


def take_all(reader: Reader, frames: Iterable[Frame]) -> None:
    for frame in frames:
        if not frame.is_done:
            reader.take(frame)
