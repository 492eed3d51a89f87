"""Servers behind a URL: the SDK's own server, its deaths, refusals and limits, and servers that send nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.errors import OutcomeUnknown, ToolError
from app.ports.mcp_servers import McpServer
from app.tools.mcp import http
from tests.harness.logged import Written, entries
from tests.harness.mcp import Connected, connected
from tests.harness.mcp_sdk import HttpServer, NoteServer, serving, without_discovery
from tests.harness.waiting import eventually

both = pytest.mark.parametrize("protocol", ["2025", "2026"])


def remote(url: str, **settings: Any) -> McpServer:
    return McpServer(name="notes", url=url, **settings)


def app_of(notes: NoteServer, protocol: str) -> Any:
    app = notes.mcp.streamable_http_app()
    return without_discovery(app) if protocol == "2025" else app


@asynccontextmanager
async def note_server(
    protocol: str = "2026", **settings: Any
) -> AsyncIterator[tuple[NoteServer, HttpServer, Connected]]:
    notes = NoteServer()
    async with serving(app_of(notes, protocol)) as server, connected(remote(server.url, **settings)) as aura:
        yield notes, server, aura


@asynccontextmanager
async def answering(body: bytes, *, kind: str = "application/json", status: int = 200) -> AsyncIterator[str]:
    """A server that discovers and lists well, and answers each call with this body. Yields its URL."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        request = json.loads((await receive())["body"] or b"{}")
        done = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        results = {
            "server/discover": {**done, "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}},
            "tools/list": {**done, "tools": [{"name": "write", "inputSchema": {"type": "object"}}]},
        }
        is_call = request.get("method") == "tools/call"
        message = {"jsonrpc": "2.0", "id": request.get("id"), "result": results.get(request.get("method"), {})}
        sent = body if is_call else json.dumps(message).encode()
        headers = [(b"content-type", kind.encode() if is_call else b"application/json")]
        await send({"type": "http.response.start", "status": status if is_call else 200, "headers": headers})
        await send({"type": "http.response.body", "body": sent})

    async with serving(app) as server:
        yield server.url


@both
async def test_the_tools_of_a_remote_server_are_offered_and_run(protocol: str) -> None:
    async with note_server(protocol, headers={"Authorization": "Bearer t0ken"}) as (notes, _, aura):
        assert (await aura.call("notes__add_note", text="hello"))["structured"] == {"result": "added hello"}
        listed = await aura.call("notes__list_notes")
        assert listed["structured"] == {"count": 1, "notes": ["hello"]}
        assert "text" not in listed, "the text repeats the structured content"
        assert notes.headers["authorization"] == "Bearer t0ken"


@both
async def test_calls_run_at_the_same_time(protocol: str) -> None:
    async with note_server(protocol) as (notes, _, aura):
        waiting = asyncio.create_task(aura.call("notes__wait"))
        await notes.started.wait()
        await aura.call("notes__add_note", text="meanwhile")
        notes.go_on.set()
        assert (await waiting)["structured"] == {"result": "waited"}


@both
async def test_a_tool_that_is_added_during_a_run_is_offered(protocol: str) -> None:
    async with note_server(protocol) as (_, __, aura):
        await aura.call("notes__grow")
        await eventually(lambda: "notes__grown" in aura.names)


@both
async def test_a_server_that_is_killed_in_a_writing_call_leaves_an_unknown_outcome(protocol: str) -> None:
    async with note_server(protocol) as (notes, server, aura):
        call = asyncio.create_task(aura.call("notes__wait"))
        await notes.started.wait()
        await server.stop()
        with pytest.raises(OutcomeUnknown, match="may have taken effect"):
            await call


async def test_a_call_that_cannot_be_sent_says_so() -> None:
    async with note_server() as (_, server, aura):
        await server.stop()
        with pytest.raises(ToolError, match="nothing was sent") as caught:
            await aura.call("notes__add_note", text="x")
    assert not isinstance(caught.value, OutcomeUnknown)


async def test_a_server_of_2025_that_has_forgotten_its_session_gets_a_new_one() -> None:
    """As after its restart. The call that finds out is refused, and did not run."""
    notes, seen, forgotten = NoteServer(), set[bytes](), set[bytes]()
    inner = app_of(notes, "2025")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = dict(scope.get("headers", ())).get(b"mcp-session-id", b"")
        seen.add(session)
        if session in forgotten:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await inner(scope, receive, send)

    async with serving(app) as server, connected(remote(server.url)) as aura:
        await aura.call("notes__add_note", text="one")
        forgotten |= seen - {b""}
        with pytest.raises(ToolError, match=r"has ended its session, so the call did not run"):
            await aura.call("notes__add_note", text="two")
        await aura.again("notes__add_note", text="three")
    assert notes.notes == ["one", "three"]


@both
async def test_a_call_without_an_answer_ends_in_time_and_is_cancelled_at_the_server(protocol: str) -> None:
    async with note_server(protocol, timeout_seconds=0.3) as (notes, _, aura):
        with pytest.raises(OutcomeUnknown, match=r"within 0.3 s"):
            await aura.call("notes__wait")
        await asyncio.wait_for(notes.cancelled.wait(), 30)


async def test_an_error_of_json_rpc_is_a_failure() -> None:
    async with note_server() as (_, __, aura):
        with pytest.raises(ToolError, match=r"answers with an error \(-32099\): not today") as caught:
            await aura.call("notes__refuse")
    assert not isinstance(caught.value, OutcomeUnknown)


async def test_pictures_are_notes_of_their_type_and_size() -> None:
    async with note_server() as (_, __, aura):
        text = (await aura.call("notes__show"))["text"]
    assert text == "a picture\n\n[image of the type image/png, 12 bytes; it is not shown]"


async def test_an_answer_over_the_limit_is_not_read_and_the_connection_goes_on() -> None:
    async with note_server() as (_, __, aura):
        with pytest.raises(OutcomeUnknown, match="too large"):
            await aura.call("notes__big")
        assert await aura.call("notes__add_note", text="x")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"nonsense", "application/json"),
        (b"<html>", "text/html"),
        (b'{"jsonrpc": "2.0", "id": 1, "result": {"content": 7}}', "application/json"),
        (b"data: nonsense\n\n", "text/event-stream"),
        (b"", "text/event-stream"),
    ],
)
async def test_an_answer_that_cannot_be_read_leaves_an_unknown_outcome(body: bytes, kind: str) -> None:
    async with answering(body, kind=kind) as url, connected(remote(url, timeout_seconds=0.5)) as aura:
        with pytest.raises(OutcomeUnknown):
            await aura.call("notes__write")


