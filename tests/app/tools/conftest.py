"""Fixtures for the tests of tools: a clock that stands still, a context, and a real HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.ports.tools import ToolContext

NOON_IN_SEOUL = 1_706_151_600.0  # 2024-01-25T12:00:00+09:00


class FrozenClock:
    def now(self) -> float:
        return NOON_IN_SEOUL

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        raise AssertionError("no tool waits for the clock")


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def context() -> ToolContext:
    return ToolContext(session_id="session_u1_1_aaaa", tenant_id="t1", user_id="u1", idempotency_key="session:call-1")


@dataclass
class HttpRequest:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class HttpServer:
    """Responds to each `METHOD /path` (without the query) with `(status, headers, JSON or text)` from `routes`."""

    url: str = ""
    requests: list[HttpRequest] = field(default_factory=list)
    routes: dict[str, Callable[[HttpRequest], tuple[int, dict[str, str], Any]]] = field(default_factory=dict)

    def on(self, route: str, body: Any, status: int = 200, **headers: str) -> None:
        self.routes[route] = lambda _: (
            status,
            {name.replace("_", "-"): value for name, value in headers.items()},
            body,
        )

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                first, *lines = head.strip().split("\r\n")
                method, path, _ = first.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                raw = await reader.readexactly(int(headers.get("content-length", "0")))
                request = HttpRequest(method, path, headers, json.loads(raw) if raw else None)
                self.requests.append(request)
                route = self.routes.get(f"{method} {path.partition('?')[0]}")
                status, extra, body = route(request) if route else (404, {}, {"message": "Not Found"})
                text = body if isinstance(body, str) else json.dumps(body)
                kind = "application/json; charset=utf-8"
                fields = {"content-type": kind, "content-length": str(len(text.encode())), **extra}
                writer.write(f"HTTP/1.1 {status} X\r\n".encode())
                writer.write("".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode())
                writer.write(b"\r\n" + text.encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def http_server() -> AsyncIterator[HttpServer]:
    stand_in = HttpServer()
    server = await asyncio.start_server(stand_in.handle, "127.0.0.1", 0)
    stand_in.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v3"
    yield stand_in
    server.close()
