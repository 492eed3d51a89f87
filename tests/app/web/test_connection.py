"""One HTTP exchange, message by message as the server gives them (ASGI)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from quart import Quart, request

from app.ports.journal import LogEntry
from app.web.connection import HttpConnection, StreamResponse
from app.web.sse import HEARTBEAT, EventStreams, frame
from statemachine.frames import DONE_BODY
from tests.harness.fake_tail import PlayedJournal
from tests.harness.waiting import eventually

SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/",
    "query_string": b"",
    "headers": [(b"host", b"localhost"), (b"content-length", b"4")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 2),
    "extensions": {},
}
BODY = {"type": "http.request", "body": b"body", "more_body": False}
GONE = {"type": "http.disconnect"}


class Exchange:
    """The server's side: messages in, messages out."""

    def __init__(self, app: Quart) -> None:
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.answered: list[dict[str, Any]] = []
        connection = HttpConnection(app, SCOPE, lambda _: None)  # type: ignore[arg-type]
        self.task = asyncio.create_task(connection(self.said.get, self._send))  # type: ignore[arg-type]

    async def _send(self, message: dict[str, Any]) -> None:
        self.answered.append(message)

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.answered if message["type"] == "http.response.body"]


class Slow:
    """A handler that goes on when it is told to."""

    def __init__(self) -> None:
        self.began, self.may_end, self.was_cancelled = asyncio.Event(), asyncio.Event(), False

    async def handle(self) -> bytes | str:
        body = await request.get_data()
        self.began.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return body


@pytest.fixture
def slow() -> tuple[Quart, Slow]:
    app, handler = Quart("test", static_folder=None), Slow()
    app.add_url_rule("/", endpoint="slow", view_func=handler.handle, methods=["POST"])
    return app, handler


async def test_a_request_is_answered_and_leaves_no_task(slow: tuple[Quart, Slow]) -> None:
    app, handler = slow
    exchange = Exchange(app)
    exchange.said.put_nowait(BODY)
    handler.may_end.set()
    await exchange.task
    assert exchange.answered[0]["status"] == 200
    assert b"".join(message.get("body", b"") for message in exchange.answered) == b"body"
    assert len(asyncio.all_tasks()) == 1


async def begun(slow: tuple[Quart, Slow]) -> Exchange:
    """Its handler is at work."""
    app, handler = slow
    handler.began.clear()
    exchange = Exchange(app)
    exchange.said.put_nowait(BODY)
    await handler.began.wait()
    return exchange


async def test_a_client_who_leaves_ends_the_work_for_him_and_nothing_else(slow: tuple[Quart, Slow]) -> None:
    exchange, (_, handler) = await begun(slow), slow
    exchange.said.put_nowait(GONE)
    await exchange.task  # which is not cancelled by it
    assert handler.was_cancelled
    assert exchange.answered == []
    assert len(asyncio.all_tasks()) == 1


async def test_a_client_may_leave_in_the_very_moment_of_the_answer(slow: tuple[Quart, Slow]) -> None:
    _, handler = slow
    for first, second in ((handler.may_end.set, None), (None, handler.may_end.set)):
        handler.may_end.clear()
        exchange = await begun(slow)
        for act in (first, lambda left=exchange: left.said.put_nowait(GONE), second):
            if act is not None:
                act()
        await eventually(exchange.task.done)
        assert not exchange.task.cancelled()
        assert len(asyncio.all_tasks()) == 1


async def test_a_stream_goes_out_by_messages_where_the_server_knows_nothing_better() -> None:
    journal, hello = PlayedJournal(), LogEntry(1_700_000_000_000, b"event: thought\ndata: {}\n\n")
    streams = EventStreams(journal, "both", heartbeat_seconds=0.1)  # type: ignore[arg-type]
    app = Quart("test", static_folder=None)

    async def stream() -> StreamResponse:
        return StreamResponse(streams.open("session_user1_1_abcd", 0))

    app.add_url_rule("/", view_func=stream, methods=["POST"])
    exchange = Exchange(app)
    exchange.said.put_nowait(BODY)
    await eventually(lambda: journal.tails)
    journal.tails[0].play([hello])
    await eventually(lambda: HEARTBEAT in exchange.bodies)
    journal.tails[0].play([LogEntry(hello.id + 1, DONE_BODY)])
    await eventually(lambda: exchange.answered[-1].get("more_body") is False)
    assert [body for body in exchange.bodies if body != HEARTBEAT] == [
        frame(hello),
        frame(LogEntry(hello.id + 1, DONE_BODY)),
        b"",
    ]
    exchange.said.put_nowait(GONE)
    await exchange.task
    assert journal.tails[0].is_closed


async def test_a_server_that_stops_ends_the_exchange(slow: tuple[Quart, Slow]) -> None:
    exchange, (_, handler) = await begun(slow), slow
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    assert handler.was_cancelled
    assert len(asyncio.all_tasks()) == 1
