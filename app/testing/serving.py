"""Serves the application in this process on a real socket, and the settings and tokens with which tests use it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from quart import Quart

from app.bootstrap.service import Service
from app.server.config import load_config
from app.server.hypercorn_internals import serve_app
from app.settings import Settings
from app.web.auth import issue_token

SECRET = "a secret of at least thirty-two bytes, for tests"  # noqa: S105 - of services that only tests start
_TOKEN_SECONDS = 10 * 365 * 86400
"""Longer than any test advances the clock."""


def make_settings(*, redis_url: str, model_url: str, **overrides: Any) -> Settings:
    """Return settings for a Redis and a model of a test, without the environment. `overrides` are other settings.

    Raises `ConfigurationError` with the name of a setting that does not exist or has an invalid value.
    """
    values: dict[str, Any] = {
        "jwt_secret": SECRET,
        "redis_url": redis_url,
        "openai_api_key": "test-key-0123456789",
        "openai_base_url": model_url,
        "aura_lease_seconds": 10,  # long enough that a loaded machine does not lose it
        "aura_drain_seconds": 0.5,
        "aura_max_wait_seconds": 0,  # disables load shedding, which a loaded machine could trigger
    }
    return Settings.from_environment({}, **{**values, **overrides})


def make_token(
    now: float,
    *,
    user: str = "user1",
    tenant: str = "tenant1",
    role: str | None = None,
    email: str | None = None,
    lifetime_seconds: int = _TOKEN_SECONDS,
) -> str:
    """Return a token of a user for a service with these settings. `now` is in Unix seconds."""
    return issue_token(
        SECRET, user_id=user, tenant_id=tenant, role=role, email=email, now=now, lifetime_seconds=lifetime_seconds
    )


@asynccontextmanager
async def serving(app: Quart, listener: socket.socket) -> AsyncIterator[Service]:
    """Serve on a listening socket, which this takes over, until the context exits; then shut down as SIGTERM does.

    It enters when the service has started. Raises what ended the start, such as the error of a resource.
    """
    service: Service = app.extensions["aura"]
    descriptor = listener.detach()
    config = load_config(f"fd://{descriptor}")
    started, stop = asyncio.Event(), asyncio.Event()

    async def trigger() -> None:
        started.set()
        await stop.wait()
        await service.drain()

    serving = asyncio.create_task(serve_app(app, config, trigger))
    start = asyncio.create_task(started.wait())
    await asyncio.wait({serving, start}, return_when=asyncio.FIRST_COMPLETED)
    if not started.is_set():
        start.cancel()
        socket.close(descriptor)  # Hypercorn opens it only after the start
        try:
            await serving  # raises the cause
        finally:
            await service.stop()  # what had started before
        raise RuntimeError("the service ended while it started")
    try:
        yield service
    finally:
        stop.set()
        await serving
