"""OAuth client credentials for a remote MCP server, by the SDK's provider.

The provider holds a lock during each request, so one slow call would block all others. So it is used to get a token
and for nothing else: requests carry the token, and only an answer 401 starts the provider's flow, once for all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator

import httpx2
from mcp.client.auth import OAuthFlowError, OAuthTokenError
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from app.ports.mcp_servers import ClientCredentials
from app.tools.mcp.http import RemoteTransport, http_client
from app.tools.mcp.texts import one_line

_log = logging.getLogger(__name__)

_FLOW_SECONDS = 30.0
_MAX_REQUESTS = 12
_PAUSE_SECONDS = 5.0
"""After a flow that failed, calls are refused for so long without another one."""
_EARLY_SECONDS = 30.0
"""A token is not used any more this long before it expires."""


class TokenInMemory:
    """The token of a server: the storage that the SDK's provider needs (`TokenStorage`)."""

    def __init__(self) -> None:
        self._token: OAuthToken | None = None
        self._expires_at: float | None = None

    @property
    def access_token(self) -> str | None:
        if self._token is None or (self._expires_at is not None and time.monotonic() > self._expires_at):
            return None
        return self._token.access_token

    async def get_tokens(self) -> OAuthToken | None:
        return None  # each flow gets a new one

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._token = tokens
        seconds = tokens.expires_in
        self._expires_at = None if seconds is None else time.monotonic() + max(seconds - _EARLY_SECONDS, seconds / 2)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """The credentials are those of the settings."""


class ClientCredentialsAuth(httpx2.Auth):
    """Adds the token to each request of one server, and gets a new one when the server refuses it."""

    def __init__(self, server: str, url: str, credentials: ClientCredentials, transport: RemoteTransport) -> None:
        self._server = server
        self._url = url
        self._credentials = credentials
        self._client = http_client(transport, {})
        self._storage = TokenInMemory()
        self._lock = asyncio.Lock()
        self._retry_at = 0.0

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        used = self._storage.access_token
        if used is not None:
            request.headers["Authorization"] = f"Bearer {used}"
        response = yield request
        if response.status_code not in (401, 403):
            return
        await response.aread()
        if await self._renew(request, response, used):
            request.headers["Authorization"] = f"Bearer {self._storage.access_token}"
            yield request

    async def _renew(self, request: httpx2.Request, refused: httpx2.Response, used: str | None) -> bool:
        """Get a new token, unless another request has just got it. Returns whether there is one."""
        async with self._lock:
            if self._storage.access_token not in (None, used):
                return True
            if time.monotonic() < self._retry_at:
                return False
            try:
                async with asyncio.timeout(_FLOW_SECONDS):
                    return await self._run_flow(request, refused)
            except (OAuthFlowError, OAuthTokenError, TimeoutError, ValueError, httpx2.HTTPError) as error:
                cause = one_line(str(error) or type(error).__name__, 300)
                _log.warning("MCP server %s: no OAuth token: %s; check oauth in AURA_MCP_SERVERS", self._server, cause)
                self._retry_at = time.monotonic() + _PAUSE_SECONDS
                return False

    async def _run_flow(self, request: httpx2.Request, refused: httpx2.Response) -> bool:
        """Run the provider's flow, which begins with the request that was refused, until it has stored a token."""
        given, before = self._credentials, self._storage.access_token
        provider = ClientCredentialsOAuthProvider(
            server_url=self._url,
            storage=self._storage,
            client_id=given.client_id,
            client_secret=given.client_secret,
            token_endpoint_auth_method=given.token_endpoint_auth_method,
            scope=given.scope,
            issuer=given.issuer,
        )
        plain = httpx2.Request(request.method, request.url, headers=_without_authorization(request))
        flow = provider.async_auth_flow(plain)
        try:
            await anext(flow)
            response = refused
            for _ in range(_MAX_REQUESTS):
                wanted = await flow.asend(response)
                if wanted is plain or self._storage.access_token not in (None, before):
                    break
                self._check_destination(wanted)
                response = await self._client.send(wanted, auth=None)
                await response.aread()
        except StopAsyncIteration:
            pass
        finally:
            await flow.aclose()
        return self._storage.access_token not in (None, before)

    def _check_destination(self, request: httpx2.Request) -> None:
        """Metadata are read from the MCP server and from the issuer alone: the server names the addresses of both.

        A POST carries the secret to the token endpoint in the issuer's own metadata.
        """
        known = {_origin(httpx2.URL(self._url)), _origin(httpx2.URL(self._credentials.issuer))}
        if request.method == "GET" and _origin(request.url) not in known:
            raise OAuthFlowError("the server names metadata at another origin than its own and the issuer's")
        if request.method == "POST" and request.url.scheme != "https" and _origin(request.url) not in known:
            raise OAuthFlowError("the token endpoint has no https")


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _without_authorization(request: httpx2.Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.lower() == "mcp-protocol-version"}
