"""Strict clients, one for each run.

A client records every frame unchanged, reconnects to another node when a stream breaks, decides approval requests and
cancels the run where the plan says so. It does not evaluate what it records; `verdict` does.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2

from app.dev.chaos.cluster import Cluster
from app.dev.chaos.plan import DecisionPath, RunPlan
from app.redis.wire.connection import Connection
from app.retry import retry_until_available
from app.web.auth import issue_token

TENANT = "chaos"
DONE_BODY = b"data: [DONE]\n\n"
READ_TIMEOUT_SECONDS = 6.0
"""The read timeout of a stream (s). It is longer than the heartbeat interval, so that only a dead stream reaches it."""
_LONG_READ_TIMEOUT_SECONDS = 45.0
_PAUSE_SECONDS = 0.25
_TOKEN_SECONDS = 24 * 3600

Verdict = Literal["approved", "rejected", "skipped"]
Frame = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class ClientDecision:
    """One approval request and the client's decision."""

    request_id: str
    tool: str
    verdict: Verdict
    outcome_unknown: bool


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """One stream that a client opened. The client had received `frames_before` frames of the run by then."""

    node_url: str
    frames_before: int


@dataclass(slots=True)
class RunRecord:
    """What one client received and did."""

    plan: RunPlan
    session_id: str | None = None
    frames: list[Frame] = field(default_factory=list)
    decisions: list[ClientDecision] = field(default_factory=list)
    cancelled: bool = False
    """Whether the service accepted the cancel request, or may have accepted one that it did not answer."""
    problems: list[str] = field(default_factory=list)
    connections: list[ClientConnection] = field(default_factory=list)
    refusals: Counter[int] = field(default_factory=Counter)
    is_gone: bool = False
    """Whether the service has answered that the run, which was there, does not exist."""
    started_at: float = 0.0
    ended_at: float = math.inf
    """When the client began, and when it had the end (Unix s)."""

    @property
    def is_done(self) -> bool:
        return bool(self.frames) and self.frames[-1][1] == DONE_BODY


class _RequestRefused(Exception):
    """The service did not answer with a stream; the client retries, except where the run is gone."""


