"""Strict clients: one a run. Keeps every frame as it came, goes to another node when a stream breaks, decides what it
is asked, asks for the end where the plan says so. Judges nothing: that is `verdict`'s."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.dev.chaos.cluster import Cluster
from app.dev.chaos.plan import DecisionPath, RunPlan
from app.web.auth import issue_token

TENANT = "chaos"
DONE_BODY = b"data: [DONE]\n\n"
READ_TIMEOUT_SECONDS = 6.0
"""Heartbeats come more often."""
_LONG_READ_TIMEOUT_SECONDS = 45.0
_PAUSE_SECONDS = 0.25
_TOKEN_SECONDS = 24 * 3600

Verdict = Literal["approved", "rejected", "skipped"]
Frame = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class ClientDecision:
    """One request and what the client said to it; `final_status` is what the service made of it, where it said so."""

    request_id: str
    tool: str
    verdict: Verdict
    outcome_unknown: bool
    final_status: str


@dataclass(slots=True)
class RunRecord:
    """What one client saw and did."""

    plan: RunPlan
    session_id: str | None = None
    frames: list[Frame] = field(default_factory=list)
    decisions: list[ClientDecision] = field(default_factory=list)
    cancelled: bool = False
    """The service took the request for the run's end."""
    problems: list[str] = field(default_factory=list)
    connections: int = 0
    refusals: Counter[int] = field(default_factory=Counter)

    @property
    def is_done(self) -> bool:
        return bool(self.frames) and self.frames[-1][1] == DONE_BODY


class _RequestRefused(Exception):
    """The service did not answer with a stream: come back later."""


