"""Pages of other origins (CORS): only those in `AURA_CORS_ORIGINS` can read answers, and by default none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ConfigurationError, ServiceBusy
from app.settings import Settings
from app.web.responses import STREAM_PATH
from tests.harness.service import SECRET, headers, running

MakeSettings = Callable[..., Settings]
PORTAL = "https://portal.example.com"
ORIGINS = frozenset({PORTAL, "http://localhost:5173"})
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,last-event-id,x-tenant-id",
}


def cors_headers(answer: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("access-control")}


async def test_by_default_no_answer_has_a_header_for_other_origins(settings: MakeSettings) -> None:
    async with running(settings()) as aura:
        preflight = await aura.client.request("OPTIONS", STREAM_PATH, headers={"Origin": PORTAL, **PREFLIGHT})
        answer = await aura.client.get("/aura/runs", headers={**headers(), "Origin": PORTAL})
    assert preflight.status_code == 204
    assert cors_headers(preflight) == cors_headers(answer) == {}
    assert "Vary" not in answer.headers


@pytest.mark.parametrize("origin", sorted(ORIGINS))
async def test_preflight_of_a_named_origin_is_allowed_without_a_token(settings: MakeSettings, origin: str) -> None:
    async with running(settings(aura_cors_origins=ORIGINS)) as aura:
        for path in (STREAM_PATH, "/aura/approvals/req-0123456789ab/approve"):
            answer = await aura.client.request("OPTIONS", path, headers={"Origin": origin, **PREFLIGHT})
            assert (answer.status_code, answer.content) == (204, b"")
            sent = cors_headers(answer)
            assert sent["access-control-allow-origin"] == origin
            allowed = sent["access-control-allow-headers"].lower().split(", ")
            assert set(PREFLIGHT["Access-Control-Request-Headers"].split(",")) <= set(allowed)
            assert "POST" in sent["access-control-allow-methods"].split(", ")
            assert "access-control-allow-credentials" not in sent
            assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example.com", "https://portal.example.com.evil.com", "http://portal.example.com", "null"]
)
async def test_another_origin_gets_no_header(settings: MakeSettings, origin: str) -> None:
    async with running(settings(aura_cors_origins=ORIGINS)) as aura:
        preflight = await aura.client.request("OPTIONS", STREAM_PATH, headers={"Origin": origin, **PREFLIGHT})
        answer = await aura.client.get("/aura/runs", headers={**headers(), "Origin": origin})
    assert cors_headers(preflight) == cors_headers(answer) == {}
    assert "Origin" in answer.headers["Vary"]


async def test_a_stream_and_its_ids_can_be_read_by_a_named_origin(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    model.play(ScriptedTurn(text="안녕하세요."))
    async with running(settings(aura_cors_origins=ORIGINS)) as aura:
        sent = {**headers(), "Origin": PORTAL}
        answer = await aura.client.post(STREAM_PATH, json={"prompt": "안녕"}, headers=sent)
    assert "[DONE]" in answer.text
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Access-Control-Allow-Origin"] == PORTAL
    assert {"X-Session-ID", "X-Correlation-ID"} <= set(answer.headers["Access-Control-Expose-Headers"].split(", "))


@pytest.mark.parametrize(("path", "status"), [("/aura/runs", 401), ("/nowhere", 404), (STREAM_PATH, 401)])
async def test_errors_can_be_read_by_a_named_origin(settings: MakeSettings, path: str, status: int) -> None:
    async with running(settings(aura_cors_origins=ORIGINS)) as aura:
        answer = await aura.client.get(path, headers={"Origin": PORTAL})
    assert answer.status_code == status
    assert answer.headers["Access-Control-Allow-Origin"] == PORTAL


async def test_a_refusal_under_overload_can_be_read_by_a_named_origin(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(settings(aura_cors_origins=ORIGINS)) as aura:

        def refuse(_: str) -> None:
            raise ServiceBusy("the queue is full")

        monkeypatch.setattr(aura.service.admission, "check", refuse)
        sent = {**headers(), "Origin": PORTAL}
        answer = await aura.client.post(STREAM_PATH, json={"prompt": "안녕"}, headers=sent)
    assert answer.status_code == 503
    assert answer.headers["Access-Control-Allow-Origin"] == PORTAL
    assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
    assert answer.headers["Vary"] == "Origin"


def read(origins: str) -> frozenset[str]:
    return Settings.from_environment({"JWT_SECRET": SECRET, "AURA_CORS_ORIGINS": origins}).aura_cors_origins


def test_origins_are_separated_by_commas() -> None:
    assert read(f" {PORTAL}, http://localhost:5173,http://[::1]:3000 ") == {*ORIGINS, "http://[::1]:3000"}
    assert read("") == frozenset()


@pytest.mark.parametrize(
    ("origins", "cause"),
    [
        ("*", "name each origin"),
        ("https://a.com/", "is no origin"),
        ("https://a.com/app", "is no origin"),
        ("https://A.com", "in lower case"),
        ("a.com", "is no origin"),
        ("null", "is no origin"),
        ("https://*.a.com", "is no origin"),
        ("https://a.com:443", "default port"),
        ("http://a.com:80", "default port"),
    ],
)
def test_what_no_browser_sends_as_origin_stops_the_start(origins: str, cause: str) -> None:
    with pytest.raises(ConfigurationError, match="AURA_CORS_ORIGINS: ") as caught:
        read(origins)
    assert cause in str(caught.value)
