"""The bytes of a stream: frames with their ids, heartbeats, ends (§2). One frame is one write.

Nothing is written without the characters `id:` in it: the gateway puts an id of its own before any other buffer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from itertools import takewhile
from typing import Protocol

import structlog

from app.errors import AuraError, RunLost
from app.ports.journal import Journal, LogEntry, Tail
from statemachine.events import End, ErrorRaised
from statemachine.frames import DONE_BODY, Shape, encode

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": keep-alive id:\n\n"
RECONNECT_NOTICE = b": shutting down id:\nretry: 1000\n\n"
_BEAT_SECONDS, _BEATS = 0.25, 10
"""Heartbeats go out so often, or, where the silence allowed is short, ten times in it."""

log = structlog.get_logger(__name__)


def frame(entry: LogEntry) -> bytes:
    return b"id: %d\n" % entry.id + entry.body


CLIENT_WRITER = "aura.line"
"""The key in ASGI `scope["state"]` under which a server offers its `ClientWriter`, where it has one."""


class ClientWriter(Protocol):
    """The way to one client, for the bytes of a body."""

    @property
    def is_writable(self) -> bool:
        """Whether the client takes what is written; else it is kept for him in memory."""
        ...

    @property
    def is_gone(self) -> bool:
        """Whether nobody hears what is written."""
        ...

    def write(self, data: bytes) -> None:
        """At once and whole; nothing where the client is gone."""
        ...

    async def drain(self) -> None:
        """Back when there is room, or nobody who would need it."""
        ...


class EventStreams:
    """The open streams of this process, and one timer for the heartbeats of them all."""

    def __init__(self, journal: Journal, shape: Shape, *, heartbeat_seconds: float) -> None:
        self._journal = journal
        self._shape = shape
        self._beat_seconds = heartbeat_seconds / _BEATS if heartbeat_seconds < _BEATS * _BEAT_SECONDS else _BEAT_SECONDS
        self._silence_seconds = heartbeat_seconds - self._beat_seconds
        self._heard_at: OrderedDict[EventStream, float] = OrderedDict()  # the longest silent first
        self._timer: asyncio.TimerHandle | None = None

    def open(self, session_id: str, after: int) -> EventStream:
        """The stream of a run from the event after that id on; nothing is read before it begins."""
        return EventStream(self, self._journal, session_id, after, self._shape)

    def heard(self, stream: EventStream) -> None:
        """Its silence begins."""
        loop = asyncio.get_running_loop()
        self._heard_at[stream] = loop.time()
        self._heard_at.move_to_end(stream)
        if self._timer is None:
            self._timer = loop.call_later(self._beat_seconds, self._beat)

    @property
    def open_count(self) -> int:
        """How many streams are open."""
        return len(self._heard_at)

    def forget(self, stream: EventStream) -> None:
        self._heard_at.pop(stream, None)

    def _beat(self) -> None:
        """Those whose time comes before the next beat go together: a write whose reader is awake costs a sixth."""
        loop = asyncio.get_running_loop()
        until = loop.time() - self._silence_seconds
        self._timer = loop.call_later(self._beat_seconds, self._beat) if self._heard_at else None
        for stream, _ in list(takewhile(lambda heard: heard[1] <= until, self._heard_at.items())):
            stream.beat()


class EventStream:
    """One open stream: a run's log as it is read, up to the end marker, or to the word to come back where the process
    leaves.

    What is at hand is told in the moment of the news; a task there is only while something must be waited for: the log
    in storage, room at the client, the end.
    """

    __slots__ = (
        "_flow",
        "_hang_up",
        "_has_news",
        "_is_ended",
        "_journal",
        "_last_id",
        "_line",
        "_session_id",
        "_shape",
        "_streams",
        "_tail",
        "_untold",
    )

    def __init__(self, streams: EventStreams, journal: Journal, session_id: str, after: int, shape: Shape) -> None:
        self._streams = streams
        self._journal = journal
        self._session_id = session_id
        self._last_id = after
        self._shape = shape
        self._untold: list[LogEntry] = []  # the next one last
        self._flow: asyncio.Task[None] | None = None
        self._has_news = self._is_ended = False
        self._tail: Tail
        self._line: ClientWriter
        self._hang_up: Callable[[], Awaitable[None]]

    def begin(self, line: ClientWriter, hang_up: Callable[[], Awaitable[None]]) -> None:
        """`hang_up` ends the body."""
        self._line, self._hang_up = line, hang_up
        self._tail = self._journal.tail(self._session_id, self._last_id, self.wake)
        self._streams.heard(self)
        self.wake()

    def leave(self) -> None:
        """The client is gone, or has all of it."""
        self._tail.close()
        self._streams.forget(self)
        if self._flow is not None and not self._is_ended:  # the end, once begun, is the connection's as well
            self._flow.cancel()
        self._is_ended = True

    def wake(self) -> None:
        """There may be news."""
        self._has_news = True
        self._go_on()

    def beat(self) -> None:
        """Say something, where there is nothing to say. A client without room has enough to read.

        A server that has the client's next request before it reads on has not heard that he is gone.
        """
        if self._is_ended:
            return
        if self._line.is_gone:
            if self._flow is None:
                self._flow = asyncio.create_task(self._overcome(self._end))
        elif self._line.is_writable:
            self._say(HEARTBEAT)
            self._go_on()

    def _go_on(self) -> None:
        """Raises nothing: whoever has the news is not to blame for one who hears of it."""
        if self._flow is not None or self._is_ended:
            return
        try:
            obstacle = self._tell()
        except Exception:
            log.exception("stream.broke", sessionId=self._session_id)
            obstacle = self._end
        if obstacle is not None:
            self._flow = asyncio.create_task(self._overcome(obstacle))

    def _tell(self) -> Callable[[], Awaitable[None]] | None:
        """Tell what is at hand; what has to be waited for before there is more to tell."""
        while self._line.is_writable:
            if self._untold:
                entry = self._untold.pop()
                self._say(frame(entry))
                self._last_id = entry.id
                if entry.body == DONE_BODY:
                    return self._end
            elif self._has_news:
                entries = self._tail.buffered()
                if entries is None:
                    return self._look
                self._untold, self._has_news = entries[::-1], bool(entries)
            elif self._tail.is_draining:
                return self._come_back
            else:
                return None
        return self._line.drain

    def _say(self, data: bytes) -> None:
        self._line.write(data)
        self._streams.heard(self)

    async def _overcome(self, obstacle: Callable[[], Awaitable[None]] | None) -> None:
        """What came up meanwhile is told, too, but nothing after the end: the connection may be another's by then."""
        try:
            while obstacle is not None:
                await obstacle()
                obstacle = None if self._is_ended else self._tell()
        except RunLost as error:
            log.warning("stream.lost", sessionId=self._session_id, cause=error.cause)
            lost = StreamLost("the run's data is gone from Redis")
            for data in refusal(lost, self._session_id, self._last_id + 1, self._shape):
                self._say(data)
            await self._end()
        except Exception:  # a stream that ends without its end marker is come back to
            log.exception("stream.broke", sessionId=self._session_id)
            await self._end()
        finally:
            self._flow = None

    async def _look(self) -> None:
        self._has_news = False
        self._untold = (await self._tail.fetch())[::-1]
        self._has_news = self._has_news or bool(self._untold)  # there may be more of it

    async def _come_back(self) -> None:
        self._say(RECONNECT_NOTICE)
        await self._end()

    async def _end(self) -> None:
        self._is_ended = True
        self._streams.forget(self)
        await self._line.drain()
        await self._hang_up()


class StreamLost(AuraError):
    """The log of a run vanished under its reader (Redis lost its data)."""

    status, code, error_type, retryable = 503, "E5002", "StorageUnavailable", True
    prefix = "실행 기록을 찾을 수 없습니다."


class ResumeExpired(AuraError):
    """There is no run to resume; posting without `Last-Event-ID` starts one (§3)."""

    status, code, error_type, retryable = 200, "E1004", "ResumeExpired", True
    prefix = "이어받을 실행을 찾을 수 없습니다."


def refusal(error: AuraError, session_id: str, first_id: int, shape: Shape) -> list[bytes]:
    """The frames of a stream that ends before, or instead of, its run: `error`, `end`, `[DONE]` (§1.4, §2.3)."""
    timestamp = first_id // 1000
    raised = ErrorRaised(
        message=error.message, error_type=error.error_type, error_code=error.code, retryable=error.retryable
    )
    bodies = [
        *encode(raised, session_id, timestamp, shape),
        *encode(End(message=error.message, status="failed"), session_id, timestamp, shape),
        DONE_BODY,
    ]
    return [frame(LogEntry(first_id + i, body)) for i, body in enumerate(bodies)]
