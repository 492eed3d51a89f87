"""The service's client, on behalf of one caller: start a run, attach to one, decide, cancel, see what there is."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, Self, cast
from urllib.parse import quote, urlsplit

import httpx2

from app.client.answers import (
    TRANSIENT,
    ClientError,
    Refused,
    StreamLost,
    TokenUnreadable,
    Unreachable,
    check,
    json_object,
    words,
)
from app.client.stream import RunStream
from app.ports.responses import RequestPage, RunDetails, RunPage
from statemachine.checkpoint import JsonObject
from statemachine.states import State

_MOST_PAUSE_SECONDS = 5.0
_NOT_OURS = "the answer is not one of Aura's"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the token, and the headers that must agree with it (§1.2)."""

    token: str
    tenant_id: str
    user_id: str

    @classmethod
    def of(cls, token: str) -> Self:
        """Read from the token, which only the service can verify. Raises `TokenUnreadable`."""
        try:
            payload = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            return cls(token, str(claims["tenant_id"]), str(claims["sub"]))
        except (ValueError, IndexError, KeyError, TypeError):
            raise TokenUnreadable("the token is not a JWT with the claims sub and tenant_id") from None

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "X-Tenant-ID": self.tenant_id, "X-User-ID": self.user_id}


@dataclass(frozen=True, slots=True)
class Decided:
    """How a request stands after a decision. `here` is False where an earlier decision stands, or it came too late."""

    status: str
    here: bool
    reason: str | None = None


class AuraClient:
    """The service at `url`. An async context manager."""

    def __init__(
        self,
        url: str,
        caller: Caller,
        *,
        silence_seconds: float = 60,
        patience_seconds: float = 120,
        pause_seconds: float = 0.5,
    ) -> None:
        """`silence_seconds` without a byte (heartbeats come every 15) count as a broken connection. Attempts to come
        back begin after `pause_seconds` (or what the service says), with backoff, and end after `patience_seconds`.

        Raises `ClientError` where `url` is no address.
        """
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ClientError(f"{url!r} is no http(s) address")
        self.url = url.rstrip("/")
        self.caller = caller
        self._patience_seconds, self._pause_seconds = patience_seconds, pause_seconds
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers=caller.headers,
            timeout=httpx2.Timeout(10, read=silence_seconds, pool=None),
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
        idempotency_key: str | None = None,
    ) -> RunStream:
        """A new run; it starts when its items are asked for. A second one with the same key is the first."""
        body: JsonObject = {"prompt": prompt, "context": context or {}}
        if thread_id is not None:
            body["thread_id"] = thread_id
        return self._stream(body=body, idempotency_key=idempotency_key)

    def attach(self, session_id: str, *, last_event_id: int | None = None) -> RunStream:
        """A run that exists, from its first event or from the one after `last_event_id`."""
        return self._stream(session_id=session_id, last_event_id=last_event_id)

    def _stream(self, **which: Any) -> RunStream:
        return RunStream(
            self._http, **which, patience_seconds=self._patience_seconds, pause_seconds=self._pause_seconds
        )

    async def fetch(self, path: str, **parameters: str) -> bytes:
        """The body of a GET, asked once. Raises `Unreachable`, `Refused`."""
        try:
            response = await self._http.get(path, params=parameters)
        except httpx2.TransportError as error:
            raise Unreachable(f"nobody answers at {self.url}: {words(error)}") from error
        await check(response)
        return response.content

    # Each of these raises `Refused`, or `StreamLost` where no answer came in time.

    async def approve(self, request_id: str, arguments: JsonObject | None = None) -> Decided:
        """Say yes; `arguments` replace the tool's."""
        return await self._decide("approve", request_id, {"params": arguments})

    async def reject(self, request_id: str, reason: str | None = None, *, skip: bool = False) -> Decided:
        """Say no; with `skip` the run goes on without this call."""
        return await self._decide("reject", request_id, {"reason": reason, "skip": skip or None})

    async def cancel(self, session_id: str) -> bool:
        """Whether the run is being cancelled; False: it has ended already."""
        status, _ = await self._call("POST", f"/aura/runs/{quote(session_id, safe='')}/cancel", accepts=409)
        return status != 409

    async def runs(
        self,
        *,
        state: State | None = None,
        scope: Literal["own", "all"] = "all",
        offset: int = 0,
        limit: int = 20,
    ) -> RunPage:
        """Runs, newest first: the caller's, for approvers the tenant's."""
        query: dict[str, str | int] = {"scope": scope, "offset": offset, "limit": limit}
        if state is not None:
            query["state"] = state
        return cast("RunPage", (await self._call("GET", "/aura/runs", params=query))[1])

    async def details(self, session_id: str) -> RunDetails:
        """One run whole: ledger, path, usage, answer."""
        return cast("RunDetails", (await self._call("GET", f"/aura/runs/{quote(session_id, safe='')}"))[1])

    async def pending(self, *, offset: int = 0, limit: int = 20) -> RequestPage:
        """Approval requests that wait for a decision."""
        query = {"offset": offset, "limit": limit}
        return cast("RequestPage", (await self._call("GET", "/aura/hitl/pending", params=query))[1])

    async def _decide(self, verdict: str, request_id: str, more: JsonObject) -> Decided:
        """It may be repeated: one that was taken already is answered as it stands."""
        body = {"userId": self.caller.user_id, **{name: value for name, value in more.items() if value is not None}}
        path = f"/aura/hitl/{verdict}/{quote(request_id, safe='')}"
        status, data = await self._call("POST", path, json=body, accepts=409)
        if "status" not in data:
            raise Refused(status, "", _NOT_OURS)
        return Decided(str(data["status"]), status != 409, data.get("reason"))

    async def _call(self, method: str, path: str, *, accepts: int = 200, **request: Any) -> tuple[int, JsonObject]:
        """The status and `data` of an answer; asked again while network or service are away. All calls here may be."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._patience_seconds, self._pause_seconds
        while True:
            try:
                response = await self._http.request(method, path, **request)
                if response.status_code != accepts:
                    await check(response)
                answer = json_object(response.content)
                if "success" not in answer:
                    raise Refused(response.status_code, "", _NOT_OURS)
                return response.status_code, answer.get("data") or {}
            except httpx2.TransportError as error:
                cause: ClientError = StreamLost(f"{method} {path} was not answered: {words(error)}")
            except Refused as error:
                if error.status not in TRANSIENT:
                    raise
                cause, pause = error, max(pause, error.retry_after_seconds or 0)
            if loop.time() + pause > until:
                raise cause
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MOST_PAUSE_SECONDS)


def _is_local(host: str) -> bool:
    """An address on this machine is not reached through a proxy of the environment."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
