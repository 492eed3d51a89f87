"""One open stream, with a log that the test plays (§2)."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import RunLost
from app.ports.journal import LogEntry
from app.web.sse import HEARTBEAT, RECONNECT_NOTICE, EventStream, EventStreams, frame
from statemachine.frames import DONE_BODY
from tests.harness.fake_tail import PlayedJournal, PlayedTail
from tests.harness.waiting import eventually

HELLO = LogEntry(1_700_000_000_000, b"event: thought\ndata: {}\n\n")
END = LogEntry(1_700_000_000_001, DONE_BODY)


class Client:
    """Keeps what is written; has room for one frame more at most while it does not read."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_ended = self.is_full = self.is_gone = False
        self.reads = asyncio.Event()
        self.reads.set()

    @property
    def is_writable(self) -> bool:
        return self.reads.is_set() or not self.is_full

    def write(self, data: bytes) -> None:
        assert not self.is_ended
        self.written.append(data)
        self.is_full = True

    async def drain(self) -> None:
        await self.reads.wait()
        self.is_full = False

    async def end(self) -> None:
        self.is_ended = True


def opened(heartbeat_seconds: float = 60) -> tuple[EventStream, PlayedTail, Client, EventStreams]:
    journal, client = PlayedJournal(), Client()
    streams = EventStreams(journal, "both", heartbeat_seconds=heartbeat_seconds)  # type: ignore[arg-type]
    stream = streams.open("session_user1_1_abcd", 0)
    stream.begin(client, client.end)
    return stream, journal.tails[0], client, streams


async def test_what_is_at_hand_is_told_in_the_moment_of_the_news_and_without_a_task() -> None:
    _, tail, client, _ = opened()
    tail.play([HELLO])
    assert client.written == [frame(HELLO)]
    assert len(asyncio.all_tasks()) == 1  # the test's own
    tail.play([END])
    assert client.written == [frame(HELLO), frame(END)]
    await eventually(lambda: client.is_ended)


async def test_a_stream_tells_what_there_is_and_rests_without_a_task() -> None:
    stream, tail, client, _ = opened()
    tail.play([HELLO])
    await eventually(lambda: client.written == [frame(HELLO)])
    await eventually(lambda: len(asyncio.all_tasks()) == 1)  # the test's own
    tail.play([END])
    await eventually(lambda: client.is_ended)
    assert client.written == [frame(HELLO), frame(END)]
    stream.leave()
    assert tail.is_closed


async def test_a_client_that_does_not_read_is_waited_for_and_has_it_all_in_the_end() -> None:
    _, tail, client, _ = opened()
    client.reads.clear()
    entries = [LogEntry(HELLO.id + number, HELLO.body) for number in range(5)]
    tail.play(entries[:3])
    tail.play(entries[3:])
    await asyncio.sleep(0)
    assert client.written == [frame(HELLO)]
    client.reads.set()
    tail.play([LogEntry(END.id + 9, END.body)])
    await eventually(lambda: client.is_ended)
    assert client.written == [frame(entry) for entry in [*entries, LogEntry(END.id + 9, END.body)]]


async def test_nothing_is_written_once_the_client_has_left() -> None:
    stream, tail, client, streams = opened()
    client.reads.clear()
    tail.play([HELLO, END])
    await asyncio.sleep(0)
    stream.leave()
    client.reads.set()
    tail.play([END])
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    assert client.written == [frame(HELLO)]
    assert tail.is_closed
    assert not streams._heard_at


async def test_what_is_not_at_hand_is_looked_up_for_as_long_as_there_is_more() -> None:
    stream, tail, client, _ = opened()
    tail.is_remote = True
    tail.play([HELLO], [END])
    await eventually(lambda: client.is_ended)
    assert client.written == [frame(HELLO), frame(END)]
    stream.leave()
    assert tail.is_closed


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (
            RunLost("session_user1_1_abcd", "its data is gone from Redis"),
            [b"StorageUnavailable", b'"failed"', b"[DONE]"],
        ),
        (OSError("a bug"), []),  # without an end marker: it is come back to
    ],
)
async def test_a_log_that_breaks_ends_the_stream(cause: Exception, words: list[bytes]) -> None:
    _, tail, client, _ = opened()
    tail.play([HELLO], cause)
    await eventually(lambda: client.is_ended)
    assert client.written[0] == frame(HELLO)
    told = client.written[1:]
    assert len(told) == len(words)
    assert all(word in written for word, written in zip(words, told, strict=True))


async def test_a_process_that_leaves_says_so_at_the_end_of_what_there_is() -> None:
    _, tail, client, _ = opened()
    tail.is_draining = True
    tail.play([HELLO])
    await eventually(lambda: client.is_ended)
    assert client.written == [frame(HELLO), RECONNECT_NOTICE]


async def test_a_run_that_goes_on_in_that_very_moment_is_not_told_after_the_end() -> None:
    """The connection may be another answer's by then."""
    stream, tail, client, streams = opened()
    tail.is_draining = True
    tail.woken()
    tail.play([HELLO])
    await eventually(lambda: stream._flow is None)
    assert client.written == [RECONNECT_NOTICE]
    assert not streams._heard_at


async def test_a_client_who_is_gone_unheard_is_given_up_when_a_heartbeat_is_due() -> None:
    _, tail, client, streams = opened(heartbeat_seconds=0.05)
    tail.play([HELLO])
    client.is_gone = True
    await eventually(lambda: client.is_ended)
    assert client.written == [frame(HELLO)]
    assert not streams._heard_at


async def test_a_bug_in_the_way_out_is_not_the_run_s() -> None:
    """It is told in the moment of a commit."""
    _, tail, client, _ = opened()
    tail.pages.append([None])  # type: ignore[list-item]
    tail.woken()
    await eventually(lambda: client.is_ended)


async def test_one_timer_serves_the_heartbeats_of_all_and_a_slow_client_holds_nobody_up() -> None:
    journal, slow = PlayedJournal(), Client()
    streams = EventStreams(journal, "both", heartbeat_seconds=0.05)  # type: ignore[arg-type]
    slow.reads.clear()
    streams.open("session_user1_1_abcd", 0).begin(slow, slow.end)
    journal.tails[0].play([HELLO, HELLO])
    others = [Client() for _ in range(20)]
    for client in others:
        streams.open("session_user1_1_abcd", 0).begin(client, client.end)
    await eventually(lambda: all(client.written.count(HEARTBEAT) >= 2 for client in others))
    assert slow.written == [frame(HELLO)]
    slow.reads.set()
    await eventually(lambda: HEARTBEAT in slow.written)
    assert slow.written[1] == frame(HELLO)


async def test_who_looks_in_vain_again_and_again_gets_heartbeats_all_the_same() -> None:
    """A reader of another node's run does."""
    _, tail, client, _ = opened(heartbeat_seconds=0.2)
    tail.is_remote = True
    looks = 0

    async def look() -> list[LogEntry]:
        nonlocal looks
        looks += 1
        asyncio.get_running_loop().call_later(0.02, tail.woken)
        return []

    tail.fetch = look  # type: ignore[method-assign]
    tail.woken()
    await eventually(lambda: HEARTBEAT in client.written)
    assert looks > 2
    tail.is_draining = True
    await eventually(lambda: client.is_ended)
