"""One open stream, with a log that the test plays (§2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from app.errors import RunLost
from app.ports import Entry
from app.sse import COME_BACK, HEARTBEAT, EventStream, Streams, frame
from statemachine.frames import DONE_BODY
from tests.harness.waiting import eventually

HELLO = Entry(1_700_000_000_000, b"event: thought\ndata: {}\n\n")
END = Entry(1_700_000_000_001, DONE_BODY)


class PlayedTail:
    """What `read` gives is put in by the test."""

    def __init__(self, woken: Callable[[], None]) -> None:
        self.woken = woken
        self.is_over = False
        self.is_closed = False
        self.pages: list[list[Entry] | Exception] = []

    async def read(self) -> list[Entry]:
        page = self.pages.pop(0) if self.pages else []
        if isinstance(page, Exception):
            raise page
        return page

    def close(self) -> None:
        self.is_closed = True

    def play(self, *pages: list[Entry] | Exception) -> None:
        self.pages += pages
        self.woken()


class PlayedJournal:
    """Only its tails are asked for."""

    def __init__(self) -> None:
        self.tails: list[PlayedTail] = []

    def tail(self, session_id: str, after: int, woken: Callable[[], None]) -> PlayedTail:
        self.tails.append(PlayedTail(woken))
        return self.tails[-1]


class Client:
    """Keeps what is written; takes nothing while it is told not to."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_ended = False
        self.takes = asyncio.Event()
        self.takes.set()

    async def write(self, data: bytes, is_last: bool) -> None:
        await self.takes.wait()
        if is_last:
            self.is_ended = True
        else:
            self.written.append(data)


def opened(heartbeat_seconds: float = 60) -> tuple[EventStream, PlayedTail, Client, Streams]:
    journal, client = PlayedJournal(), Client()
    streams = Streams(journal, "both", heartbeat_seconds=heartbeat_seconds)  # type: ignore[arg-type]
    stream = streams.open("session_user1_1_abcd", 0)
    stream.begin(client.write)
    return stream, journal.tails[0], client, streams


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


async def test_news_that_come_while_it_writes_are_told_as_well() -> None:
    _, tail, client, _ = opened()
    client.takes.clear()
    tail.play([HELLO])
    await asyncio.sleep(0)
    tail.play([END])
    client.takes.set()
    await eventually(lambda: client.is_ended)
    assert client.written == [frame(HELLO), frame(END)]


async def test_nothing_is_written_once_the_client_has_left() -> None:
    stream, tail, client, streams = opened()
    client.takes.clear()
    tail.play([HELLO])
    await asyncio.sleep(0)
    stream.leave()
    client.takes.set()
    tail.play([END])
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    assert client.written == []
    assert tail.is_closed
    assert not streams._heard_at


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
    told = client.written[1:]
    assert len(told) == len(words)
    assert all(word in written for word, written in zip(words, told, strict=True))


async def test_a_process_that_leaves_says_so_at_the_end_of_what_there_is() -> None:
    _, tail, client, _ = opened()
    tail.is_over = True
    tail.play([HELLO])
    await eventually(lambda: client.is_ended)
    assert client.written == [frame(HELLO), COME_BACK]


async def test_one_timer_serves_the_heartbeats_of_all_and_a_slow_client_holds_nobody_up() -> None:
    journal, slow = PlayedJournal(), Client()
    streams = Streams(journal, "both", heartbeat_seconds=0.05)  # type: ignore[arg-type]
    slow.takes.clear()
    streams.open("session_user1_1_abcd", 0).begin(slow.write)
    journal.tails[0].play([HELLO])
    others = [Client() for _ in range(20)]
    for client in others:
        streams.open("session_user1_1_abcd", 0).begin(client.write)
    await eventually(lambda: all(client.written.count(HEARTBEAT) >= 2 for client in others))
    assert slow.written == []
    slow.takes.set()
    await eventually(lambda: HEARTBEAT in slow.written)
    assert slow.written[0] == frame(HELLO)
