"""Authentication: the bearer token, and the identity headers that must agree with it (§1.2, §1.3)."""

from __future__ import annotations

from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from structlog.contextvars import bind_contextvars
from werkzeug.datastructures import Headers

from app.errors import (
    AuraError,
    AuthenticationRequired,
    FieldInvalid,
    PermissionDenied,
    TenantMissing,
    TokenExpired,
    TokenInvalid,
)
from app.ports.clock import Clock
from app.ports.identity import Principal
from app.web.identifiers import identifier_problem

ALGORITHM = "HS256"
_LAST_SECOND = 253_402_300_799
"""The end of the year 9999: no later time can be computed with."""


class Authenticator:
    """Verifies the token of a request once, on arrival. An open stream continues when its token expires (§1.3)."""

    def __init__(self, secret: str, clock: Clock, *, leeway_seconds: float) -> None:
        self._key = OctKey.import_key(secret)
        self._clock = clock
        self._leeway_seconds = leeway_seconds

    def authenticate(self, headers: Headers, *, user_required: bool = False) -> Principal:
        """Return the caller.

        Raises `AuthenticationRequired`, `TokenExpired`, `TokenInvalid`, `TenantMissing`, `PermissionDenied` (a header
        contradicts the token), or `FieldInvalid` (`user_required`, and `X-User-ID` is missing).
        """
        token = _bearer(_single_value(headers, "Authorization", TokenInvalid))
        principal = self._principal(self._claims(token), token)
        tenant_id = _single_value(headers, "X-Tenant-ID", PermissionDenied)
        user_id = _single_value(headers, "X-User-ID", PermissionDenied)
        if not tenant_id:
            raise TenantMissing("X-Tenant-ID: send this header with the token's tenant_id")
        if tenant_id != principal.tenant_id:
            raise PermissionDenied("X-Tenant-ID differs from the token's tenant_id")
        if user_required and not user_id:
            raise FieldInvalid("X-User-ID: this path requires the header with the token's sub")
        if user_id and user_id != principal.user_id:
            raise PermissionDenied("X-User-ID differs from the token's sub")
        bind_contextvars(tenantId=principal.tenant_id)  # in the log only now: before this it is what anybody may claim
        return principal

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            return dict(jwt.decode(token, self._key, algorithms=[ALGORITHM]).claims)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise TokenInvalid(f"the token cannot be verified ({type(error).__name__})") from error

    def _principal(self, claims: dict[str, Any], token: str) -> Principal:
        now = self._clock.now()
        issued_at, expires_at = _seconds(claims, "iat"), _seconds(claims, "exp")
        if expires_at <= now:
            raise TokenExpired
        if issued_at > now + self._leeway_seconds:
            raise TokenInvalid("iat: the token was issued in the future; check the clock of its issuer")
        if "nbf" in claims and _seconds(claims, "nbf") > now + self._leeway_seconds:
            raise TokenInvalid("nbf: the token is not valid yet")
        return Principal(
            user_id=_identifier(claims, "sub"),
            tenant_id=_identifier(claims, "tenant_id"),
            role=_optional_text(claims, "role"),
            email=_optional_text(claims, "email"),
            token=token,
            expires_at=expires_at,
        )


def issue_token(
    secret: str, *, user_id: str, tenant_id: str, role: str | None, now: float, lifetime_seconds: int
) -> str:
    """Return a signed token as the platform issues them, for development and tests. `now` is in Unix seconds."""
    claims: dict[str, Any] = {
        "sub": user_id,
        "tenant_id": tenant_id,
        "iat": int(now),
        "exp": int(now) + lifetime_seconds,
    }
    if role is not None:
        claims["role"] = role
    return jwt.encode({"alg": ALGORITHM, "typ": "JWT"}, claims, OctKey.import_key(secret))


def _single_value(headers: Headers, name: str, error: type[AuraError]) -> str | None:
    """Return the only value of a header, or None where it is absent.

    Raises `error` for different values: a proxy may have verified one that this service does not read.
    """
    values = set(headers.getlist(name))
    if len(values) > 1:
        raise error(f"{name}: the header has several different values; send one")
    return values.pop() if values else None


def _bearer(header: str | None) -> str:
    scheme, _, token = (header or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthenticationRequired("send the header Authorization: Bearer <JWT>")
    return token.strip()


def _seconds(claims: dict[str, Any], name: str) -> int:
    value = claims.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LAST_SECOND:
        raise TokenInvalid(f"{name}: the claim must be an integer of seconds")
    return value


def _identifier(claims: dict[str, Any], name: str) -> str:
    """Return a claim that is text, or a JSON number as text (§1.2). Raises `TokenInvalid`."""
    value = claims.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise TokenInvalid(f"{name}: the claim is required")
    return _checked(value, name)


def _optional_text(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    return _checked(value, name) if isinstance(value, str) else None


def _checked(value: str, name: str) -> str:
    problem = identifier_problem(value)
    if problem is not None:
        raise TokenInvalid(f"{name}: {problem}")
    return value
