"""The bytes of a stream: frames with their ids, heartbeats, ends (§2). One frame is one write.

Nothing is written without the characters `id:` in it: the gateway puts an id of its own before any other buffer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from itertools import takewhile

import structlog

from app.errors import AuraError, RunLost
from app.ports import Entry, Journal, Tail
from statemachine.events import End, ErrorRaised
from statemachine.frames import DONE_BODY, Shape, encode

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": keep-alive id:\n\n"
COME_BACK = b": shutting down id:\nretry: 1000\n\n"
_BEAT_SECONDS, _BEATS = 0.25, 10
"""Heartbeats go out so often, or, where the silence allowed is short, ten times in it."""

log = structlog.get_logger(__name__)


def frame(entry: Entry) -> bytes:
    return b"id: %d\n" % entry.id + entry.body


Write = Callable[[bytes, bool], Awaitable[None]]
"""Takes bytes, and whether they are the last; back when the client has room for more."""


class Streams:
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

    def forget(self, stream: EventStream) -> None:
        self._heard_at.pop(stream, None)

    def _beat(self) -> None:
        """Those whose time comes before the next beat go together: a write whose reader is awake costs a sixth."""
        now = asyncio.get_running_loop().time()
        for stream in list(takewhile(lambda each: self._heard_at[each] <= now - self._silence_seconds, self._heard_at)):
            self.heard(stream)
            stream.beat()
        self._timer = asyncio.get_running_loop().call_later(self._beat_seconds, self._beat) if self._heard_at else None


class EventStream:
    """One open stream: a run's log as it is read, up to the end marker, or to the word to come back where the process
    leaves. While the run is silent it has neither a task nor a timer."""

    __slots__ = (
        "_flow",
        "_has_news",
        "_is_beat_due",
        "_is_ended",
        "_journal",
        "_last_id",
        "_session_id",
        "_shape",
        "_streams",
        "_tail",
        "_write",
    )

    def __init__(self, streams: Streams, journal: Journal, session_id: str, after: int, shape: Shape) -> None:
        self._streams = streams
        self._journal = journal
        self._session_id = session_id
        self._last_id = after
        self._shape = shape
        self._flow: asyncio.Task[None] | None = None
        self._has_news = self._is_beat_due = self._is_ended = False
        self._tail: Tail
        self._write: Write

    def begin(self, write: Write) -> None:
        self._write = write
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
        self._has_news = True
        if self._flow is None and not self._is_ended:
            self._flow = asyncio.create_task(self._tell())

    def beat(self) -> None:
        """Say something, where there is nothing to say."""
        self._is_beat_due = True
        self.wake()

    async def _tell(self) -> None:
        try:
            while self._has_news and not self._is_ended:
                self._has_news = False
                await self._tell_news()
        except RunLost as error:
            log.warning("stream.lost", sessionId=self._session_id, cause=error.cause)
            lost = StreamLost("the run's data is gone from Redis")
            for body in refusal(lost, self._session_id, self._last_id + 1, self._shape):
                await self._write(body, False)
            await self._end()
        except Exception:  # a stream that ends without its end marker is come back to
            log.exception("stream.broke", sessionId=self._session_id)
            await self._end()
        finally:
            self._flow = None

    async def _tell_news(self) -> None:
        entries = await self._tail.read()
        for entry in entries:
            self._last_id = entry.id
            await self._write(frame(entry), False)
            if entry.body == DONE_BODY:
                await self._end()
                return
        if entries:
            self._has_news = True  # there may be more of it
        elif self._tail.is_over:
            await self._write(COME_BACK, False)
            await self._end()
            return
        elif self._is_beat_due:
            await self._write(HEARTBEAT, False)
        self._is_beat_due = False
        self._streams.heard(self)

    async def _end(self) -> None:
        self._is_ended = True
        self._streams.forget(self)
        await self._write(b"", True)


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
    return [frame(Entry(first_id + i, body)) for i, body in enumerate(bodies)]
