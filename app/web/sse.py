"""Server-sent event streams: frames with ids, heartbeats, the end of a stream (§2). One frame is one write.

Every write contains the characters `id:`, because the gateway inserts an id of its own before any other buffer (§2.1).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextvars import Context
from itertools import takewhile
from typing import Protocol, Self

import structlog
from structlog.contextvars import get_contextvars

from app.errors import RunLost
from app.ports.identity import Principal
from app.ports.journal import LogEntry, RunReader, Tail
from app.ports.quotas import StreamQuota
from app.web.results import AnswerReader
from app.web.stream_frames import EventLogLost, encode_frame, error_frames
from statemachine.event_names import EventNames, Naming
from statemachine.frames import DONE_BODY, Shape

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": keep-alive id:\n\n"
RECONNECT_NOTICE = b": shutting down id:\nretry: 1000\n\n"
STALL_SECONDS = 60.0
"""For how long a client may take nothing of what waits for it."""
_MAX_TICK_SECONDS = 0.25
"""The longest interval of the heartbeat timer."""
_MIN_TICKS_PER_HEARTBEAT = 10
"""The timer runs at least this often in one heartbeat interval, so it ticks faster for short intervals."""
_IDENTITY = frozenset({"traceId", "tenantId", "nodeId"})
"""What each log line of a stream has, besides the run (§8)."""

log = structlog.get_logger(__name__)


CLIENT_WRITER = "aura.client_writer"
"""The key in ASGI `scope["state"]` under which a server may provide its `ClientWriter`."""


class ClientWriter(Protocol):
    """Writes the bytes of a response body to one client."""

    @property
    def is_writable(self) -> bool:
        """Whether the send buffer has room. Bytes that are written without room are buffered in memory."""
        ...

    @property
    def is_gone(self) -> bool:
        """Whether the client is known to have disconnected."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """The bytes that were written and that the client's machine has not acknowledged."""
        ...

    @property
    def taken_bytes(self) -> int:
        """A number that grows with the bytes that the client's machine has acknowledged.

        Each write with TLS lowers it a little: what is sent is longer than what is written.
        """
        ...

    def write(self, data: bytes) -> None:
        """Write all bytes without blocking. Does nothing after the client has disconnected."""
        ...

    def abort(self) -> None:
        """End the connection at once, and drop what waits in the send buffer."""
        ...

    async def drain(self) -> None:
        """Return when the send buffer has room again, or when the client has disconnected."""
        ...