@pytest.mark.parametrize("status", [401, 403, 404, 429])
async def test_a_call_that_is_refused_by_its_status_did_not_run(status: int) -> None:
    async with answering(b"secret words of a proxy", kind="text/plain", status=status) as url:
        async with connected(remote(url)) as aura:
            with pytest.raises(ToolError) as caught:
                await aura.call("notes__write")
    assert not isinstance(caught.value, OutcomeUnknown)
    assert "secret words" not in str(caught.value)


async def test_after_an_error_of_the_server_the_outcome_is_unknown() -> None:
    async with answering(b"oh no", kind="text/plain", status=500) as url, connected(remote(url)) as aura:
        with pytest.raises(OutcomeUnknown):
            await aura.call("notes__write")


async def test_a_server_that_is_not_there_is_a_warning(written: Written) -> None:
    async with serving(NoteServer().mcp.streamable_http_app()) as server:
        url = server.url
    async with connected(remote(url)) as aura:
        assert aura.names == []
    (warning, *_) = entries(written, "mcp.unavailable")
    assert warning["server"] == "notes"


@pytest.mark.slow
async def test_a_flood_of_events_ends_the_connection(written: Written) -> None:
    note = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}\n\n'
    async with answering(note * 6000, kind="text/event-stream") as url, connected(remote(url)) as aura:
        with pytest.raises(OutcomeUnknown):
            await aura.call("notes__write")
        await eventually(lambda: entries(written, "mcp.lost"))


def test_the_mark_of_an_error_cannot_be_written_by_a_server() -> None:
    transport = http.remote_transport(lambda _: None)
    assert transport.failure_of({"was_sent": False, "mark": "0" * 32}) is None
    assert transport.failure_of("text") is None
