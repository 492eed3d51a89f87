"""Edge cases of tokens (§1.3)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from joserfc import jws, jwt
from joserfc.jwk import OctKey
from werkzeug.datastructures import Headers

from app.errors import AuraError, FieldInvalid, TokenExpired, TokenInvalid
from app.ports.identity import Principal
from app.web.auth import Authenticator, issue_token
from tests.harness.service import SECRET

NOW = 1_795_000_000.0


class FrozenClock:
    def __init__(self, now: float = NOW) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        raise AssertionError("authentication must not wait")


def token_headers(**changes: Any) -> Headers:
    claims = {"sub": "user1", "tenant_id": "tenant1", "iat": int(NOW) - 10, "exp": int(NOW) + 10, **changes}
    token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))
    return Headers({"Authorization": f"Bearer {token}", "X-Tenant-ID": str(claims["tenant_id"])})


def authenticate(headers: Headers, now: float = NOW, **kwargs: Any) -> Principal:
    return Authenticator([SECRET], FrozenClock(now), leeway_seconds=60).authenticate(headers, **kwargs)


def test_principal_is_read_from_the_claims() -> None:
    assert authenticate(token_headers(role="admin", email="a@b.c")) == Principal("user1", "tenant1", "admin", "a@b.c")
    assert authenticate(token_headers(role=["admin"], email=5)) == Principal("user1", "tenant1")
    assert authenticate(token_headers(sub=7, tenant_id=8)) == Principal("7", "8")
    for email, known in ((" Kim@dwp.test ", "Kim@dwp.test"), (" ", None), ("", None), (None, None), (["a@b.c"], None)):
        assert authenticate(token_headers(email=email)).email == known


@pytest.mark.parametrize("email", ["a@b.c\x00", "a@b.c\nceo@b.c", "a\ud800@b.c", "a" * 321])
def test_email_that_cannot_be_an_address_makes_the_token_invalid(email: str) -> None:
    headers = token_headers()
    claims = {"sub": "u", "tenant_id": "tenant1", "iat": int(NOW), "exp": int(NOW) + 10, "email": email}
    token = jws.serialize_compact({"alg": "HS256"}, json.dumps(claims), OctKey.import_key(SECRET))
    headers["Authorization"] = f"Bearer {token}"
    with pytest.raises(TokenInvalid, match="email"):
        authenticate(headers)


@pytest.mark.parametrize(("elapsed", "valid"), [(9.999, True), (10.0, False), (10.001, False)])
def test_token_expires_at_the_second_of_exp(elapsed: float, valid: bool) -> None:
    if valid:
        authenticate(token_headers(), NOW + elapsed)
    else:
        with pytest.raises(TokenExpired):
            authenticate(token_headers(), NOW + elapsed)


@pytest.mark.parametrize(("ahead", "valid"), [(0, True), (60, True), (61, False), (10**300, False)])
def test_iat_may_be_ahead_by_the_leeway(ahead: int, valid: bool) -> None:
    headers = token_headers(iat=int(NOW) + ahead, exp=10**10)
    if valid:
        authenticate(headers)
    else:
        with pytest.raises(TokenInvalid, match="iat"):
            authenticate(headers)


def test_expired_token_with_a_wrong_signature_is_invalid() -> None:
    token = issue_token(
        "another secret of thirty-two bytes", user_id="u", tenant_id="t", role=None, now=0, lifetime_seconds=1
    )
    with pytest.raises(TokenInvalid):
        authenticate(Headers({"Authorization": f"Bearer {token}", "X-Tenant-ID": "t"}))


def test_signed_token_whose_payload_is_not_an_object_is_invalid() -> None:
    for payload in (b"[1]", b"5", b"text", b"", b"\xff", b"[" * 5000):
        token = jws.serialize_compact({"alg": "HS256"}, payload, OctKey.import_key(SECRET))
        with pytest.raises(TokenInvalid):
            authenticate(Headers({"Authorization": f"Bearer {token}", "X-Tenant-ID": "t"}))


def test_user_header_is_required_only_on_request() -> None:
    headers = token_headers()
    authenticate(headers)
    with pytest.raises(FieldInvalid, match="X-User-ID"):
        authenticate(headers, user_required=True)
    headers["X-User-ID"] = "user1"
    authenticate(headers, user_required=True)


def test_message_begins_in_korean_and_contains_no_token() -> None:
    headers = token_headers(exp=1.5)
    with pytest.raises(AuraError) as caught:
        authenticate(headers)
    assert caught.value.message.startswith("유효하지 않은 토큰입니다. exp")
    assert headers["Authorization"].removeprefix("Bearer ") not in caught.value.message


def test_issued_token_is_accepted() -> None:
    token = issue_token(SECRET, user_id="u", tenant_id="t", role="admin", now=NOW, lifetime_seconds=60)
    headers = Headers({"Authorization": f"Bearer {token}", "X-Tenant-ID": "t", "X-User-ID": "u"})
    assert authenticate(headers, NOW + 59.9) == Principal("u", "t", "admin")
