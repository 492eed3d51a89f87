"""Unusual requests of other clients and proxies: unambiguous ones are accepted, ambiguous ones are rejected."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from app.web.auth import issue_token
from app.web.requests import RequestBody
from tests.harness.service import SECRET, STREAM, Aura, headers, running

MakeSettings = Callable[..., Settings]
MANY_BYTES = 12 * 1024 * 1024


@pytest.mark.parametrize(
    ("name", "second", "status", "code"),
    [
        ("X-Tenant-ID", "tenant2", 403, "E2001"),
        ("X-User-ID", "user2", 403, "E2001"),
        ("Authorization", "Bearer x", 401, "E2003"),
    ],
)
async def test_header_with_different_values_is_rejected(
    settings: MakeSettings, name: str, second: str, status: int, code: str
) -> None:
    sent = headers(Accept="application/json")
    async with running(settings()) as aura:
        for other, expected in ((second, (status, code)), (sent[name], (404, "E1004"))):
            response = await aura.client.get(STREAM, headers=[*sent.items(), (name, other)])
            assert (response.status_code, response.json()["errorCode"]) == expected


async def test_identity_headers_are_utf_8(settings: MakeSettings, model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text="안녕하세요"))
    token = issue_token(SECRET, user_id="김철수", tenant_id="테넌트", role=None, now=time.time(), lifetime_seconds=60)
    sent = {"X-Tenant-ID": "테넌트", "X-User-ID": "김철수", "X-Agent-ID": "화면 1", "Authorization": f"Bearer {token}"}
    async with running(settings()) as aura:
        encoded = {name.encode(): value.encode() for name, value in sent.items()}
        response = await aura.client.post(STREAM, json={"prompt": "안녕"}, headers=encoded)
    assert (response.status_code, '"threadId":"화면 1"' in response.text) == (200, True)


async def test_empty_thread_id_is_absent_and_long_source_is_accepted(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="안녕하세요"))
    async with (
        running(settings()) as aura,
        aura.stream(body={"prompt": "안녕", "thread_id": ""}, headers=headers(**{"X-DWP-Source": "s" * 900})) as stream,
    ):
        start = await stream.next()
        assert start["threadId"] == start["sessionId"]
        await stream.rest()


# --- other protocols ------------------------------------------------------------------------------------------------

_WEBSOCKET = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"


async def _raw(aura: Aura, sent: str) -> str:
    host, _, port = aura.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent.encode())
    response = await reader.read()
    writer.close()
    return response.decode()


@pytest.mark.parametrize("protocol", ["h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", f"websocket\r\n{_WEBSOCKET}".strip()])
async def test_upgrade_to_another_protocol_is_ignored(settings: MakeSettings, protocol: str) -> None:
    upgrade = f"Host: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: {protocol}\r\n\r\n"
    async with running(settings()) as aura:
        healthy = await _raw(aura, f"GET /health HTTP/1.1\r\n{upgrade}")
        rejected = await _raw(aura, f"GET {STREAM} HTTP/1.1\r\n{upgrade}")
    assert healthy.startswith("HTTP/1.1 200 ")
    assert '"status":"UP"' in healthy
    assert rejected.startswith("HTTP/1.1 401 ")
    assert "data: [DONE]" in rejected


async def test_http_2_with_prior_knowledge_is_rejected(settings: MakeSettings) -> None:
    async with running(settings()) as aura:
        assert (await _raw(aura, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).startswith("HTTP/1.1 505 ")


# --- bodies that are not read ---------------------------------------------------------------------------------------


def _with_content_length() -> Iterator[bytes]:
    yield b"Content-Length: %d\r\n\r\n" % MANY_BYTES
    yield b" " * MANY_BYTES


def _chunked() -> Iterator[bytes]:
    yield b"Transfer-Encoding: chunked\r\n\r\n"
    yield (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * (MANY_BYTES // 0x10000) + b"0\r\n\r\n"


def _send_all_then_receive(aura: Aura, sent: dict[str, str], body: Iterator[bytes]) -> tuple[int, str]:
    """Send the complete request before reading, as many clients do. Returns the status and the error code."""
    host, _, port = aura.url.removeprefix("http://").partition(":")
    fields = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"POST {STREAM} HTTP/1.1\r\nHost: {host}\r\n{fields}".encode())
        for chunk in body:
            connection.sendall(chunk)
        response = b""
        while b'"timestamp"' not in response and (received := connection.recv(65536)):
            response += received
    head, _, envelope = response.decode().partition("\r\n\r\n")
    return int(head.split(" ")[1]), json.loads(envelope)["errorCode"]


@pytest.mark.parametrize("body", [_with_content_length, _chunked])
async def test_oversized_body_is_discarded_so_that_the_client_reads_the_response(
    settings: MakeSettings, body: Callable[[], Iterator[bytes]]
) -> None:
    sent = headers(**{"Accept": "application/json", "Content-Type": "application/json"})
    async with running(settings()) as aura:
        assert await asyncio.to_thread(_send_all_then_receive, aura, sent, body()) == (413, "E4001")
        del sent["Authorization"]
        assert await asyncio.to_thread(_send_all_then_receive, aura, sent, body()) == (401, "E2000")


async def test_a_body_that_does_not_come_is_not_waited_for_any_longer() -> None:
    body = RequestBody(expected_content_length=1000, max_content_length=10)
    await body.discard_rest(0.001)
    body.set_complete()
    await body.discard_rest(30)
