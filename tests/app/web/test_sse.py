"""An open event stream with a fake log (§2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars, get_contextvars

from app.errors import RunLost
from app.ports.journal import LogEntry
from app.web.sse import HEARTBEAT, RECONNECT_NOTICE, EventStream, EventStreams
from app.web.stream_frames import encode_frame
from statemachine.frames import DONE_BODY
from tests.harness.fake_tail import FakeJournal, FakeTail
from tests.harness.waiting import eventually

HELLO = LogEntry(1_700_000_000_000, b"event: thought\ndata: {}\n\n")
END = LogEntry(1_700_000_000_001, DONE_BODY)


class FakeWriter:
    """Keeps what is written. While `reads` is cleared, its buffer is full after one frame."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_ended = self.is_full = self.is_gone = self.is_aborted = False
        self.taken = 0
        self.reads = asyncio.Event()
        self.reads.set()

    @property
    def is_writable(self) -> bool:
        return self.reads.is_set() or not self.is_full

    @property
    def waiting_bytes(self) -> int:
        return 0 if self.is_writable else 1

    @property
    def taken_bytes(self) -> int:
        return self.taken

    def write(self, data: bytes) -> None:
        assert not self.is_ended
        self.written.append(data)
        self.is_full = True

    def abort(self) -> None:
        self.is_gone = self.is_aborted = True
        self.reads.set()

    async def drain(self) -> None:
        await self.reads.wait()
        self.is_full = False

    async def end(self) -> None:
        self.is_ended = True


def open_stream(heartbeat_seconds: float = 60) -> tuple[EventStream, FakeTail, FakeWriter, EventStreams]:
    journal, writer = FakeJournal(), FakeWriter()
    streams = EventStreams(journal, "both", heartbeat_seconds=heartbeat_seconds)  # type: ignore[arg-type]
    stream = streams.open("session_user1_1_abcd", 0)
    stream.begin(writer, writer.end)
    return stream, journal.tails[0], writer, streams


async def test_buffered_entries_are_written_at_once_and_without_a_task() -> None:
    _, tail, writer, _ = open_stream()
    tail.append([HELLO])
    assert writer.written == [encode_frame(HELLO)]
    assert len(asyncio.all_tasks()) == 1  # the task of the test
    tail.append([END])
    assert writer.written == [encode_frame(HELLO), encode_frame(END)]
    await eventually(lambda: writer.is_ended)


async def test_stream_waits_for_entries_without_a_task() -> None:
    stream, tail, writer, _ = open_stream()
    tail.append([HELLO])
    await eventually(lambda: writer.written == [encode_frame(HELLO)])
    await eventually(lambda: len(asyncio.all_tasks()) == 1)  # the task of the test
    tail.append([END])
    await eventually(lambda: writer.is_ended)
    assert writer.written == [encode_frame(HELLO), encode_frame(END)]
    stream.close()
    assert tail.is_closed


async def test_slow_client_receives_all_entries() -> None:
    _, tail, writer, _ = open_stream()
    writer.reads.clear()
    entries = [LogEntry(HELLO.id + number, HELLO.body) for number in range(5)]
    tail.append(entries[:3])
    tail.append(entries[3:])
    await asyncio.sleep(0)
    assert writer.written == [encode_frame(HELLO)]
    writer.reads.set()
    tail.append([LogEntry(END.id + 9, END.body)])
    await eventually(lambda: writer.is_ended)
    assert writer.written == [encode_frame(entry) for entry in [*entries, LogEntry(END.id + 9, END.body)]]


async def test_nothing_is_written_after_the_client_has_disconnected() -> None:
    stream, tail, writer, streams = open_stream()
    writer.reads.clear()
    tail.append([HELLO, END])
    await asyncio.sleep(0)
    stream.close()
    writer.reads.set()
    tail.append([END])
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    assert writer.written == [encode_frame(HELLO)]
    assert tail.is_closed
    assert len(streams) == 0


async def test_entries_are_fetched_from_storage_until_there_are_no_more() -> None:
    stream, tail, writer, _ = open_stream()
    tail.is_remote = True
    tail.append([HELLO], [END])
    await eventually(lambda: writer.is_ended)
    assert writer.written == [encode_frame(HELLO), encode_frame(END)]
    stream.close()
    assert tail.is_closed


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (
            RunLost("session_user1_1_abcd", "its data is gone from Redis"),
            [b"StorageUnavailable", b'"failed"', b"[DONE]"],
        ),
        (OSError("a bug"), []),  # without an end marker, so that the client reconnects
    ],
)
async def test_error_of_the_log_ends_the_stream(cause: Exception, expected: list[bytes]) -> None:
    _, tail, writer, _ = open_stream()
    tail.append([HELLO], cause)
    await eventually(lambda: writer.is_ended)
    assert writer.written[0] == encode_frame(HELLO)
    frames = writer.written[1:]
    assert len(frames) == len(expected)
    assert all(text in frame for text, frame in zip(expected, frames, strict=True))