class StreamSlot:
    """The right to open one stream, within the quota of its user. Leaving its context with an error releases it."""

    __slots__ = ("_owner", "_quota")

    def __init__(self, quota: StreamQuota | None, owner: Principal) -> None:
        self._quota = quota
        self._owner = owner.tenant_id, owner.user_id

    def release(self) -> None:
        """Count the stream no longer; a no-op after the first time."""
        quota, self._quota = self._quota, None
        if quota is not None:
            quota.close(*self._owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.release()


class EventStreams:
    """The open streams of this process, and the one timer that sends all their heartbeats."""

    def __init__(
        self,
        journal: RunReader,
        shape: Shape,
        *,
        heartbeat_seconds: float,
        quota: StreamQuota | None = None,
        names: EventNames = "aura",
    ) -> None:
        """Without a quota a user may have any number of streams. A reader that asks for no `names` gets these."""
        self.names: EventNames = names
        self._journal = journal
        self._quota = quota
        self._shape = shape
        self._tick_seconds = min(_MAX_TICK_SECONDS, heartbeat_seconds / _MIN_TICKS_PER_HEARTBEAT)
        self._silence_seconds = heartbeat_seconds - self._tick_seconds
        self._written_at: OrderedDict[EventStream, float] = OrderedDict()  # the longest silence first
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # the timer serves all streams: its log lines have no other request's identity

    def __len__(self) -> int:
        """The number of open streams."""
        return len(self._written_at)

    async def reserve(self, principal: Principal) -> StreamSlot:
        """Return the right to open a stream for this caller. Raises `QuotaExceeded`, `StorageUnavailable`."""
        if self._quota is not None:
            await self._quota.open(principal.tenant_id, principal.user_id)
        return StreamSlot(self._quota, principal)

    def open(
        self, session_id: str, after: int, slot: StreamSlot | None = None, naming: Naming | None = None
    ) -> EventStream:
        """Create a stream of the run's events with ids greater than `after`. It reads nothing before `begin`."""
        return EventStream(self, self._journal, session_id, after, self._shape, slot, naming or Naming(self.names))

    def mark_written(self, stream: EventStream) -> None:
        """Record that the stream has just written bytes; its next heartbeat is due one interval later."""
        loop = asyncio.get_running_loop()
        self._written_at[stream] = loop.time()
        self._written_at.move_to_end(stream)
        if self._timer is None:
            self._timer = loop.call_later(self._tick_seconds, self._send_heartbeats, context=self._context)

    def remove(self, stream: EventStream) -> None:
        """Send no more heartbeats to this stream."""
        self._written_at.pop(stream, None)

    def _send_heartbeats(self) -> None:
        """Send the heartbeats that fall due before the next tick.

        They are sent as one batch, because consecutive writes cost a sixth of single ones.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() - self._silence_seconds
        self._timer = (
            loop.call_later(self._tick_seconds, self._send_heartbeats, context=self._context)
            if self._written_at
            else None
        )
        for stream, _ in list(takewhile(lambda item: item[1] <= until, self._written_at.items())):
            stream.send_heartbeat()


class EventStream:
    """One open stream: sends a run's log up to the end marker, or up to a reconnect notice when the process shuts down.

    Buffered entries are written synchronously in `wake`. A task exists only while the stream must wait: for the log in
    storage, for room in the client's send buffer, or for the end of the response.
    """

    __slots__ = (
        "_answer",
        "_end_body",
        "_flush_task",
        "_is_ended",
        "_journal",
        "_last_id",
        "_logged",
        "_may_have_more",
        "_naming",
        "_pending_entries",
        "_session_id",
        "_shape",
        "_slot",
        "_stall",
        "_streams",
        "_tail",
        "_writer",
    )

    def __init__(
        self,
        streams: EventStreams,
        journal: RunReader,
        session_id: str,
        after: int,
        shape: Shape,
        slot: StreamSlot | None,
        naming: Naming,
    ) -> None:
        self._streams = streams
        self._naming = naming
        self._logged = {name: value for name, value in get_contextvars().items() if name in _IDENTITY}
        self._slot = slot
        self._journal = journal
        self._session_id = session_id
        self._last_id = after
        self._answer = AnswerReader(journal, session_id, from_start=after == 0)
        self._shape = shape
        self._pending_entries: list[LogEntry] = []  # in reverse: the next one is the last
        self._flush_task: asyncio.Task[None] | None = None
        self._may_have_more = self._is_ended = False
        self._stall: tuple[int, float] | None = None  # `taken_bytes`, and since when it has been that
        self._tail: Tail
        self._writer: ClientWriter
        self._end_body: Callable[[], Awaitable[None]]

    @property
    def is_waiting(self) -> bool:
        """Whether a task of this stream waits for storage, for the client or for the end of the response."""
        return self._flush_task is not None

    def begin(self, writer: ClientWriter, end_body: Callable[[], Awaitable[None]]) -> None:
        """Start sending. `end_body` ends the response body."""
        self._writer, self._end_body = writer, end_body
        self._tail = self._journal.tail(self._session_id, self._last_id, self.wake)
        self._streams.mark_written(self)
        self.wake()

    def discard(self) -> None:
        """Release the place of a stream that has ended, or that never began because the client disconnected."""
        if self._slot is not None:
            self._slot.release()

    def close(self) -> None:
        """Stop reading the log: the client has disconnected or has received everything."""
        self.discard()
        self._tail.close()
        self._streams.remove(self)
        if self._flush_task is not None and not self._is_ended:  # `_end`, once started, also closes the connection
            self._flush_task.cancel()
        self._is_ended = True

    def wake(self) -> None:
        """Send new entries if there are any. The log calls this after each commit."""
        self._may_have_more = True
        self._flush()

    def send_heartbeat(self) -> None:
        """Send a heartbeat, unless the send buffer of the client has no room.

        A disconnected client is detected here: a server that has already received the client's next request stops
        reading from the connection, so it does not notice the disconnect. So is one that takes nothing any more: its
        connection ends, and the run goes on.
        """
        if self._is_ended:
            return
        if self._writer.is_gone:
            if self._flush_task is None:
                self._flush_task = asyncio.create_task(self._wait_and_flush(self._end))
        elif self._has_stalled():
            log.info(
                "stream.stalled", sessionId=self._session_id, **self._logged, waitingBytes=self._writer.waiting_bytes
            )
            self._writer.abort()
        elif self._writer.is_writable:
            self._write(HEARTBEAT)
            self._flush()

    def _has_stalled(self) -> bool:
        """Whether bytes wait for the client, and it has taken none of them for `STALL_SECONDS`."""
        if not self._writer.waiting_bytes:
            self._stall = None
            return False
        taken, now = self._writer.taken_bytes, asyncio.get_running_loop().time()
        if self._stall is None or self._stall[0] < taken:
            self._stall = (taken, now)
        return now - self._stall[1] >= STALL_SECONDS

    def _flush(self) -> None:
        """Write what is available and start a task for the rest. Raises nothing: the caller may be a run's commit."""
        if self._flush_task is not None or self._is_ended:
            return
        try:
            wait = self._write_available()
        except Exception:
            log.exception("stream.failed", sessionId=self._session_id, **self._logged)
            wait = self._end
        if wait is not None:
            self._flush_task = asyncio.create_task(self._wait_and_flush(wait))

    def _write_available(self) -> Callable[[], Awaitable[None]] | None:
        """Write the available entries. Returns what must be awaited before more can be written; None: nothing."""
        while self._writer.is_writable:
            if self._pending_entries:
                entry = self._pending_entries[-1]
                body = self._answer.complete(entry.body)
                if body is None:
                    return self._answer.fetch
                self._pending_entries.pop()
                body = self._naming.apply(body)
                if body is not None:
                    self._write(encode_frame(LogEntry(entry.id, body)))
                self._last_id = entry.id
                if entry.body == DONE_BODY:
                    return self._end
            elif self._may_have_more:
                entries = self._tail.buffered()
                if entries is None:
                    return self._fetch
                self._pending_entries, self._may_have_more = entries[::-1], bool(entries)
            elif self._tail.is_draining:
                return self._send_reconnect_notice
            else:
                return None
        return self._writer.drain

    def _write(self, data: bytes) -> None:
        self._writer.write(data)
        self._streams.mark_written(self)

    async def _wait_and_flush(self, wait: Callable[[], Awaitable[None]] | None) -> None:
        """Await and write in turn until nothing is left to await.

        Nothing is written after the end: the connection may carry another response by then.
        """
        try:
            while wait is not None:
                await wait()
                wait = None if self._is_ended else self._write_available()
        except RunLost as error:
            log.warning("stream.log_lost", sessionId=self._session_id, **self._logged, cause=error.log_cause)
            lost = EventLogLost("the run's data is gone from Redis")
            for data in error_frames(lost, self._session_id, self._last_id + 1, self._shape, self._naming):
                self._write(data)
            await self._end()
        except Exception:  # without an end marker, so the client reconnects
            log.exception("stream.failed", sessionId=self._session_id, **self._logged)
            await self._end()
        finally:
            self._flush_task = None

    async def _fetch(self) -> None:
        self._may_have_more = False
        self._pending_entries = (await self._tail.fetch())[::-1]
        self._may_have_more = self._may_have_more or bool(self._pending_entries)  # storage may hold a further page

    async def _send_reconnect_notice(self) -> None:
        self._write(RECONNECT_NOTICE)
        await self._end()

    async def _end(self) -> None:
        self._is_ended = True
        self._streams.remove(self)
        await self._writer.drain()
        await self._end_body()
