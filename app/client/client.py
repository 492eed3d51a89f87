"""The client of the service for one caller: starts runs, reads their events, decides requests, cancels and lists."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, Self, cast
from urllib.parse import quote, urlsplit

import httpx2

from .decoding import JsonObject
from .response_types import (
    ApprovalDetails,
    DecisionResult,
    RequestPage,
    RequestStatus,
    RunDetails,
    RunPage,
    ServiceInfo,
    State,
    Timeline,
)
from .responses import (
    RETRYABLE_STATUSES,
    ApiError,
    ClientError,
    ConnectionLost,
    ServiceUnreachable,
    TokenUnreadable,
    error_text,
    json_object,
    raise_for_status,
)
from .stream import RunStream

_MAX_RETRY_DELAY_SECONDS = 5.0
_UNKNOWN_RESPONSE = "the response is not one of Aura's; check the address"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The token of a caller, and the identity headers that must agree with it (§1.2)."""

    token: str
    tenant_id: str
    user_id: str

    @classmethod
    def from_token(cls, token: str) -> Self:
        """Read tenant and user from the token, which only the service can verify. Raises `TokenUnreadable`."""
        try:
            payload = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            return cls(token, str(claims["tenant_id"]), str(claims["sub"]))
        except (ValueError, IndexError, KeyError, TypeError):
            raise TokenUnreadable("the token is not a JWT with the claims sub and tenant_id") from None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that authenticate a request."""
        return {"Authorization": f"Bearer {self.token}", "X-Tenant-ID": self.tenant_id, "X-User-ID": self.user_id}


@dataclass(frozen=True, slots=True)
class DecisionReply:
    """The status of a request after a decision.

    `accepted` is False where an earlier decision applies, or where the deadline had passed.
    """

    status: RequestStatus
    accepted: bool
    reason: str | None = None


class AuraClient:
    """The client of the service at `url`. It is an async context manager."""

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        read_timeout_seconds: float = 60,
        retry_timeout_seconds: float = 120,
        retry_delay_seconds: float = 0.5,
    ) -> None:
        """`read_timeout_seconds` without a byte count as a broken connection; heartbeats come every 15 s.

        The first retry follows after `retry_delay_seconds`, unless the service sets another delay; the delay doubles
        up to a limit. Retries end after `retry_timeout_seconds`. Raises `ClientError` for an invalid `url`.
        """
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ClientError(f"{url!r} is not a URL that begins with http:// or https://")
        self.url = url.rstrip("/")
        self.credentials = credentials
        self._retry_timeout_seconds, self._retry_delay_seconds = retry_timeout_seconds, retry_delay_seconds
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers=credentials.headers,
            timeout=httpx2.Timeout(10, read=read_timeout_seconds, pool=None),
            trust_env=not _is_local(address.hostname),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def run(
        self,
        prompt: str,
        context: JsonObject | None = None,
        *,
        thread_id: str | None = None,
        agent: str | None = None,
        idempotency_key: str | None = None,
    ) -> RunStream:
        """Return the stream of a new run, which starts when the stream is iterated.

        `agent` is the name of the agent that runs it; without it the service decides. A second run with the same
        `idempotency_key` attaches to the first.
        """
        body: JsonObject = {"prompt": prompt, "context": context or {}}
        if thread_id is not None:
            body["thread_id"] = thread_id
        if agent is not None:
            body["agent"] = agent
        return self._stream(body=body, idempotency_key=idempotency_key)

    def attach(self, session_id: str, *, last_event_id: int | None = None) -> RunStream:
        """Return the stream of an existing run, from its first event or from the one after `last_event_id`."""
        return self._stream(session_id=session_id, last_event_id=last_event_id)

    def _stream(self, **arguments: Any) -> RunStream:
        return RunStream(
            self._http,
            **arguments,
            retry_timeout_seconds=self._retry_timeout_seconds,
            retry_delay_seconds=self._retry_delay_seconds,
        )

    async def fetch(self, path: str, **parameters: str) -> bytes:
        """Return the body of a GET request, without retries. Raises `ServiceUnreachable` or `ApiError`."""
        try:
            response = await self._http.get(path, params=parameters)
        except httpx2.TransportError as error:
            raise ServiceUnreachable(f"cannot connect to {self.url}: {error_text(error)}") from error
        await raise_for_status(response)
        return response.content

    # Each of the following methods raises `ApiError`, or `ConnectionLost` where no response arrived in time.

    async def approve(
        self, request_id: str, arguments_digest: str, arguments: JsonObject | None = None
    ) -> DecisionReply:
        """Approve a request, with the digest of the arguments that the person saw; `arguments` replace those."""
        return await self._decide("approve", request_id, {"argumentsDigest": arguments_digest, "params": arguments})

    async def reject(self, request_id: str, reason: str | None = None, *, skip: bool = False) -> DecisionReply:
        """Reject a request; with `skip` the run continues without this call."""
        return await self._decide("reject", request_id, {"reason": reason, "skip": skip or None})

    async def cancel(self, session_id: str) -> bool:
        """Cancel a run. Returns False if it has already ended."""
        path = f"/aura/runs/{quote(session_id, safe='')}/cancel"
        status, _ = await self._send_with_retries("POST", path, accepted_status=409)
        return status != 409

    async def runs(
        self,
        *,
        state: State | None = None,
        scope: Literal["own", "all"] = "all",
        offset: int = 0,
        limit: int = 20,
    ) -> RunPage:
        """List runs, newest first: the caller's own, or for approvers those of the tenant."""
        query: dict[str, str | int] = {"scope": scope, "offset": offset, "limit": limit}
        if state is not None:
            query["state"] = state
        return cast("RunPage", (await self._send_with_retries("GET", "/aura/runs", params=query))[1])

    async def details(self, session_id: str) -> RunDetails:
        """Return a complete run, with its tool calls, transitions, token usage and answer."""
        path = f"/aura/runs/{quote(session_id, safe='')}"
        return cast("RunDetails", (await self._send_with_retries("GET", path))[1])

    async def timeline(self, session_id: str) -> Timeline:
        """Return where the time of a run went: its states, model turns, tool calls and waits."""
        path = f"/aura/runs/{quote(session_id, safe='')}/timeline"
        return cast("Timeline", (await self._send_with_retries("GET", path))[1])

    async def pending(self, *, offset: int = 0, limit: int = 20) -> RequestPage:
        """List open approval requests: the caller's own, or for approvers those of the tenant."""
        query = {"offset": offset, "limit": limit}
        return cast("RequestPage", (await self._send_with_retries("GET", "/aura/approvals", params=query))[1])

    async def request(self, request_id: str) -> ApprovalDetails:
        """Return an approval request: what it shows, and its decision."""
        path = f"/aura/approvals/{quote(request_id, safe='')}"
        return cast("ApprovalDetails", (await self._send_with_retries("GET", path))[1])

    async def info(self) -> ServiceInfo:
        """Return the name, version, model and states of the service."""
        return cast("ServiceInfo", (await self._send_with_retries("GET", "/aura/info"))[1])

    async def _decide(self, verdict: str, request_id: str, fields: JsonObject) -> DecisionReply:
        """Send a decision. It may be repeated: the service answers a second one with the status of the first."""
        present = {name: value for name, value in fields.items() if value is not None}
        body = {"userId": self.credentials.user_id, **present}
        path = f"/aura/approvals/{quote(request_id, safe='')}/{verdict}"
        status, data = await self._send_with_retries("POST", path, json=body, accepted_status=409)
        if "status" not in data:
            raise ApiError(status, "", _UNKNOWN_RESPONSE)
        result = cast("DecisionResult", data)
        return DecisionReply(result["status"], status != 409, result.get("reason"))

    async def _send_with_retries(
        self, method: str, path: str, *, accepted_status: int = 200, **request: Any
    ) -> tuple[int, JsonObject]:
        """Return the status and the `data` of a response. All requests sent here are safe to repeat.

        The request is repeated while the network or the service is unavailable. An error with `accepted_status` is
        returned instead of raised.
        """
        loop = asyncio.get_running_loop()
        until, delay = loop.time() + self._retry_timeout_seconds, self._retry_delay_seconds
        while True:
            try:
                response = await self._http.request(method, path, **request)
                if response.status_code != accepted_status:
                    await raise_for_status(response)
                envelope = json_object(response.content)
                if "success" not in envelope:
                    raise ApiError(response.status_code, "", _UNKNOWN_RESPONSE)
                return response.status_code, envelope.get("data") or {}
            except httpx2.TransportError as error:
                cause: ClientError = ConnectionLost(f"no response to {method} {path}: {error_text(error)}")
            except ApiError as error:
                if error.status not in RETRYABLE_STATUSES:
                    raise
                cause, delay = error, max(delay, error.retry_after_seconds or 0)
            if loop.time() + delay > until:
                raise cause
            await asyncio.sleep(delay)
            delay = min(delay * 2, _MAX_RETRY_DELAY_SECONDS)


def _is_local(host: str) -> bool:
    """Return whether the host is this machine, which is not reached through a proxy of the environment."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