async def test_shutdown_sends_a_reconnect_notice_after_the_available_entries() -> None:
    _, tail, writer, _ = open_stream()
    tail.is_draining = True
    tail.append([HELLO])
    await eventually(lambda: writer.is_ended)
    assert writer.written == [encode_frame(HELLO), RECONNECT_NOTICE]


async def test_entries_of_the_same_moment_are_not_written_after_the_end() -> None:
    """The connection may carry another response by then."""
    stream, tail, writer, streams = open_stream()
    tail.is_draining = True
    tail.wake()
    tail.append([HELLO])
    await eventually(lambda: not stream.is_waiting)
    assert writer.written == [RECONNECT_NOTICE]
    assert len(streams) == 0


async def test_disconnected_client_is_detected_when_a_heartbeat_is_due() -> None:
    _, tail, writer, streams = open_stream(heartbeat_seconds=0.05)
    tail.append([HELLO])
    writer.is_gone = True
    await eventually(lambda: writer.is_ended)
    assert writer.written == [encode_frame(HELLO)]
    assert len(streams) == 0


async def test_client_that_takes_nothing_for_a_minute_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.sse.STALL_SECONDS", 0.3)
    stream, tail, writer, streams = open_stream(heartbeat_seconds=0.05)
    writer.reads.clear()
    tail.append([HELLO])
    for _ in range(5):  # it takes a little from time to time
        await asyncio.sleep(0.15)
        writer.taken += 1
        assert not writer.is_aborted
    assert HEARTBEAT not in writer.written, "it has enough to take"
    await eventually(lambda: writer.is_aborted)
    await eventually(lambda: not stream.is_waiting)
    stream.close()
    assert len(streams) == 0


class Recorder:
    """Stands for a logger: it keeps what a line has, together with the context in which it is written."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self._lines = lines

    def info(self, event: str, **fields: Any) -> None:
        self._lines.append({**get_contextvars(), **fields, "event": event})


async def test_log_line_of_a_stream_has_its_own_identity_and_not_that_of_the_stream_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One timer serves all streams; it was started in the context of the first one's request."""
    monkeypatch.setattr("app.web.sse.STALL_SECONDS", 0.05)
    journal, first, second = FakeJournal(), FakeWriter(), FakeWriter()
    streams = EventStreams(journal, "both", heartbeat_seconds=0.05)  # type: ignore[arg-type]
    opened: list[EventStream] = []
    for tenant, writer in (("A", first), ("B", second)):
        with bound_contextvars(tenantId=tenant, traceId=f"trace-of-{tenant}", nodeId="n", userId="u"):
            opened.append(streams.open(f"session_{tenant}_1_abcd", 0))
            opened[-1].begin(writer, writer.end)
    second.reads.clear()
    journal.tails[1].append([HELLO])
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr("app.web.sse.log", Recorder(lines))
    await eventually(lambda: second.is_aborted)
    (line,) = [line for line in lines if line["event"] == "stream.stalled"]
    identity = {name: line.get(name) for name in ("sessionId", "tenantId", "traceId", "nodeId", "userId")}
    assert identity == {
        "sessionId": "session_B_1_abcd",
        "tenantId": "B",
        "traceId": "trace-of-B",
        "nodeId": "n",
        "userId": None,
    }
    for stream in opened:
        stream.close()


async def test_error_while_writing_ends_the_stream_and_does_not_reach_the_commit() -> None:
    """The stream is woken by a run's commit."""
    _, tail, writer, _ = open_stream()
    tail.pages.append([None])  # type: ignore[list-item]
    tail.wake()
    await eventually(lambda: writer.is_ended)


async def test_one_timer_sends_all_heartbeats_and_a_slow_client_delays_no_other() -> None:
    journal, slow = FakeJournal(), FakeWriter()
    streams = EventStreams(journal, "both", heartbeat_seconds=0.05)  # type: ignore[arg-type]
    slow.reads.clear()
    streams.open("session_user1_1_abcd", 0).begin(slow, slow.end)
    journal.tails[0].append([HELLO, HELLO])
    others = [FakeWriter() for _ in range(20)]
    for writer in others:
        streams.open("session_user1_1_abcd", 0).begin(writer, writer.end)
    await eventually(lambda: all(writer.written.count(HEARTBEAT) >= 2 for writer in others))
    assert slow.written == [encode_frame(HELLO)]
    slow.reads.set()
    await eventually(lambda: HEARTBEAT in slow.written)
    assert slow.written[1] == encode_frame(HELLO)


async def test_stream_that_is_woken_without_entries_still_sends_heartbeats() -> None:
    """A reader of another node's run polls storage like this."""
    _, tail, writer, _ = open_stream(heartbeat_seconds=0.2)
    tail.is_remote = True
    fetches = 0

    async def fetch() -> list[LogEntry]:
        nonlocal fetches
        fetches += 1
        asyncio.get_running_loop().call_later(0.02, tail.wake)
        return []

    tail.fetch = fetch  # type: ignore[method-assign]
    tail.wake()
    await eventually(lambda: HEARTBEAT in writer.written)
    assert fetches > 2
    tail.is_draining = True
    await eventually(lambda: writer.is_ended)
