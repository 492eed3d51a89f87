"""OAuth client credentials: where the secret is sent, one flow for many calls, and no call that blocks others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.ports.mcp_servers import ClientCredentials, McpServer
from tests.harness.logged import Written, entries
from tests.harness.mcp import connected
from tests.harness.mcp_sdk import HttpServer, NoteServer, serving


class AuthorizedServer:
    """A server that wants a token, and is its own authorization server. `valid` are the tokens that it accepts."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.valid: set[str] = set()
        self.token_requests: list[tuple[str | None, str]] = []
        urls: dict[str, Any] = {"issuer_url": self.base, "resource_server_url": f"{self.base}/mcp"}
        settings = AuthSettings(**urls, required_scopes=["s"], validate_token_resource=False)
        self.notes = NoteServer(token_verifier=self, auth=settings)
        self.notes.mcp.custom_route("/.well-known/oauth-authorization-server", ["GET"])(self.metadata)
        self.notes.mcp.custom_route("/token", ["POST"])(self.token)

    async def verify_token(self, token: str) -> AccessToken | None:
        return AccessToken(token=token, client_id="aura", scopes=["s"]) if token in self.valid else None

    async def metadata(self, _: Request) -> JSONResponse:
        return JSONResponse(
            {
                "issuer": self.base,
                "authorization_endpoint": f"{self.base}/authorize",
                "token_endpoint": f"{self.base}/token",
                "response_types_supported": ["code"],
            }
        )

    async def token(self, request: Request) -> JSONResponse:
        self.token_requests.append((request.headers.get("authorization"), (await request.body()).decode()))
        token = f"token-{len(self.token_requests)}"
        self.valid = {token}
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": 3600})

    def settings(self, **credentials: Any) -> McpServer:
        given = ClientCredentials(client_id="aura", client_secret="s3cret/of&aura", issuer=self.base, scope="s")
        return McpServer(name="notes", url=f"{self.base}/mcp", oauth=replace(given, **credentials), timeout_seconds=20)


@asynccontextmanager
async def authorized() -> AsyncIterator[AuthorizedServer]:
    authorized = AuthorizedServer()
    server = HttpServer(authorized.notes.mcp.streamable_http_app(), authorized.listener)
    await server.start()
    try:
        yield authorized
    finally:
        await server.stop()


async def test_a_token_is_fetched_once_and_sent_with_each_call() -> None:
    async with authorized() as server, connected(server.settings()) as aura:
        await asyncio.gather(*(aura.call("notes__add_note", text=str(number)) for number in range(5)))
        await aura.call("notes__list_notes")
        assert server.notes.headers["authorization"] == "Bearer token-1"
    ((header, body),) = server.token_requests
    assert header is not None
    assert header.startswith("Basic ")
    assert "grant_type=client_credentials" in body
    assert "resource=" in body


async def test_the_secret_can_be_sent_in_the_body() -> None:
    async with authorized() as server:
        settings = server.settings(token_endpoint_auth_method="client_secret_post")
        async with connected(settings) as aura:
            await aura.call("notes__list_notes")
    ((header, body),) = server.token_requests
    assert header is None
    assert "client_secret=s3cret%2Fof%26aura" in body


async def test_a_slow_call_does_not_block_others() -> None:
    async with authorized() as server, connected(server.settings()) as aura:
        waiting = asyncio.create_task(aura.call("notes__wait"))
        await server.notes.started.wait()
        await aura.call("notes__add_note", text="meanwhile")
        server.notes.go_on.set()
        await waiting


async def test_a_token_that_is_not_valid_any_more_is_replaced() -> None:
    async with authorized() as server, connected(server.settings()) as aura:
        server.valid = set()
        await asyncio.gather(*(aura.call("notes__add_note", text=str(number)) for number in range(3)))
        assert sorted(server.notes.notes) == ["0", "1", "2"]
    assert len(server.token_requests) == 2


async def test_metadata_are_not_read_from_an_origin_that_the_server_names(written: Written) -> None:
    """Else a server could have this service read addresses of its own network."""
    read: list[str] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            read.append(scope["path"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

    async with serving(inside) as internal:
        named = internal.url.encode()

        async def hostile(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                challenge = (b"www-authenticate", b'Bearer resource_metadata="' + named + b'"')
                await send({"type": "http.response.start", "status": 401, "headers": [challenge]})
                await send({"type": "http.response.body", "body": b""})

        async with serving(hostile) as server:
            oauth = ClientCredentials(client_id="aura", client_secret="s3cret", issuer="https://login.example")
            async with connected(McpServer(name="notes", url=server.url, oauth=oauth)) as aura:
                assert aura.names == []
    assert read == []
    (warning, *_) = entries(written, "MCP server notes: no OAuth token")
    assert "metadata at another origin" in warning["event"]


async def test_the_secret_is_not_sent_to_another_issuer(written: Written) -> None:
    async with authorized() as server, connected(server.settings(issuer="https://other.example")) as aura:
        assert aura.names == []
    assert server.token_requests == []
    assert entries(written, "MCP server notes: no OAuth token")
    assert entries(written, "mcp.unavailable")