class RunClient:
    """Executes one `RunPlan` against the cluster and records the result in `record`."""

    def __init__(
        self, plan: RunPlan, cluster: Cluster, http: httpx2.AsyncClient, redis: Connection, secret: str
    ) -> None:
        self.record = RunRecord(plan)
        self._plan = plan
        self._cluster = cluster
        self._http = http
        self._redis = redis
        self._random = random.Random(plan.prompt)  # noqa: S311
        token = issue_token(
            secret, user_id=plan.user, tenant_id=TENANT, role=None, now=time.time(), lifetime_seconds=_TOKEN_SECONDS
        )
        self._failed_posts = 0  # the service may have carried out what such a request asks for
        self._headers = {"Authorization": f"Bearer {token}", "X-Tenant-ID": TENANT, "X-User-ID": plan.user}
        read_timeout = _LONG_READ_TIMEOUT_SECONDS if plan.has_long_read_timeout else READ_TIMEOUT_SECONDS
        self._timeout = httpx2.Timeout(READ_TIMEOUT_SECONDS, read=read_timeout, pool=None)

    async def follow(self) -> None:
        """Read the run to its end; reconnect whenever the stream breaks."""
        self.record.started_at = time.time()
        while not self.record.is_done and not self.record.is_gone:
            try:
                async with self._open() as response:
                    async for frame in _read_frames(response):
                        await self._handle_frame(frame)
            except (httpx2.TransportError, _RequestRefused):
                pass
            if not self.record.is_done:
                await asyncio.sleep(_PAUSE_SECONDS)
        self.record.ended_at = time.time()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[httpx2.Response]:
        """Start the run, with one idempotency key for all attempts, or resume it after the last received frame."""
        node = self._cluster.pick(self._random)
        if node is None:
            raise _RequestRefused
        record, url = self.record, f"{node.url}/aura/test/stream"
        if record.session_id is None:
            headers = {**self._headers, "Idempotency-Key": self._plan.prompt}
            request = self._http.stream(
                "POST", url, json={"prompt": self._plan.prompt}, headers=headers, timeout=self._timeout
            )
        else:
            resume = {"Last-Event-ID": str(record.frames[-1][0])} if record.frames else {}
            query = {"sessionId": record.session_id}
            request = self._http.stream(
                "GET", url, params=query, headers={**self._headers, **resume}, timeout=self._timeout
            )
        async with request as response:
            record.connections.append(ClientConnection(node.url, len(record.frames)))
            if response.status_code != 200:
                self._note_refusal(f"{response.request.method} {response.request.url}", response.status_code)
                if response.status_code == 404 and record.session_id is not None:
                    record.is_gone = not record.frames
                    record.frames.clear()  # storage has lost the last of them: what there is now is read from its begin
                raise _RequestRefused
            session_id = response.headers.get("X-Session-ID", record.session_id)  # without it, the stream is an error
            if record.session_id not in (None, session_id):
                record.problems.append(f"the stream of run {record.session_id} names the run {session_id}")
            record.session_id = session_id
            yield response

    async def _handle_frame(self, frame: bytes) -> None:
        """Record a frame; cancel the run or decide an approval request where that is due."""
        if frame.startswith(b":"):
            await self._decide_again()
            return
        head, _, body = frame.partition(b"\n")
        if not head.startswith(b"id: ") or not head[4:].isdigit():
            self.record.problems.append(f"not a frame: {frame[:80]!r}")
            return
        self.record.frames.append((int(head[4:]), body))
        if self._is_cancel_due():
            await self._cancel()
        elif self._is_asked():
            await self._decide()

    # --- cancelling ---------------------------------------------------------------------------------------------------

    def _is_cancel_due(self) -> bool:
        """True exactly once: the service must carry out a request that is made only once."""
        return len(self.record.frames) == self._plan.cancels_after and not self.record.is_done

    async def _cancel(self) -> None:
        path, before = f"/aura/runs/{self.record.session_id}/cancel", self._failed_posts
        self.record.cancelled = True  # where the experiment is interrupted here, the service may have accepted it
        response = await self._post_until_accepted(path, {}, (202, 404, 409))
        self.record.cancelled = response.status_code == 202 or self._failed_posts > before

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _is_asked(self) -> bool:
        """Whether the run waits for a decision of this client, as far as it knows."""
        frames = self.record.frames
        return bool(frames) and frames[-1][1].startswith(b"event: hitl\n") and not self.record.cancelled

    async def _decide_again(self) -> None:
        """Decide once more, as a person does who still sees the request: a failover can lose it, or the decision."""
        if self._is_asked():
            await self._decide()

    async def _decide(self) -> None:
        await asyncio.sleep(self._plan.decision_delay_seconds)
        request = json.loads(self.record.frames[-1][1].partition(b"data: ")[2])
        request_id, unknown = str(request["requestId"]), request.get("outcomeUnknown") is True
        verdict: Verdict = "rejected" if self._plan.rejects else "approved"
        if unknown:
            verdict = "skipped" if self._plan.skips_unknown else "approved"
        # It is recorded first: where the experiment is interrupted, it may count.
        decision = ClientDecision(request_id, str(request["actionType"]), verdict, unknown)
        if decision not in self.record.decisions:
            self.record.decisions.append(decision)
        if unknown or self._plan.decision_path is DecisionPath.HTTP:
            await self._decide_by_http(request_id, verdict)
        else:
            await retry_until_available(lambda: self._decide_in_redis(request_id, verdict))

    async def _decide_by_http(self, request_id: str, verdict: Verdict) -> None:
        verb = "approve" if verdict == "approved" else "reject"
        body: dict[str, Any] = {"skip": True} if verdict == "skipped" else {}
        await self._post_until_accepted(f"/aura/hitl/{verb}/{request_id}", body, (200, 404, 409))

    async def _decide_in_redis(self, request_id: str, verdict: Verdict) -> None:
        """Decide as the other services do, which share only the Redis keys with Aura (CONTRACT §5)."""
        key, session_id = f"hitl:request:{request_id}", self.record.session_id
        signal = {
            "type": "approval" if verdict == "approved" else "rejection",
            "requestId": request_id,
            "status": verdict,
            "timestamp": int(time.time()),
        }
        if self._plan.decision_path is DecisionPath.MAIN_SERVICE:
            request = json.loads(await self._redis.execute("GET", key) or "{}")
            if request.get("status") != "pending":
                return
            request |= {"status": verdict, f"{verdict}At": int(time.time() * 1000), f"{verdict}By": self._plan.user}
            await self._redis.execute("SET", key, json.dumps(request), "KEEPTTL")
        await self._redis.execute("SET", f"hitl:signal:{session_id}", json.dumps(signal), "EX", 300)
        await self._redis.execute("PUBLISH", f"hitl:channel:{session_id}", json.dumps(signal))

    # --- retrying -----------------------------------------------------------------------------------------------------

    async def _post_until_accepted(self, path: str, body: dict[str, Any], accepted: tuple[int, ...]) -> httpx2.Response:
        """Post to one node after the other until one answers with an `accepted` status."""
        while True:
            node = self._cluster.pick(self._random)
            if node is not None:
                try:
                    response = await self._http.post(
                        f"{node.url}{path}", json=body, headers=self._headers, timeout=READ_TIMEOUT_SECONDS
                    )
                except httpx2.TransportError:
                    self._failed_posts += 1
                else:
                    if response.status_code in accepted:
                        return response
                    self._failed_posts += 1
                    self._note_refusal(path, response.status_code)
            await asyncio.sleep(_PAUSE_SECONDS)

    def _note_refusal(self, what: str, status: int) -> None:
        """Count an answer that is no success; some are expected at overload and in an outage."""
        self.record.refusals[status] += 1
        if status not in (429, 503, 504):
            self.record.problems.append(f"{what}: {status}")


async def _read_frames(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield each frame with its blank line at the end. An incomplete frame at the end of the stream is dropped."""
    buffer = b""
    async for piece in response.aiter_raw():
        buffer += piece
        while b"\n\n" in buffer:
            frame, _, buffer = buffer.partition(b"\n\n")
            yield frame + b"\n\n"
