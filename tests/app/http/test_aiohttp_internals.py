"""The private names of aiohttp: which are missing, and how requests work with and without them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import httpx2
import pytest
from aiohttp.client_proto import ResponseHandler
from structlog.testing import capture_logs

from app.dev.demo.http import HttpServer, Request, Response
from app.http import aiohttp_internals
from app.http.aiohttp_internals import create_connector, missing_names
from app.http.transport import AiohttpTransport

PIECES = [b"%d " % number * 1000 for number in range(300)]


def test_all_names_are_there() -> None:
    """Fails where a new aiohttp has moved a name: see `app/http/aiohttp_internals.py`."""
    missing = missing_names()
    assert not missing, (
        f"this aiohttp lacks {missing}: streamed answers of a model cost more CPU, and one that stops being HTTP in "
        "its middle is reported as a timeout"
    )


@pytest.mark.parametrize("name", ["read_timeout", "start_timeout"])
def test_a_missing_method_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(ResponseHandler, name)
    assert missing_names() == [f"ResponseHandler.{name}"]


def test_a_missing_attribute_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialise(self: ResponseHandler) -> None: ...

    monkeypatch.setattr(ResponseHandler, "__init__", initialise)
    assert missing_names() == ["ResponseHandler._payload"]


@asynccontextmanager
async def client() -> AsyncIterator[tuple[httpx2.AsyncClient, str]]:
    """A client, and the address of a server that streams `PIECES`."""

    async def handle(_: Request, response: Response) -> None:
        await response.begin("text/plain")
        for piece in PIECES:
            await response.write(piece)
        await response.end()

    server = await HttpServer(handle).start()
    async with httpx2.AsyncClient(transport=AiohttpTransport()) as http:
        yield http, server.origin
    await server.stop()


async def body(http: httpx2.AsyncClient, address: str) -> bytes:
    async with http.stream("GET", address) as response:
        return b"".join([piece async for piece in response.aiter_raw()])


async def test_a_body_is_whole_and_its_connection_is_reused() -> None:
    async with client() as (http, address):
        for _ in range(3):
            assert await body(http, address) == b"".join(PIECES)


async def test_without_the_names_a_plain_connector_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp_internals, "missing_names", lambda: ["BaseConnector._factory"])
    with capture_logs() as logs:
        async with client() as (http, address):
            assert await body(http, address) == b"".join(PIECES)
        connector = create_connector(ssl.create_default_context())
        assert type(connector) is aiohttp.TCPConnector
        await connector.close()
    assert logs[0] == {
        "event": "http.fallback_chosen",
        "log_level": "warning",
        "library": "aiohttp",
        "missing": ["BaseConnector._factory"],
    }
