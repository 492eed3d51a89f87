"""The service in this process, served by Hypercorn on a real socket."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from quart import Quart

from app.bootstrap import create_app
from app.bootstrap.service import Service
from app.ports.clock import Clock
from app.settings import Settings
from app.settings.quotas import QuotaSettings
from app.testing.serving import SECRET, make_token, serving
from app.tools.loading import Loaded
from app.web.one_time_codes import OneTimeCodes
from tests.harness.conformity import Conformity
from tests.harness.frames import StreamReader

__all__ = ["FIXTURES", "NO_LIMITS", "SECRET", "STREAM", "Aura", "Client", "headers", "running"]

STREAM = "/aura/test/stream"
NO_LIMITS = dict.fromkeys(QuotaSettings.model_fields, 0)
"""Settings of a test in which one user starts hundreds of runs."""
FIXTURES = Path(__file__).parents[2] / "fixtures"


def headers(
    user: str = "user1", tenant: str = "tenant1", role: str | None = None, email: str | None = None, **more: str
) -> dict[str, str]:
    token = make_token(time.time(), user=user, tenant=tenant, role=role, email=email, lifetime_seconds=3600)
    return {"Authorization": f"Bearer {token}", "X-Tenant-ID": tenant, "X-User-ID": user, **more}


class Client:
    """The requests of a test to a running service, in this process or another one."""

    client: httpx2.AsyncClient

    @asynccontextmanager
    async def stream(
        self, prompt: str | None = None, *, method: str = "POST", body: Any = None, **kwargs: Any
    ) -> AsyncIterator[StreamReader]:
        """POST a prompt (or `body`) and read the stream; `headers` default to user1 of tenant1."""
        kwargs.setdefault("headers", headers())
        if method == "POST":
            kwargs["json"] = body if body is not None else {"prompt": prompt}
        async with self.client.stream(method, STREAM, **kwargs) as response:
            yield StreamReader(response)

    async def decide(self, verdict: str, request_id: str, *, as_: dict[str, str] | None = None, **body: Any) -> Any:
        sent = as_ or headers()
        body = {"userId": sent["X-User-ID"], **body}
        return await self.client.post(f"/aura/hitl/{verdict}/{request_id}", json=body, headers=sent)


@dataclass
class Aura(Client):
    """A service that runs in this process, and its HTTP client."""

    url: str
    app: Quart
    client: httpx2.AsyncClient

    @property
    def service(self) -> Service:
        service: Service = self.app.extensions["aura"]
        return service


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    clock: Clock | None = None,
    tools: Sequence[Loaded] | None = None,
    one_time_codes: OneTimeCodes | None = None,
    port: int = 0,
) -> AsyncIterator[Aura]:
    """Serve until the context exits, then shut down as SIGTERM does. Without a port it takes a free one."""
    app = create_app(settings, clock=clock, tools=tools, one_time_codes=one_time_codes)
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    hooks = {"response": [Conformity(app).hook()]}
    async with httpx2.AsyncClient(base_url=url, timeout=httpx2.Timeout(30, pool=None), event_hooks=hooks) as client:
        async with serving(app, listener):
            yield Aura(url, app, client)
