"""Every rejection of §1: its status, its code and its form. The model is never requested."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import pytest
import pytest_asyncio
import redis
from joserfc import jwt
from joserfc.jwk import OctKey

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.settings import Settings
from tests.app.web.rejections import JSON, JSON_REJECTIONS, STREAM_REJECTIONS, Rejection, bearer, token
from tests.harness.frames import DONE, parse_frame, types
from tests.harness.raw import RawStream
from tests.harness.service import SECRET, STREAM, Aura, headers, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "test-key-0123456789"
SSE = "text/event-stream"


@dataclass
class Served:
    aura: Aura
    model: ScriptedModelServer


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="served")
async def _served(redis_server: RedisServer) -> AsyncIterator[Served]:
    """One service for all tests, with a model that has no scripted turns."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    async with ScriptedModelServer(pace=0) as model:
        settings = Settings.from_environment(
            {}, jwt_secret=SECRET, redis_url=redis_server.url, openai_api_key=KEY, openai_base_url=model.base_url
        )
        async with running(settings) as aura:
            yield Served(aura, model)
        assert model.requests == []


def cases(table: dict[str, Rejection]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rejection", [pytest.param(rejection, id=name) for name, rejection in table.items()])


def check_no_secrets(response: httpx2.Response) -> None:
    """Check that the response contains no stack trace and no secret."""
    for word in ("Traceback", 'File "', SECRET, KEY, "joserfc", "pydantic"):
        assert word not in response.text


def check_envelope(response: httpx2.Response, rejection: Rejection) -> None:
    assert response.status_code == rejection.status
    assert response.headers["content-type"] == JSON
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    if response.request.url.path == STREAM:
        assert b"id:" in response.content
    body = response.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", body.pop("timestamp"))
    assert body.pop("traceId") == response.headers["x-correlation-id"]
    assert rejection.message in body.pop("message")
    assert body == {"status": "ERROR", "errorCode": rejection.code, "success": False}
    check_no_secrets(response)


@cases(STREAM_REJECTIONS)
async def test_rejected_stream_consists_of_error_end_done(served: Served, rejection: Rejection) -> None:
    response = await served.aura.client.request(**rejection.request(SSE))
    assert response.status_code == rejection.status
    assert response.headers["content-type"] == SSE
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    frames = [parse_frame(raw_frames) for raw_frames in response.text.removesuffix("\n\n").split("\n\n")]
    assert types(frames) == ["error", "end", DONE]
    ids = [frame.id for frame in frames]
    assert ids[0] is not None
    assert abs(ids[0] / 1000 - time.time()) < 60
    assert ids == [ids[0], ids[0] + 1, ids[0] + 2]
    error, end, _ = frames
    assert rejection.message in error["message"]
    assert error["error"] == error["message"] == error["data"]["message"]
    assert (error["errorCode"], error["errorType"]) == (rejection.code, rejection.error_type)
    assert error["retryable"] is False
    assert end["status"] == "failed"
    assert isinstance(end["timestamp"], int)
    check_no_secrets(response)
    assert served.model.requests == []


@cases(STREAM_REJECTIONS)
async def test_rejected_request_that_accepts_json_is_an_envelope(served: Served, rejection: Rejection) -> None:
    response = await served.aura.client.request(**rejection.request(JSON))
    check_envelope(response, rejection)
    assert served.model.requests == []


@cases(JSON_REJECTIONS)
async def test_other_paths_respond_with_json_for_any_accept_header(served: Served, rejection: Rejection) -> None:
    for accept in (None, JSON, SSE):
        check_envelope(await served.aura.client.request(**rejection.request(accept)), rejection)
    assert served.model.requests == []


async def test_at_least_28_kinds_of_bad_request() -> None:
    assert len(STREAM_REJECTIONS) >= 28


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, SSE),
        ("*/*", SSE),
        (SSE, SSE),
        (f"{SSE}, {JSON}", SSE),
        (f"{SSE};q=0.5, {JSON};q=0.4", SSE),
        (JSON, JSON),
        (f"{JSON}, {SSE};q=0.9", JSON),
        (f"{JSON}, */*;q=0.1", JSON),
        ("text/html", SSE),
        ("nonsense;;;", SSE),
    ],
)
async def test_form_of_a_rejection_depends_on_accept(served: Served, accept: str | None, media_type: str) -> None:
    sent = STREAM_REJECTIONS["no Authorization"].request(accept)
    response = await served.aura.client.request(**sent)
    assert (response.status_code, response.headers["content-type"]) == (401, media_type)


