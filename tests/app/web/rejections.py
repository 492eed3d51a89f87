"""Requests that must be rejected (§1), each with its HTTP status and error code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.harness.service import SECRET, STREAM, headers

JSON = "application/json"

# --- tokens ----------------------------------------------------------------------------------------------------------


def token(*, key: str = SECRET, algorithm: str = "HS256", without: str | None = None, **changes: Any) -> str:
    """Return a signed token, also one that a library would not sign."""
    now = int(time.time())
    claims = {"sub": "user1", "tenant_id": "tenant1", "iat": now, "exp": now + 600, **changes}
    claims.pop(without or "", None)
    head, body = (_base64(json.dumps(part).encode()) for part in ({"alg": algorithm, "typ": "JWT"}, claims))
    hashes = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}
    signature = hmac.new(key.encode(), f"{head}.{body}".encode(), hashes[algorithm]) if algorithm in hashes else None
    return f"{head}.{body}.{_base64(signature.digest()) if signature else ''}"


def _base64(raw_frames: bytes) -> str:
    return base64.urlsafe_b64encode(raw_frames).rstrip(b"=").decode()


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "X-Tenant-ID": "tenant1", **more}


def claims(**changes: Any) -> Callable[[], dict[str, str]]:
    return lambda: bearer(token(**changes))


def without(name: str) -> Callable[[], dict[str, str]]:
    return lambda: {key: value for key, value in headers().items() if key != name}


# --- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rejection:
    status: int
    code: str
    message: str = ""
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


def unauthenticated(code: str, message: str, sent: Callable[[], dict[str, str]], **more: Any) -> Rejection:
    return Rejection(401, code, message, sent, error_type="AuthenticationError", **more)


def forbidden(message: str, sent: Callable[[], dict[str, str]], **more: Any) -> Rejection:
    return Rejection(403, "E2001", message, sent, error_type="PermissionError", **more)


def malformed(body: Any, message: str = "잘못된 요청입니다.", **more: Any) -> Rejection:
    return Rejection(400, "E1001", message, body=body, **more)


def invalid(body: Any, message: str, **more: Any) -> Rejection:
    return Rejection(400, "E4000", message, body=body, **more)


NEEDED, INVALID, EXPIRED = "인증이 필요합니다.", "유효하지 않은 토큰입니다.", "토큰이 만료되었습니다."
BIG = {"prompt": "x", "context": {"text": "가" * (256 * 1024 // 3)}}
BIG_BYTES = len(json.dumps(BIG["context"], ensure_ascii=False, separators=(",", ":")).encode())

STREAM_REJECTIONS = {
    "no Authorization": unauthenticated("E2000", NEEDED, without("Authorization")),
    "Basic scheme": unauthenticated("E2000", NEEDED, lambda: {**headers(), "Authorization": "Basic dXNlcjpwYXNz"}),
    "Bearer without a token": unauthenticated("E2000", NEEDED, lambda: {**headers(), "Authorization": "Bearer"}),
    "garbage token": unauthenticated("E2003", INVALID, lambda: bearer("garbage")),
    "token of five parts": unauthenticated("E2003", INVALID, lambda: bearer("a.b.c.d.e")),
    "token that is no base64": unauthenticated("E2003", INVALID, lambda: bearer("!!.!!.!!")),
    "alg none": unauthenticated("E2003", INVALID, claims(algorithm="none")),
    "alg HS512": unauthenticated("E2003", INVALID, claims(algorithm="HS512")),
    "wrong key": unauthenticated("E2003", INVALID, claims(key="another secret of at least thirty-two bytes")),
    "changed payload": unauthenticated(
        "E2003", INVALID, lambda: bearer(re.sub(r"\.[^.]*\.", f".{_base64(b'{}')}.", token()))
    ),
    "expired": unauthenticated("E2002", EXPIRED, claims(exp=int(time.time()) - 1, iat=int(time.time()) - 600)),
    "no sub": unauthenticated("E2003", "sub", claims(without="sub")),
    "no tenant_id": unauthenticated("E2003", "tenant_id", claims(without="tenant_id")),
    "no exp": unauthenticated("E2003", "exp", claims(without="exp")),
    "no iat": unauthenticated("E2003", "iat", claims(without="iat")),
    "exp is a float": unauthenticated("E2003", "exp", claims(exp=time.time() + 600.5)),
    "exp is text": unauthenticated("E2003", "exp", claims(exp="9999999999")),
    "exp is a bool": unauthenticated("E2003", "exp", claims(exp=True)),
    "iat is a float": unauthenticated("E2003", "iat", claims(iat=time.time() - 1.5)),
    "iat is text": unauthenticated("E2003", "iat", claims(iat="1")),
    "iat is a bool": unauthenticated("E2003", "iat", claims(iat=True)),
    "iat in the far future": unauthenticated("E2003", "iat", claims(iat=int(time.time()) + 6000)),
    "not valid yet": unauthenticated("E2003", "nbf", claims(nbf=int(time.time()) + 6000)),
    "sub is empty": unauthenticated("E2003", "sub", claims(sub="")),
    "sub is an object": unauthenticated("E2003", "sub", claims(sub={"id": "user1"})),
    "tenant_id is a list": unauthenticated("E2003", "tenant_id", claims(tenant_id=["tenant1"])),
    "tenant_id is a bool": unauthenticated("E2003", "tenant_id", claims(tenant_id=True)),
    "sub with a surrogate": unauthenticated("E2003", "sub: its character 2 (U+D800)", claims(sub="u\ud800")),
    "sub with a line break": unauthenticated("E2003", "sub: its character 3", claims(sub='u1\n{"level":"x"}')),
    "sub with a terminal's escape": unauthenticated("E2003", "sub: its character 3", claims(sub="u1\x1b[2J")),
    "sub with an invisible space": unauthenticated("E2003", "sub: its character 3 (U+200B)", claims(sub="u1\u200b")),
    "sub with a Hangul filler": unauthenticated("E2003", "sub: its character 3 (U+3164)", claims(sub="u1\u3164")),
    "sub that turns the text around": unauthenticated("E2003", "sub", claims(sub="admin\u202e1u")),
    "sub of 4,000 characters": unauthenticated("E2003", "sub: it has 4000 characters", claims(sub="u" * 4000)),
    "tenant_id with a null": unauthenticated("E2003", "tenant_id: its character 8", claims(tenant_id="tenant1\0")),
    "tenant_id of 400 digits": unauthenticated("E2003", "tenant_id: it has 400 characters", claims(tenant_id=10**399)),
    "role with a format character": unauthenticated("E2003", "role: its character 6", claims(role="admin\u2060")),
    "email with a tag character": unauthenticated("E2003", "email: its character 7", claims(email="kim@aa\U000e0041")),
    "exp of 400 digits": unauthenticated("E2003", "exp", claims(exp=10**400)),
    "iat before all times": unauthenticated("E2003", "iat", claims(iat=-(10**400))),
    "no X-Tenant-ID": Rejection(400, "E2006", "X-Tenant-ID", without("X-Tenant-ID")),
    "another tenant": forbidden("X-Tenant-ID", lambda: {**headers(), "X-Tenant-ID": "tenant2"}),
    "another user": forbidden("X-User-ID", lambda: {**headers(), "X-User-ID": "user2"}),
    "GET without Authorization": unauthenticated("E2000", NEEDED, without("Authorization"), method="GET", body=None),
    "malformed JSON": malformed('{"prompt": "x"'),
    "deep JSON": malformed(b'{"prompt":"x","context":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "nested"),
    "JSON too deep for a checkpoint": malformed(
        '{"prompt":"x","context":{"a":' + "[" * 300 + "]" * 300 + "}}", "nested"
    ),
    "NaN": malformed('{"prompt": "x", "context": {"a": NaN}}', "NaN"),
    "Infinity": malformed('{"prompt": "x", "context": {"a": -Infinity}}', "Infinity"),
    "a key twice": malformed('{"prompt": "x", "context": {"to": 1, "to": 2}}', "the key 'to' occurs more than once"),
    "beyond a float": malformed('{"prompt": "x", "context": {"a": 1e999}}', "1e999"),
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
    "thread_id with an escape": invalid(
        {"prompt": "x", "thread_id": "t\x1b[0m"}, "thread_id: its character 2 (U+001B)"
    ),
    "thread_id with a surrogate": invalid('{"prompt": "x", "thread_id": "t\\ud800"}', "thread_id"),
    "Idempotency-Key with an invisible space": Rejection(
        400,
        "E4000",
        "Idempotency-Key: its character 2 (U+200B)",
        lambda: headers(**{"Idempotency-Key": b"k\xe2\x80\x8b"}),  # type: ignore[arg-type]
    ),
    "X-Agent-ID with a control character": Rejection(
        400,
        "E4000",
        "X-Agent-ID: its character 2 (U+0085)",
        lambda: headers(**{"X-Agent-ID": b"a\xc2\x85"}),  # type: ignore[arg-type]
    ),
    "X-Tenant-ID with an invisible space": forbidden(
        "X-Tenant-ID",
        lambda: headers(**{"X-Tenant-ID": b"tenant1\xe2\x80\x8b"}),  # type: ignore[arg-type]
    ),
    "X-User-ID with an invisible space": forbidden(
        "X-User-ID",
        lambda: headers(**{"X-User-ID": b"user1\xe2\x80\x8b"}),  # type: ignore[arg-type]
    ),
    "session id with an invisible space": Rejection(
        400, "E4000", "sessionId: its character 2", body=None, method="GET", path=f"{STREAM}?sessionId=s%E2%80%8B"
    ),
    "header too long": Rejection(400, "E4000", "X-Agent-ID", lambda: headers(**{"X-Agent-ID": "a" * 201})),
    "body over 1 MiB": Rejection(413, "E4001", "1048576", body={"prompt": "x", "more": "x" * 1024 * 1024}),
    "nothing to attach to": Rejection(404, "E1004", "찾을 수 없습니다", lambda: headers("nobody"), None, method="GET"),
    "no such session": Rejection(
        404,
        "E1004",
        "찾을 수 없습니다",
        body=None,
        method="GET",
        path=f"{STREAM}?sessionId=session_user1_1795000000_0000",
    ),
    "a session id that does not exist": Rejection(
        404, "E1004", "찾을 수 없습니다", body=None, method="GET", path=f"{STREAM}?sessionId=*"
    ),
    "PUT": Rejection(405, "E1002", "PUT", method="PUT"),
    "DELETE": Rejection(405, "E1002", "DELETE", method="DELETE", body=None),
}

APPROVE, REQUEST, SIGNAL = "/aura/hitl/approve/req-1", "/aura/hitl/requests/req-1", "/aura/hitl/signals/session_u_1_a"
JSON_REJECTIONS = {
    "unknown path": Rejection(404, "E1004", "찾을 수 없습니다", method="GET", body=None, path="/nowhere"),
    "approve by GET": Rejection(405, "E1002", "GET", method="GET", body=None, path=APPROVE),
    "approve without a token": unauthenticated("E2000", NEEDED, without("Authorization"), path=APPROVE, body={}),
    "reject with an expired token": unauthenticated(
        "E2002", EXPIRED, claims(exp=1, iat=1), path="/aura/hitl/reject/req-1", body={}
    ),
    "approve without X-User-ID": Rejection(400, "E4000", "X-User-ID", without("X-User-ID"), {}, path=APPROVE),
    "approve as another user": forbidden("X-User-ID", lambda: {**headers(), "X-User-ID": "u2"}, path=APPROVE, body={}),
    "approve for another userId": forbidden("userId", headers, path=APPROVE, body={"userId": "user2"}),
    "approve without X-Tenant-ID": Rejection(400, "E2006", "X-Tenant-ID", without("X-Tenant-ID"), {}, path=APPROVE),
    "approve with malformed JSON": malformed("{", path=APPROVE),
    "approve with a list": invalid([], "body", path=APPROVE),
    "approve with params that are text": invalid({"params": "x"}, "params", path=APPROVE),
    "reject with a reason too long": invalid({"reason": "x" * 2001}, "reason", path="/aura/hitl/reject/req-1"),
    "approve an unknown request": Rejection(404, "E1004", "req-1", body={}, path=APPROVE),
    "reject an unknown request, no body": Rejection(404, "E1004", "req-1", body=None, path="/aura/hitl/reject/req-1"),
    "an unknown request": Rejection(404, "E1004", "req-1", method="GET", body=None, path=REQUEST),
    "an unknown request without a token": unauthenticated(
        "E2000", NEEDED, without("Authorization"), method="GET", body=None, path=REQUEST
    ),
    "an invisible character in a path": Rejection(
        400,
        "E4000",
        "requestId: its character 4 (U+200B)",
        method="GET",
        body=None,
        path="/aura/hitl/requests/req\u200b-1",
    ),
    "a line break in a path": Rejection(
        400, "E4000", "sessionId: its character 2 (U+000A)", method="GET", body=None, path="/aura/runs/a%0Ab"
    ),
    "an endless id in a path": Rejection(
        400, "E4000", "sessionId: it has 4000 characters", method="GET", body=None, path=f"/aura/runs/{'a' * 4000}"
    ),
    "a session without a token": unauthenticated(
        "E2000", NEEDED, without("Authorization"), method="GET", body=None, path=SIGNAL
    ),
}