class RunClient:
    """The client of one run."""

    def __init__(self, plan: RunPlan, cluster: Cluster, http: httpx2.AsyncClient, redis: Redis, secret: str) -> None:
        self.record = RunRecord(plan)
        self._plan = plan
        self._cluster = cluster
        self._http = http
        self._redis = redis
        self._random = random.Random(plan.prompt)  # noqa: S311
        token = issue_token(
            secret, user_id=plan.user, tenant_id=TENANT, role=None, now=time.time(), lifetime_seconds=_TOKEN_SECONDS
        )
        self._headers = {"Authorization": f"Bearer {token}", "X-Tenant-ID": TENANT, "X-User-ID": plan.user}
        read_timeout = _LONG_READ_TIMEOUT_SECONDS if plan.has_long_read_timeout else READ_TIMEOUT_SECONDS
        self._timeout = httpx2.Timeout(READ_TIMEOUT_SECONDS, read=read_timeout, pool=None)

    async def follow(self) -> None:
        """Up to the end of the run, however often the stream breaks."""
        while not self.record.is_done:
            try:
                async with self._open() as response:
                    async for frame in _read_frames(response):
                        await self._handle_frame(frame)
            except (httpx2.TransportError, _RequestRefused):
                pass
            if not self.record.is_done:
                await asyncio.sleep(_PAUSE_SECONDS)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[httpx2.Response]:
        """Start the run (under one idempotency key, however often), or attach to it behind the last frame."""
        node = self._cluster.pick(self._random)
        if node is None:
            raise _RequestRefused
        record, url = self.record, f"{node.url}/aura/test/stream"
        if record.session_id is None:
            headers = {**self._headers, "Idempotency-Key": self._plan.prompt}
            opened = self._http.stream(
                "POST", url, json={"prompt": self._plan.prompt}, headers=headers, timeout=self._timeout
            )
        else:
            resume = {"Last-Event-ID": str(record.frames[-1][0])} if record.frames else {}
            query = {"sessionId": record.session_id}
            opened = self._http.stream(
                "GET", url, params=query, headers={**self._headers, **resume}, timeout=self._timeout
            )
        async with opened as response:
            record.connections += 1
            if response.status_code != 200:
                record.refusals[response.status_code] += 1
                if response.status_code not in (429, 503, 504):
                    record.problems.append(f"{opened} was answered {response.status_code}")
                raise _RequestRefused
            said = response.headers["X-Session-ID"]
            if record.session_id not in (None, said):
                record.problems.append(f"the run {record.session_id} is suddenly {said}")
            record.session_id = said
            yield response

    async def _handle_frame(self, frame: bytes) -> None:
        """Keep a frame as it is, then do what it asks for."""
        if frame.startswith(b":"):
            return
        head, _, body = frame.partition(b"\n")
        if not head.startswith(b"id: ") or not head[4:].isdigit():
            self.record.problems.append(f"no frame of ours: {frame[:80]!r}")
            return
        self.record.frames.append((int(head[4:]), body))
        if self._is_cancel_due():
            await self._cancel()
        elif body.startswith(b"event: hitl\n") and not self.record.cancelled:
            await self._decide(json.loads(body.partition(b"data: ")[2]))

    # --- cancelling ---------------------------------------------------------------------------------------------------

    def _is_cancel_due(self) -> bool:
        """Exactly once; what is asked for once must happen."""
        return len(self.record.frames) == self._plan.cancels_after and not self.record.is_done

    async def _cancel(self) -> None:
        verdict = await self._post_until_accepted(f"/aura/runs/{self.record.session_id}/cancel", {}, (202, 409))
        self.record.cancelled = verdict.status_code == 202

    # --- deciding -----------------------------------------------------------------------------------------------------

    async def _decide(self, request: dict[str, Any]) -> None:
        await asyncio.sleep(self._plan.decision_delay_seconds)
        request_id, unknown = str(request["requestId"]), request.get("outcomeUnknown") is True
        verdict: Verdict = "rejected" if self._plan.rejects else "approved"
        if unknown:
            verdict = "skipped" if self._plan.skips_unknown else "approved"
        if unknown or self._plan.decision_path is DecisionPath.HTTP:
            final_status = await self._decide_by_http(request_id, verdict)
        else:
            final_status = await self._retry_until_available(lambda: self._decide_in_redis(request_id, verdict))
        self.record.decisions.append(
            ClientDecision(request_id, str(request["actionType"]), verdict, unknown, final_status)
        )

    async def _decide_by_http(self, request_id: str, verdict: Verdict) -> str:
        verb = "approve" if verdict == "approved" else "reject"
        body: dict[str, Any] = {"skip": True} if verdict == "skipped" else {}
        response = await self._post_until_accepted(f"/aura/hitl/{verb}/{request_id}", body, (200, 409))
        return str(response.json()["data"]["status"])

    async def _decide_in_redis(self, request_id: str, verdict: Verdict) -> str:
        """As other services do, which share nothing with ours but the keys (§5)."""
        key, session_id = f"hitl:request:{request_id}", self.record.session_id
        signal = {
            "type": "approval" if verdict == "approved" else "rejection",
            "requestId": request_id,
            "status": verdict,
            "timestamp": int(time.time()),
        }
        if self._plan.decision_path is DecisionPath.MAIN_SERVICE:
            request = json.loads(await self._redis.get(key) or "{}")
            if request.get("status") != "pending":
                return str(request.get("status"))
            request |= {"status": verdict, f"{verdict}At": int(time.time() * 1000), f"{verdict}By": self._plan.user}
            await self._redis.set(key, json.dumps(request), keepttl=True)
        await self._redis.set(f"hitl:signal:{session_id}", json.dumps(signal), ex=300)
        await self._redis.publish(f"hitl:channel:{session_id}", json.dumps(signal))
        return verdict

    # --- patience -----------------------------------------------------------------------------------------------------

    async def _post_until_accepted(self, path: str, body: dict[str, Any], good: tuple[int, ...]) -> httpx2.Response:
        """Ask one node after the other."""
        while True:
            node = self._cluster.pick(self._random)
            if node is not None:
                try:
                    response = await self._http.post(
                        f"{node.url}{path}", json=body, headers=self._headers, timeout=READ_TIMEOUT_SECONDS
                    )
                except httpx2.TransportError:
                    pass
                else:
                    if response.status_code in good:
                        return response
                    self.record.refusals[response.status_code] += 1
                    if response.status_code not in (429, 503, 504):
                        self.record.problems.append(f"{path}: {response.status_code} {response.text[:200]}")
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _retry_until_available(self, attempt: Callable[[], Awaitable[str]]) -> str:
        """While Redis is away, whoever decides there comes back, too."""
        while True:
            try:
                return await attempt()
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(_PAUSE_SECONDS)


async def _read_frames(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Each ends with its blank line; what is cut off inside is nothing."""
    buffer = b""
    async for piece in response.aiter_raw():
        buffer += piece
        while b"\n\n" in buffer:
            frame, _, buffer = buffer.partition(b"\n\n")
            yield frame + b"\n\n"
