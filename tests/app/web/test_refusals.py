"""Every refusal of §1: its status, its code, its form, and never a call to the model."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import pytest_asyncio
import redis
from joserfc import jwt
from joserfc.jwk import OctKey

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.settings import Settings
from tests.harness.frames import DONE, parse_frame, types
from tests.harness.raw import RawStream
from tests.harness.service import SECRET, STREAM, Aura, headers, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "test-key-0123456789"
JSON = "application/json"
SSE = "text/event-stream"


@dataclass
class Served:
    aura: Aura
    model: ScriptedModelServer


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="served")
async def _served(redis_server: RedisServer) -> AsyncIterator[Served]:
    """One service for all refusals; a model that has nothing to say."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    async with ScriptedModelServer(pace=0) as model:
        settings = Settings.from_environment(
            {}, jwt_secret=SECRET, redis_url=redis_server.url, openai_api_key=KEY, openai_base_url=model.base_url
        )
        async with running(settings) as aura:
            yield Served(aura, model)
        assert model.requests == []


# --- tokens -----------------------------------------------------------------------------------------------------------


def token(*, key: str = SECRET, algorithm: str = "HS256", without: str | None = None, **changes: Any) -> str:
    """Signed by hand where a library would refuse to."""
    now = int(time.time())
    claims = {"sub": "user1", "tenant_id": "tenant1", "iat": now, "exp": now + 600, **changes}
    claims.pop(without or "", None)
    head, body = (_base64(json.dumps(part).encode()) for part in ({"alg": algorithm, "typ": "JWT"}, claims))
    hashes = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}
    made = hmac.new(key.encode(), f"{head}.{body}".encode(), hashes[algorithm]) if algorithm in hashes else None
    return f"{head}.{body}.{_base64(made.digest()) if made else ''}"


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def bearer(sent: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {sent}", "X-Tenant-ID": "tenant1", **more}


def claims(**changes: Any) -> Callable[[], dict[str, str]]:
    return lambda: bearer(token(**changes))


def without(name: str) -> Callable[[], dict[str, str]]:
    return lambda: {key: value for key, value in headers().items() if key != name}


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    status: int
    code: str
    says: str = ""
    headers: Callable[[], dict[str, str]] = headers
    body: bytes | str | dict[str, Any] | list[Any] | None = field(default_factory=lambda: {"prompt": "안녕하세요"})
    media_type: str | None = JSON
    method: str = "POST"
    path: str = STREAM
    error_type: str = "ValidationError"

    def request(self, accept: str | None) -> dict[str, Any]:
        sent = self.headers()
        if accept is not None:
            sent["Accept"] = accept
        if self.media_type is not None and self.body is not None:
            sent["Content-Type"] = self.media_type
        content = self.body if isinstance(self.body, bytes | str | None) else json.dumps(self.body)
        return {"method": self.method, "url": self.path, "headers": sent, "content": content}


def unauthorised(code: str, says: str, sent: Callable[[], dict[str, str]], **more: Any) -> Refusal:
    return Refusal(401, code, says, sent, error_type="AuthenticationError", **more)


def forbidden(says: str, sent: Callable[[], dict[str, str]], **more: Any) -> Refusal:
    return Refusal(403, "E2001", says, sent, error_type="PermissionError", **more)


def malformed(body: Any, says: str = "잘못된 요청입니다.", **more: Any) -> Refusal:
    return Refusal(400, "E1001", says, body=body, **more)


def invalid(body: Any, says: str, **more: Any) -> Refusal:
    return Refusal(400, "E4000", says, body=body, **more)


NEEDED, INVALID, EXPIRED = "인증이 필요합니다.", "유효하지 않은 토큰입니다.", "토큰이 만료되었습니다."
BIG = {"prompt": "x", "context": {"text": "가" * (256 * 1024 // 3)}}
BIG_BYTES = len(json.dumps(BIG["context"], ensure_ascii=False, separators=(",", ":")).encode())

STREAM_REFUSALS = {
    "no Authorization": unauthorised("E2000", NEEDED, without("Authorization")),
    "Basic scheme": unauthorised("E2000", NEEDED, lambda: {**headers(), "Authorization": "Basic dXNlcjpwYXNz"}),
    "Bearer without a token": unauthorised("E2000", NEEDED, lambda: {**headers(), "Authorization": "Bearer"}),
    "garbage token": unauthorised("E2003", INVALID, lambda: bearer("garbage")),
    "token of five parts": unauthorised("E2003", INVALID, lambda: bearer("a.b.c.d.e")),
    "token that is no base64": unauthorised("E2003", INVALID, lambda: bearer("!!.!!.!!")),
    "alg none": unauthorised("E2003", INVALID, claims(algorithm="none")),
    "alg HS512": unauthorised("E2003", INVALID, claims(algorithm="HS512")),
    "wrong key": unauthorised("E2003", INVALID, claims(key="another secret of at least thirty-two bytes")),
    "changed payload": unauthorised(
        "E2003", INVALID, lambda: bearer(re.sub(r"\.[^.]*\.", f".{_base64(b'{}')}.", token()))
    ),
    "expired": unauthorised("E2002", EXPIRED, claims(exp=int(time.time()) - 1, iat=int(time.time()) - 600)),
    "no sub": unauthorised("E2003", "sub", claims(without="sub")),
    "no tenant_id": unauthorised("E2003", "tenant_id", claims(without="tenant_id")),
    "no exp": unauthorised("E2003", "exp", claims(without="exp")),
    "no iat": unauthorised("E2003", "iat", claims(without="iat")),
    "exp is a float": unauthorised("E2003", "exp", claims(exp=time.time() + 600.5)),
    "exp is text": unauthorised("E2003", "exp", claims(exp="9999999999")),
    "exp is a bool": unauthorised("E2003", "exp", claims(exp=True)),
    "iat is a float": unauthorised("E2003", "iat", claims(iat=time.time() - 1.5)),
    "iat is text": unauthorised("E2003", "iat", claims(iat="1")),
    "iat is a bool": unauthorised("E2003", "iat", claims(iat=True)),
    "iat in the far future": unauthorised("E2003", "iat", claims(iat=int(time.time()) + 6000)),
    "not valid yet": unauthorised("E2003", "nbf", claims(nbf=int(time.time()) + 6000)),
    "sub is empty": unauthorised("E2003", "sub", claims(sub="")),
    "sub is an object": unauthorised("E2003", "sub", claims(sub={"id": "user1"})),
    "tenant_id is a list": unauthorised("E2003", "tenant_id", claims(tenant_id=["tenant1"])),
    "tenant_id is a bool": unauthorised("E2003", "tenant_id", claims(tenant_id=True)),
    "no X-Tenant-ID": Refusal(400, "E2006", "X-Tenant-ID", without("X-Tenant-ID")),
    "another tenant": forbidden("X-Tenant-ID", lambda: {**headers(), "X-Tenant-ID": "tenant2"}),
    "another user": forbidden("X-User-ID", lambda: {**headers(), "X-User-ID": "user2"}),
    "GET without Authorization": unauthorised("E2000", NEEDED, without("Authorization"), method="GET", body=None),
    "malformed JSON": malformed('{"prompt": "x"'),
    "deep JSON": malformed(b'{"prompt":"x","context":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "nested"),
    "JSON too deep for a checkpoint": malformed(
        '{"prompt":"x","context":{"a":' + "[" * 300 + "]" * 300 + "}}", "nested"
    ),
    "NaN": malformed('{"prompt": "x", "context": {"a": NaN}}', "NaN"),
    "Infinity": malformed('{"prompt": "x", "context": {"a": -Infinity}}', "Infinity"),
    "beyond a float": malformed('{"prompt": "x", "context": {"a": 1e999}}', "1e999"),
    "a key twice": malformed('{"prompt": "x", "context": {"to": 1, "to": 2}}', "the key 'to' occurs more than once"),
    "not UTF-8": malformed(b'{"prompt": "\xff\xfe"}'),
    "a number of 5,000 digits": malformed('{"prompt": "x", "context": {"a": ' + "9" * 5000 + "}}"),
    "wrong media type": malformed("prompt=x", "application/json", media_type="application/x-www-form-urlencoded"),
    "no media type": malformed('{"prompt": "x"}', "application/json", media_type=None),
    "no body": malformed(None),
    "empty body": malformed(b""),
    "array body": invalid(["x"], "body"),
    "null body": invalid("null", "body"),
    "no prompt": invalid({}, "prompt"),
    "empty prompt": invalid({"prompt": ""}, "prompt"),
    "blank prompt": invalid({"prompt": " \n\t　"}, "prompt"),
    "prompt too long": invalid({"prompt": "가" * 32_001}, "prompt"),
    "prompt is a number": invalid({"prompt": 5}, "prompt"),
    "prompt is null": invalid({"prompt": None}, "prompt"),
    "prompt is a list": invalid({"prompt": ["x"]}, "prompt"),
    "lone surrogate in the prompt": invalid('{"prompt": "\\ud800"}', "prompt"),
    "context is a list": invalid({"prompt": "x", "context": [1]}, "context"),
    "context is text": invalid({"prompt": "x", "context": "mail"}, "context"),
    "lone surrogate in the context": invalid('{"prompt": "x", "context": {"a": "\\udc00"}}', "context"),
    "lone surrogate in a key": invalid('{"prompt": "x", "context": {"\\udc00": 1}}', "context"),
    "context over 256 KiB": invalid(BIG, f"context: it has {BIG_BYTES} bytes as JSON, at most 262144"),
    "thread_id is a number": invalid({"prompt": "x", "thread_id": 5}, "thread_id"),
    "thread_id is too long": invalid({"prompt": "x", "thread_id": "t" * 201}, "thread_id"),
    "header too long": Refusal(400, "E4000", "X-Agent-ID", lambda: headers(**{"X-Agent-ID": "a" * 201})),
    "body over 1 MiB": Refusal(413, "E4001", "1048576", body={"prompt": "x", "more": "x" * 1024 * 1024}),
    "nothing to attach to": Refusal(404, "E1004", "찾을 수 없습니다", lambda: headers("nobody"), None, method="GET"),
    "no such session": Refusal(
        404,
        "E1004",
        "찾을 수 없습니다",
        body=None,
        method="GET",
        path=f"{STREAM}?sessionId=session_user1_1795000000_0000",
    ),
    "a session id that is none": Refusal(
        404, "E1004", "찾을 수 없습니다", body=None, method="GET", path=f"{STREAM}?sessionId=*"
    ),
    "PUT": Refusal(405, "E1002", "PUT", method="PUT"),
    "DELETE": Refusal(405, "E1002", "DELETE", method="DELETE", body=None),
}

APPROVE, REQUEST, SIGNAL = "/aura/hitl/approve/req-1", "/aura/hitl/requests/req-1", "/aura/hitl/signals/session_u_1_a"
JSON_REFUSALS = {
    "unknown path": Refusal(404, "E1004", "찾을 수 없습니다", method="GET", body=None, path="/nowhere"),
    "approve by GET": Refusal(405, "E1002", "GET", method="GET", body=None, path=APPROVE),
    "approve without a token": unauthorised("E2000", NEEDED, without("Authorization"), path=APPROVE, body={}),
    "reject with an expired token": unauthorised(
        "E2002", EXPIRED, claims(exp=1, iat=1), path="/aura/hitl/reject/req-1", body={}
    ),
    "approve without X-User-ID": Refusal(400, "E4000", "X-User-ID", without("X-User-ID"), {}, path=APPROVE),
    "approve as another user": forbidden("X-User-ID", lambda: {**headers(), "X-User-ID": "u2"}, path=APPROVE, body={}),
    "approve for another userId": forbidden("userId", headers, path=APPROVE, body={"userId": "user2"}),
    "approve without X-Tenant-ID": Refusal(400, "E2006", "X-Tenant-ID", without("X-Tenant-ID"), {}, path=APPROVE),
    "approve with malformed JSON": malformed("{", path=APPROVE),
    "approve with a list": invalid([], "body", path=APPROVE),
    "approve with params that are text": invalid({"params": "x"}, "params", path=APPROVE),
    "reject with a reason too long": invalid({"reason": "x" * 2001}, "reason", path="/aura/hitl/reject/req-1"),
    "approve an unknown request": Refusal(404, "E1004", "req-1", body={}, path=APPROVE),
    "reject an unknown request, no body": Refusal(404, "E1004", "req-1", body=None, path="/aura/hitl/reject/req-1"),
    "an unknown request": Refusal(404, "E1004", "req-1", method="GET", body=None, path=REQUEST),
    "an unknown request without a token": unauthorised(
        "E2000", NEEDED, without("Authorization"), method="GET", body=None, path=REQUEST
    ),
    "an unknown session": Refusal(404, "E1004", "session_u_1_a", method="GET", body=None, path=SIGNAL),
    "a session without a token": unauthorised(
        "E2000", NEEDED, without("Authorization"), method="GET", body=None, path=SIGNAL
    ),
}


def cases(table: dict[str, Refusal]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("refusal", [pytest.param(refusal, id=name) for name, refusal in table.items()])


def innocent(answer: httpx2.Response) -> None:
    """No stack trace and no secret."""
    for word in ("Traceback", 'File "', SECRET, KEY, "joserfc", "pydantic"):
        assert word not in answer.text


def envelope(answer: httpx2.Response, refusal: Refusal) -> None:
    assert answer.status_code == refusal.status
    assert answer.headers["content-type"] == JSON
    body = answer.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", body.pop("timestamp"))
    assert body.pop("traceId") == answer.headers["x-correlation-id"]
    assert refusal.says in body.pop("message")
    assert body == {"status": "ERROR", "errorCode": refusal.code, "success": False}
    innocent(answer)


@cases(STREAM_REFUSALS)
async def test_refused_stream_reads_error_end_done(served: Served, refusal: Refusal) -> None:
    answer = await served.aura.client.request(**refusal.request(SSE))
    assert answer.status_code == refusal.status
    assert answer.headers["content-type"] == SSE
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    frames = [parse_frame(raw) for raw in answer.text.removesuffix("\n\n").split("\n\n")]
    assert types(frames) == ["error", "end", DONE]
    ids = [frame.id for frame in frames]
    assert ids[0] is not None
    assert abs(ids[0] / 1000 - time.time()) < 60
    assert ids == [ids[0], ids[0] + 1, ids[0] + 2]
    error, end, _ = frames
    assert refusal.says in error["message"]
    assert error["error"] == error["message"] == error["data"]["message"]
    assert (error["errorCode"], error["errorType"]) == (refusal.code, refusal.error_type)
    assert error["retryable"] is False
    assert end["status"] == "failed"
    assert isinstance(end["timestamp"], int)
    innocent(answer)
    assert served.model.requests == []


@cases(STREAM_REFUSALS)
async def test_refused_script_reads_json(served: Served, refusal: Refusal) -> None:
    answer = await served.aura.client.request(**refusal.request(JSON))
    envelope(answer, refusal)
    assert served.model.requests == []


@cases(JSON_REFUSALS)
async def test_other_paths_answer_json_whatever_is_accepted(served: Served, refusal: Refusal) -> None:
    for accept in (None, JSON, SSE):
        envelope(await served.aura.client.request(**refusal.request(accept)), refusal)
    assert served.model.requests == []


async def test_at_least_28_kinds_of_bad_request() -> None:
    assert len(STREAM_REFUSALS) >= 28


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
async def test_form_follows_accept(served: Served, accept: str | None, media_type: str) -> None:
    sent = STREAM_REFUSALS["no Authorization"].request(accept)
    answer = await served.aura.client.request(**sent)
    assert (answer.status_code, answer.headers["content-type"]) == (401, media_type)


async def test_a_401_names_the_scheme(served: Served) -> None:
    answer = await served.aura.client.post(STREAM, json={"prompt": "x"})
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_a_405_names_what_is_allowed(served: Served, method: str) -> None:
    answer = await served.aura.client.request(method, STREAM, headers=headers())
    assert {"GET", "POST"} <= {name.strip() for name in answer.headers["allow"].split(",")}


@pytest.mark.parametrize(("path", "allowed"), [(STREAM, "GET, HEAD, OPTIONS, POST"), ("/health", "GET, HEAD, OPTIONS")])
async def test_options_says_what_is_allowed_and_nothing_else(served: Served, path: str, allowed: str) -> None:
    answer = await served.aura.client.options(path)
    assert (answer.status_code, answer.content, "content-type" in answer.headers) == (204, b"", False)
    assert ", ".join(sorted(answer.headers["allow"].split(", "))) == allowed


async def test_head_says_what_get_would_and_has_no_body(served: Served) -> None:
    for path, status, media_type in (("/aura/info", 200, JSON), (STREAM, 404, SSE)):
        answer = await served.aura.client.head(path, headers=headers("nobody"))
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (status, b"", media_type)


async def test_a_refused_stream_is_written_frame_by_frame(served: Served) -> None:
    """As any other stream (§2.1): the gateway treats each write by itself."""
    refused = await RawStream.post(served.aura, {"prompt": ""})
    assert (refused.status, refused.headers["content-type"]) == (400, SSE)
    assert types([parse_frame(chunk.decode().removesuffix("\n\n")) for chunk in await refused.rest()]) == [
        "error",
        "end",
        DONE,
    ]


async def test_ids_of_a_refusal_are_not_those_of_a_run(served: Served) -> None:
    """A browser that remembers one and comes back with it gets no stranger's run, but `ResumeExpired` (§3)."""
    refused = await served.aura.client.post(STREAM, json={}, headers=headers())
    last = parse_frame(refused.text.split("\n\n")[2]).id
    again = await served.aura.client.post(STREAM, json={"prompt": "x"}, headers=headers(**{"Last-Event-ID": str(last)}))
    assert again.status_code == 200
    assert parse_frame(again.text.split("\n\n")[0])["errorType"] == "ResumeExpired"
    assert served.model.requests == []


async def test_correlation_id_of_a_refused_request_is_answered_and_safe(served: Served) -> None:
    given = await served.aura.client.get("/nowhere", headers={"X-Correlation-ID": "trace-1"})
    assert given.headers["x-correlation-id"] == given.json()["traceId"] == "trace-1"
    unsafe = await served.aura.client.get("/nowhere", headers={"X-Correlation-ID": 'a "b" {c}'})
    assert re.fullmatch(r"[0-9a-f]{32}", unsafe.headers["x-correlation-id"])


# --- what looks odd and is right --------------------------------------------------------------------------------------


async def test_numeric_tenant_claim_equals_the_text_of_the_header(served: Served) -> None:
    sent = {**bearer(token(tenant_id=7)), "X-Tenant-ID": "7", "Accept": JSON}
    answer = await served.aura.client.get(STREAM, headers=sent)
    assert (answer.status_code, answer.json()["errorCode"]) == (404, "E1004")


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
async def test_the_scheme_is_not_case_sensitive(served: Served, scheme: str) -> None:
    answer = await served.aura.client.get(STREAM, headers={**headers(), "Authorization": f"{scheme} {token()}"})
    assert answer.status_code == 404


async def test_a_token_of_the_platforms_own_library_is_accepted(served: Served) -> None:
    now = int(time.time())
    claimed = {"sub": "user1", "tenant_id": "tenant1", "iat": now + 30, "exp": now + 60, "email": "a@b.c", "role": "x"}
    sent = bearer(jwt.encode({"alg": "HS256"}, claimed, OctKey.import_key(SECRET)))
    assert (await served.aura.client.get(STREAM, headers=sent)).status_code == 404


async def test_health_needs_no_token_and_says_its_status(served: Served) -> None:
    for path in ("/health", "/aura/health", "/ready"):
        answer = await served.aura.client.get(path)
        body = answer.json()
        assert (answer.status_code, body["status"], body["success"]) == (200, "SUCCESS", True)
        assert body["data"]["status"] == "UP"
    info = (await served.aura.client.get("/aura/info")).json()["data"]
    assert info["name"] == "aura-platform"
    assert info["model"] == "gpt-4o-mini"
    assert "awaiting_approval" in info["states"]
