"""One HTTP exchange, in the messages of ASGI."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from quart import Quart, request

from app.ports.journal import LogEntry
from app.web.connection import HttpConnection, StreamResponse
from app.web.requests import BodyBudget
from app.web.sse import HEARTBEAT, EventStreams
from app.web.stream_frames import encode_frame
from statemachine.frames import DONE_BODY
from tests.harness.fake_tail import FakeJournal
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


async def admit(_: object) -> None:
    """Reject no request."""


class Exchange:
    """The server's side: `received` are messages of the client, `sent` those of the app."""

    def __init__(self, app: Quart) -> None:
        self.received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        connection = HttpConnection(app, SCOPE, admit, BodyBudget(0))  # type: ignore[arg-type]
        self.task = asyncio.create_task(connection(self.received.get, self._send))  # type: ignore[arg-type]

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]


class Slow:
    """A handler that continues when the test sets `may_end`."""

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


async def test_request_is_answered_and_leaves_no_task(slow: tuple[Quart, Slow]) -> None:
    app, handler = slow
    exchange = Exchange(app)
    exchange.received.put_nowait(BODY)
    handler.may_end.set()
    await exchange.task
    assert exchange.sent[0]["status"] == 200
    assert b"".join(message.get("body", b"") for message in exchange.sent) == b"body"
    assert len(asyncio.all_tasks()) == 1


async def begin_exchange(slow: tuple[Quart, Slow]) -> Exchange:
    """Send a request and return when its handler is running."""
    app, handler = slow
    handler.began.clear()
    exchange = Exchange(app)
    exchange.received.put_nowait(BODY)
    await handler.began.wait()
    return exchange


async def test_disconnect_cancels_the_handler_and_nothing_else(slow: tuple[Quart, Slow]) -> None:
    exchange, (_, handler) = await begin_exchange(slow), slow
    exchange.received.put_nowait(GONE)
    await exchange.task  # not cancelled
    assert handler.was_cancelled
    assert exchange.sent == []
    assert len(asyncio.all_tasks()) == 1


async def test_disconnect_at_the_moment_of_the_response_is_handled(slow: tuple[Quart, Slow]) -> None:
    _, handler = slow
    for first, second in ((handler.may_end.set, None), (None, handler.may_end.set)):
        handler.may_end.clear()
        exchange = await begin_exchange(slow)
        for act in (first, lambda left=exchange: left.received.put_nowait(GONE), second):
            if act is not None:
                act()
        await eventually(exchange.task.done)
        assert not exchange.task.cancelled()
        assert len(asyncio.all_tasks()) == 1


async def test_stream_is_sent_as_asgi_messages_where_the_server_has_no_client_writer() -> None:
    journal, hello = FakeJournal(), LogEntry(1_700_000_000_000, b"event: thought\ndata: {}\n\n")
    streams = EventStreams(journal, "both", heartbeat_seconds=0.1)  # type: ignore[arg-type]
    app = Quart("test", static_folder=None)

    async def stream() -> StreamResponse:
        return StreamResponse(streams.open("session_user1_1_abcd", 0))

    app.add_url_rule("/", view_func=stream, methods=["POST"])
    exchange = Exchange(app)
    exchange.received.put_nowait(BODY)
    await eventually(lambda: journal.tails)
    journal.tails[0].append([hello])
    await eventually(lambda: HEARTBEAT in exchange.bodies)
    journal.tails[0].append([LogEntry(hello.id + 1, DONE_BODY)])
    await eventually(lambda: exchange.sent[-1].get("more_body") is False)
    assert [body for body in exchange.bodies if body != HEARTBEAT] == [
        encode_frame(hello),
        encode_frame(LogEntry(hello.id + 1, DONE_BODY)),
        b"",
    ]
    exchange.received.put_nowait(GONE)
    await exchange.task
    assert journal.tails[0].is_closed


async def test_stopping_server_ends_the_exchange(slow: tuple[Quart, Slow]) -> None:
    exchange, (_, handler) = await begin_exchange(slow), slow
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    assert handler.was_cancelled
    assert len(asyncio.all_tasks()) == 1
