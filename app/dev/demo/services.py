"""Starts the services that the demo uses, and the real service with them.

Mail, GitHub and the Main Service are always stand-ins; only the model may be real."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from app.clock import SystemClock
from app.dev.demo import events
from app.dev.demo.embeddings import EMBEDDING_MODEL_NAME
from app.dev.demo.github import GitHubStandIn
from app.dev.demo.main_service import MainServiceStandIn
from app.dev.demo.model import MODEL_NAME, ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.scenarios import Scenario
from app.dev.demo.smtp import SmtpSink
from app.errors import ConfigurationError
from app.server import process
from app.server.config import load_config
from app.settings import Settings
from app.web.auth import issue_token
from app.web.one_time_codes import OneTimeCodes
from app.web.token_keys import TokenRules

HOST = "127.0.0.1"
USER_ID, TENANT_ID, EMAIL = "demo", "tenant1", "demo@dwp.test"
_TOKEN_SECONDS = 24 * 3600
_USER_SETTING_PREFIXES = ("openai_", "aura_", "hitl_")


def demo_settings() -> Settings:
    """The settings of the environment for the model and for Aura; those for every other service are ignored.

    Raises `ConfigurationError`.
    """
    unset = {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
        if not name.startswith(_USER_SETTING_PREFIXES)
    }
    return Settings.from_environment(**{**unset, "jwt_secret": secrets.token_urlsafe(48)})


def fixtures() -> Path:
    """The folder of the fixtures: beside this file in an installed package, at the top level in a checkout."""
    here = Path(__file__).parent
    return next(folder for folder in (here / "fixtures", here.parents[2] / "fixtures") if folder.is_dir())


def sample_events() -> list[str]:
    return (fixtures() / "knowledge" / "events.jsonl").read_text(encoding="utf-8").splitlines()


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a TCP port of 127.0.0.1; `port` 0 chooses a free one.

    Raises `ConfigurationError` where the port is in use or not allowed.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigurationError(f"port {port}: {error.strerror}; choose another one with --port") from error


@dataclass(frozen=True, slots=True)
class DemoServices:
    """The running services, and the settings with which Aura uses them."""

    settings: Settings
    redis: RedisServer
    mail: SmtpSink
    github: GitHubStandIn
    main_service: MainServiceStandIn
    uses_scripted_model: bool
    one_time_codes: OneTimeCodes
    """Issues the codes of console links; their tokens have a role that may decide every request of the tenant."""

    @property
    def token(self) -> str:
        return _issue_token(self.settings, role=None)

    @asynccontextmanager
    async def run_service(self, listener: socket.socket, stop: asyncio.Event) -> AsyncIterator[str]:
        """Run the service on the socket until the context exits; yields its address.

        `stop` is set where the service ends earlier.
        """
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        config = load_config(f"fd://{listener.detach()}")
        config.loglevel = "WARNING"
        started = asyncio.Event()
        service = asyncio.create_task(
            process.serve(self.settings, config, stop=stop, started=started, one_time_codes=self.one_time_codes)
        )
        service.add_done_callback(lambda _: stop.set())  # callers must not wait for a service that has ended
        service.add_done_callback(lambda _: started.set())
        try:
            await started.wait()
            if self.settings.aura_knowledge and not stop.is_set():
                await events.publish(self.redis.url, sample_events())
            yield url
        finally:
            stop.set()
            await service


@asynccontextmanager
async def start_services(settings: Settings, scenarios: Sequence[Scenario] = ()) -> AsyncIterator[DemoServices]:
    """Start the services; stop them when the context exits. The scripted model plays `scenarios` before its own."""
    uses_scripted_model = settings.openai_api_key is None
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer("--appendonly", "yes"))  # the service warns where Redis is not durable
        mail = await stack.enter_async_context(SmtpSink())
        github_token = secrets.token_hex(16)
        github = await stack.enter_async_context(GitHubStandIn(fixtures() / "github", token=github_token))
        main_service = await stack.enter_async_context(MainServiceStandIn())
        service_settings = {
            "redis_url": SecretStr(redis.url),
            "smtp_host": mail.host,
            "smtp_port": mail.port,
            "smtp_tls": "none",
            "smtp_from": "aura@example.com",
            "github_token": SecretStr(github_token),
            "github_api_url": github.url,
            "aura_github_repositories": {TENANT_ID: frozenset({"dwp-platform/*"})},
            "main_service_url": main_service.url,
            "aura_console": True,
        }
        if uses_scripted_model:
            model = await stack.enter_async_context(ScriptedModelServer())
            model.add(*scenarios)
            model.load(fixtures() / "model_turns")
            service_settings |= {
                "openai_api_key": SecretStr("scripted, no secret"),
                "openai_base_url": model.base_url,
                "openai_model": MODEL_NAME,
                "aura_model_fallbacks": (),
                "openai_embedding_model": EMBEDDING_MODEL_NAME,
            }
        settings = settings.model_copy(update=service_settings)
        one_time_codes = OneTimeCodes(
            SystemClock(), partial(_issue_token, settings, role=min(settings.aura_approver_roles, default=None))
        )
        yield DemoServices(settings, redis, mail, github, main_service, uses_scripted_model, one_time_codes)


def _issue_token(settings: Settings, *, role: str | None) -> str:
    secret = settings.jwt_secret.get_secret_value()
    rules = TokenRules(*settings.token_rules)
    lifetime = min(_TOKEN_SECONDS, rules.max_lifetime_seconds or _TOKEN_SECONDS)
    return issue_token(
        secret,
        user_id=USER_ID,
        tenant_id=TENANT_ID,
        role=role,
        now=time.time(),
        lifetime_seconds=lifetime,
        email=EMAIL,
        rules=rules,
    )
