"""Clients, the command `aura ask`, and a configured mail tool, for the tests of `app.client` and `aura ask`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from app.client.client import AuraClient, Credentials
from app.client.frames import ReceivedEvent
from app.client.stream import Item, RunStream
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from app.settings import Settings
from app.web.auth import issue_token
from tests.harness.fork_server import ForkServer
from tests.harness.process import Command
from tests.harness.service import SECRET

MAIL = {"to": ["team@example.com"], "subject": "보고", "body": "첫 줄\n둘째 줄"}
ANSWER = "안녕하세요! 무엇을 도와드릴까요? " * 3
MakeSettings = Callable[..., Settings]
StartAsk = Callable[..., Command]
ME = ("--user", "user1", "--tenant", "tenant1")


def token(user: str = "user1") -> str:
    return issue_token(SECRET, user_id=user, tenant_id="tenant1", role=None, now=time.time(), lifetime_seconds=3600)


def client(url: str, **kwargs: Any) -> AuraClient:
    """Return a client of `user1`, or of another `token`, that retries quickly."""
    return AuraClient(
        url, Credentials.from_token(kwargs.pop("token", None) or token()), retry_delay_seconds=0.01, **kwargs
    )


async def collected(stream: RunStream) -> list[Item]:
    """Read the stream to its end."""
    return [item async for item in stream.items()]


def events(items: Iterable[Item]) -> list[ReceivedEvent]:
    """Return the events without the items about the connection."""
    return [item for item in items if isinstance(item, ReceivedEvent)]


def mail_call() -> ScriptedTurn:
    """Return a model turn that calls the mail tool."""
    return ScriptedTurn(tool_calls=[ScriptedCall(name="send_email", arguments=MAIL)])


@pytest.fixture
async def mail() -> AsyncIterator[SmtpSink]:
    async with SmtpSink() as sink:
        yield sink


@pytest.fixture
def mailing(settings: MakeSettings, mail: SmtpSink) -> Settings:
    return settings(smtp_host=mail.host, smtp_port=mail.port, smtp_tls="none", smtp_from="aura@example.com")


@pytest.fixture
def start_ask(fork_server: ForkServer) -> StartAsk:
    """A function that creates a process of `aura ask`, with or without a terminal."""

    def start(url: str, *arguments: str, in_terminal: bool = False, **environment: str) -> Command:
        environment = {"JWT_SECRET": SECRET, **environment}
        return Command(fork_server, environment, "ask", *arguments, "--url", url, in_terminal=in_terminal)

    return start