async def test_401_names_the_scheme(served: Served) -> None:
    response = await served.aura.client.post(STREAM, json={"prompt": "x"})
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_405_lists_the_allowed_methods(served: Served, method: str) -> None:
    response = await served.aura.client.request(method, STREAM, headers=headers())
    assert {"GET", "POST"} <= {name.strip() for name in response.headers["allow"].split(",")}


@pytest.mark.parametrize(("path", "allowed"), [(STREAM, "GET, HEAD, OPTIONS, POST"), ("/health", "GET, HEAD, OPTIONS")])
async def test_options_lists_the_allowed_methods(served: Served, path: str, allowed: str) -> None:
    response = await served.aura.client.options(path)
    assert (response.status_code, response.content, "content-type" in response.headers) == (204, b"", False)
    assert ", ".join(sorted(response.headers["allow"].split(", "))) == allowed


async def test_head_has_the_status_of_get_and_no_body(served: Served) -> None:
    for path, status, media_type in (("/aura/info", 200, JSON), (STREAM, 404, SSE)):
        response = await served.aura.client.head(path, headers=headers("nobody"))
        assert (response.status_code, response.content, response.headers["content-type"]) == (status, b"", media_type)


async def test_each_frame_of_a_rejected_stream_is_one_write(served: Served) -> None:
    """The gateway treats each write separately (§2.1)."""
    rejected = await RawStream.post(served.aura, {"prompt": ""})
    assert (rejected.status, rejected.headers["content-type"]) == (400, SSE)
    assert types([parse_frame(chunk.decode().removesuffix("\n\n")) for chunk in await rejected.rest()]) == [
        "error",
        "end",
        DONE,
    ]


async def test_resuming_from_the_id_of_a_rejection_finds_no_run(served: Served) -> None:
    """A browser that resumes from such an id receives `ResumeExpired` (§3)."""
    rejected = await served.aura.client.post(STREAM, json={}, headers=headers())
    last = parse_frame(rejected.text.split("\n\n")[2]).id
    again = await served.aura.client.post(STREAM, json={"prompt": "x"}, headers=headers(**{"Last-Event-ID": str(last)}))
    assert again.status_code == 200
    assert parse_frame(again.text.split("\n\n")[0])["errorType"] == "ResumeExpired"
    assert served.model.requests == []


async def test_correlation_id_of_a_rejected_request_is_returned_if_it_is_safe(served: Served) -> None:
    safe = await served.aura.client.get("/nowhere", headers={"X-Correlation-ID": "trace-1"})
    assert safe.headers["x-correlation-id"] == safe.json()["traceId"] == "trace-1"
    unsafe = await served.aura.client.get("/nowhere", headers={"X-Correlation-ID": 'a "b" {c}'})
    assert re.fullmatch(r"[0-9a-f]{32}", unsafe.headers["x-correlation-id"])


# --- unusual requests that are accepted -----------------------------------------------------------------------------


async def test_numeric_tenant_claim_equals_the_text_of_the_header(served: Served) -> None:
    sent = {**bearer(token(tenant_id=7)), "X-Tenant-ID": "7", "Accept": JSON}
    response = await served.aura.client.get(STREAM, headers=sent)
    assert (response.status_code, response.json()["errorCode"]) == (404, "E1004")


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
async def test_scheme_is_case_insensitive(served: Served, scheme: str) -> None:
    response = await served.aura.client.get(STREAM, headers={**headers(), "Authorization": f"{scheme} {token()}"})
    assert response.status_code == 404


async def test_token_signed_by_a_library_is_accepted(served: Served) -> None:
    now = int(time.time())
    claimed = {"sub": "user1", "tenant_id": "tenant1", "iat": now + 30, "exp": now + 60, "email": "a@b.c", "role": "x"}
    sent = bearer(jwt.encode({"alg": "HS256"}, claimed, OctKey.import_key(SECRET)))
    assert (await served.aura.client.get(STREAM, headers=sent)).status_code == 404


async def test_health_needs_no_token(served: Served) -> None:
    for path in ("/health", "/aura/health", "/ready"):
        response = await served.aura.client.get(path)
        body = response.json()
        assert (response.status_code, body["status"], body["success"]) == (200, "SUCCESS", True)
        assert body["data"]["status"] == "UP"
    info = (await served.aura.client.get("/aura/info")).json()["data"]
    assert info["name"] == "aura-platform"
    assert info["model"] == "gpt-4o-mini"
    assert "awaiting_approval" in info["states"]
