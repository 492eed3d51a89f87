"""A planted secret of every kind is found nowhere that the service ever wrote."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import redis
from pydantic import SecretStr

from app import logs
from app.dev.demo.github import GitHubStandIn
from app.dev.demo.http import Request, Response
from app.dev.demo.main_service import MainServiceStandIn
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from app.settings import Settings
from app.settings.types import ModelServer
from app.web.auth import issue_token
from tests.harness.frames import answer
from tests.harness.knowledge import mail
from tests.harness.logged import Written
from tests.harness.postgres import PostgresServer
from tests.harness.raw import MakeSettings
from tests.harness.service import FIXTURES, STREAM, Aura, running
from tests.harness.stored import everything_stored
from tests.harness.tools import calling
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

JWT_SECRET = "planted-jwt/secret & of at least 32 bytes"
REDIS_PASSWORD = "planted-redis/pass&word"
OPENAI_KEY = "sk-planted-openai-key-4711"
FALLBACK_KEY = "sk-planted-fallback-key-4712"
SMTP_PASSWORD = "planted-smtp'pass\\word"
GITHUB_TOKEN = "ghp_plantedgithubtoken4713"
POSTGRES_PASSWORD = "planted-postgres/pass&word"
AUDIT_KEY = "planted-audit-key/of at least 32 bytes"
OLDER_JWT_SECRET = "planted-older-jwt/secret & of at least 32 bytes"

USER_TOKEN = issue_token(
    JWT_SECRET, user_id="user1", tenant_id="tenant1", role=None, now=time.time(), lifetime_seconds=3600
)
PLANTED = {
    "JWT secret": JWT_SECRET,
    "Redis password": REDIS_PASSWORD,
    "API key": OPENAI_KEY,
    "fallback key": FALLBACK_KEY,
    "SMTP password": SMTP_PASSWORD,
    "GitHub token": GITHUB_TOKEN,
    "PostgreSQL password": POSTGRES_PASSWORD,
    "key of the audit record": AUDIT_KEY,
    "accepted JWT secret": OLDER_JWT_SECRET,
    "user's token": USER_TOKEN,
    "signature of the user's token": USER_TOKEN.rpartition(".")[2],
}
HEADERS = {"Authorization": f"Bearer {USER_TOKEN}", "X-Tenant-ID": "tenant1", "X-User-ID": "user1"}
LETTER = {"to": ["team@example.com"], "subject": "보고", "body": "첫 줄"}


def spellings(secret: str) -> set[str]:
    """Return the forms in which a secret can appear in text."""
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    return {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1], encoded}


class QuotingGitHub(GitHubStandIn):
    """Quotes the token that it refuses, as a proxy in between may do."""

    async def _handle(self, request: Request, response: Response) -> None:
        if "/secret/" in request.path:
            await response.json(403, {"message": f"{request.headers['authorization']} may not read {self.url}"})
        else:
            await super()._handle(request, response)


@dataclass
class World:
    """The service with all its neighbours, and everything that it wrote to them."""

    aura: Aura
    model: ScriptedModelServer
    backup: ScriptedModelServer
    smtp: SmtpSink
    github: QuotingGitHub
    main: MainServiceStandIn
    redis_server: RedisServer
    redis: redis.Redis
    postgres: PostgresServer | None
    answers: list[bytes] = field(default_factory=list)

    async def run(self, *turns: ScriptedTurn) -> str:
        """Run a prompt, approve what it requests, and return its answer and its errors."""
        self.model.play(*turns)
        async with self.aura.stream("부탁해요", headers=HEADERS) as stream:
            while stream.last is None or not stream.last.is_done:
                frame = await stream.next()
                self.answers.append(frame.raw.encode())
                if frame.type == "hitl":
                    decided = await self.aura.decide("approve", frame["requestId"], as_=HEADERS)
                    assert decided.status_code == 200
            shown = [frame.data for frame in stream.seen if frame.type in ("error", "end", "tool_execution")]
            return " ".join([answer(stream.seen), *(f"{each.get('message')} {each.get('error')}" for each in shown)])


@pytest.fixture
def postgres_with_password() -> Iterator[PostgresServer | None]:
    if PostgresServer.find() is None:
        yield None
        return
    with PostgresServer() as server:
        server.execute(f"ALTER USER aura PASSWORD '{POSTGRES_PASSWORD}'")
        yield server


@pytest.fixture(params=["postgres", "sqlite"])
async def world(
    request: pytest.FixtureRequest,
    settings: MakeSettings,
    model: ScriptedModelServer,
    written: Written,
    tmp_path: Path,
) -> AsyncIterator[World]:
    postgres = request.getfixturevalue("postgres_with_password") if request.param == "postgres" else None
    async with AsyncExitStack() as stack:
        server = await asyncio.to_thread(lambda: RedisServer("--requirepass", REDIS_PASSWORD, persistent=True).start())
        stack.callback(server.stop)
        backup = await stack.enter_async_context(ScriptedModelServer(pace=0))
        smtp = await stack.enter_async_context(SmtpSink(credentials=("aura", SMTP_PASSWORD)))
        github = await stack.enter_async_context(QuotingGitHub(FIXTURES / "github", token=GITHUB_TOKEN))
        main = await stack.enter_async_context(MainServiceStandIn())
        index: dict[str, Any] = {"aura_knowledge_path": str(tmp_path / "index.db")}
        if postgres is not None:
            password = quote(POSTGRES_PASSWORD, safe="")
            folder = quote(str(postgres.url.partition("host=")[2]), safe="/")
            url = f"postgresql://aura:{password}@/postgres?host={folder}"
            index = {"aura_knowledge_url": url, "aura_audit_url": url}
        made = settings(
            jwt_secret=JWT_SECRET,
            jwt_secrets_accepted=(OLDER_JWT_SECRET,),
            aura_audit_key=AUDIT_KEY,
            redis_url=f"redis://:{quote(REDIS_PASSWORD, safe='')}@127.0.0.1:{server.port}/0",
            aura_redis_timeout_seconds=1,
            openai_api_key=OPENAI_KEY,
            aura_model_fallbacks=(ModelServer("backup-model", backup.base_url, SecretStr(FALLBACK_KEY)),),
            smtp_host=smtp.host,
            smtp_port=smtp.port,
            smtp_tls="none",
            smtp_from="aura@example.com",
            smtp_username="aura",
            smtp_password=SMTP_PASSWORD,
            github_token=GITHUB_TOKEN,
            github_api_url=github.url,
            main_service_url=main.url,
            **{"aura_log_level": "DEBUG", "aura_log_content": True, "aura_model_attempts": 2, **index},
        )
        _log_with(made)
        client = stack.enter_context(redis.Redis(port=server.port, password=REDIS_PASSWORD, decode_responses=False))
        aura = await stack.enter_async_context(running(made))
        found = World(aura, model, backup, smtp, github, main, server, client, postgres)
        aura.client.event_hooks["response"].append(_recorder(found.answers))
        yield found


def _log_with(settings: Settings) -> None:
    """Configure the log as `aura serve` does, and keep where the fixture `written` has it go."""
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    stream = handler.stream
    logs.configure(settings.aura_log_level, settings.aura_log_format, settings.secrets)
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # the mail server's own, in the same process


def _recorder(answers: list[bytes]) -> Any:
    async def record(response: httpx2.Response) -> None:
        answers.append(repr(response.headers.multi_items()).encode())
        if response.headers.get("content-type") == "application/json":
            answers.append(await response.aread())

    return record


async def _use_every_integration(world: World) -> None:
    done = ScriptedTurn(text="끝났습니다.")
    pull = {"owner": "dwp", "repo": "aura", "number": 42}
    assert "끝났습니다." in await world.run(calling(("send_email", LETTER)), done)
    assert "끝났습니다." in await world.run(calling(("github_get_pr", pull)), done)
    assert world.smtp.messages
    world.redis.publish("dwp:events:mail", json.dumps(mail(1)))
    await eventually(lambda: any(b"knowledge" in key for key in world.redis.keys("*knowledge*log*")))
    assert "끝났습니다." in await world.run(calling(("search_workspace", {"query": "견적서"})), done)
    for path in ("/aura/runs", "/aura/hitl/pending", "/ready", "/aura/info", "/openapi.json"):
        assert (await world.aura.client.get(path, headers=HEADERS)).status_code == 200
    (run, *_) = (await world.aura.client.get("/aura/runs", headers=HEADERS)).json()["data"]["runs"]
    for path in ("", "/timeline", "/timeline?format=trace"):
        await world.aura.client.get(f"/aura/runs/{run['sessionId']}{path}", headers=HEADERS)


async def _break_every_integration(world: World) -> None:
    done = ScriptedTurn(text="끝났습니다.")
    world.smtp.refuse_with = f"550 5.7.1 {SMTP_PASSWORD} is no password for {world.smtp.host}"
    assert "refused the message" in await world.run(calling(("send_email", LETTER)), done)
    await world.smtp.stop()
    foreign = {"owner": "dwp", "repo": "secret", "number": 1}
    assert "may not do this" in await world.run(calling(("github_get_pr", foreign)), done)
    await world.github.stop()
    assert "GitHub cannot be reached" in await world.run(calling(("github_get_pr", foreign)), done)
    if world.postgres is not None:
        world.postgres.kill()
        assert "cannot be searched" in await world.run(calling(("search_workspace", {"query": "견적서"})), done)
    world.main.rejects_tokens = True
    world.backup.play(*[ScriptedTurn(status=401, error_message=f"Incorrect API key: {FALLBACK_KEY}")] * 2)
    refused = ScriptedTurn(
        status=401, error_message=f"Incorrect API key provided: {OPENAI_KEY} at {world.model.base_url}"
    )
    assert "Incorrect API key" in await world.run(refused, refused)
    world.model.clear()
    world.backup.clear()
    await _send_bad_requests(world)
    world.redis_server.pause()
    try:
        assert (await world.aura.client.get("/ready")).status_code == 503
        assert (await world.aura.client.get("/aura/runs", headers=HEADERS)).status_code == 503
    finally:
        world.redis_server.resume()
    await eventually(world.redis.ping)


async def _send_bad_requests(world: World) -> None:
    """Send the token where it does not belong, and broken."""
    client = world.aura.client
    for sent in (
        {**HEADERS, "Authorization": f"Bearer {USER_TOKEN[:-4]}AAAA"},
        {**HEADERS, "Authorization": f"Basic {USER_TOKEN}"},
        {**HEADERS, "X-Tenant-ID": "tenant2", "X-DWP-Source": USER_TOKEN},
        {**HEADERS, "Idempotency-Key": USER_TOKEN * 2, "X-DWP-Caller-Type": USER_TOKEN, "X-Forwarded-For": USER_TOKEN},
    ):
        response = await client.post(STREAM, json={"prompt": "x"}, headers=sent)
        assert response.status_code in (400, 401, 403)
        world.answers.append(response.content)


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_planted_secret_of_every_kind_is_found_nowhere(world: World, written: Written, tmp_path: Path) -> None:
    listener = world.redis.pubsub()  # type: ignore[no-untyped-call]
    listener.psubscribe("*")
    await _use_every_integration(world)
    await _break_every_integration(world)
    places = {
        "log": written().encode(),
        "answers and streams": b"\n".join(world.answers),
        "Redis": everything_stored(world.redis),
        "Pub/Sub": repr(_messages(listener)).encode(),
        "everything that Redis ever stored": _files(world.redis_server.directory),
        "files": _files(tmp_path),
        "the model": json.dumps(
            [world.model.requests, world.backup.requests], ensure_ascii=False, default=str
        ).encode(),
        "mails": b"\n".join(message.raw for message in world.smtp.messages),
        "the Main Service": repr([(each.path, each.query, each.body) for each in world.main.requests]).encode(),
    }
    for place, content in places.items():
        assert content or (place == "files" and world.postgres is not None), f"{place} must have been used"
        for kind, secret in PLANTED.items():
            found = [spelling for spelling in spellings(secret) if spelling.encode() in content]
            assert not found, f"the {kind} is in {place}: {_around(content, found[0])!r}"


def _messages(listener: redis.client.PubSub) -> list[Any]:
    found = []
    while (message := listener.get_message(timeout=0.2)) is not None:
        found.append(message)
    return found


def _files(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def _around(content: bytes, found: str) -> bytes:
    at = content.index(found.encode())
    return content[max(0, at - 150) : at + 150]
