"""The keys that a token may be signed with, and the checks of its claims that the settings require (§1.3).

A token names its key by `kid` where that is the JWK thumbprint (RFC 7638) of the key; then no other key is tried. Any
other `kid` is the issuer's own matter, and each key is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwk import OctKey

from app.errors import TokenInvalid

ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must have besides a valid signature; None and 0: anything."""

    audience: str | None = None
    issuer: str | None = None
    max_lifetime_seconds: int = 0

    def check(self, claims: dict[str, Any], lifetime_seconds: int) -> None:
        """Raise `TokenInvalid`, which names the claim."""
        audience = claims.get("aud")
        if self.audience is not None and self.audience not in (audience if isinstance(audience, list) else [audience]):
            raise TokenInvalid("aud: the token is for another audience")
        if self.issuer is not None and claims.get("iss") != self.issuer:
            raise TokenInvalid("iss: the token is from another issuer")
        if 0 < self.max_lifetime_seconds < lifetime_seconds:
            raise TokenInvalid(
                f"exp: the token is valid for {lifetime_seconds} s after its iat, at most {self.max_lifetime_seconds} s"
                " are allowed"
            )

    @property
    def claims(self) -> dict[str, str]:
        """Return the claims that a token needs to pass, for tokens that are issued here."""
        named = (("aud", self.audience), ("iss", self.issuer))
        return {name: value for name, value in named if value is not None}


class TokenKeys:
    """Verifies signatures: with the first secret, and with those that are accepted while it is changed."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [OctKey.import_key(secret) for secret in secrets]
        self._by_thumbprint = {key.thumbprint(): key for key in self._keys}

    def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token whose signature is valid. Raises `TokenInvalid`."""
        failure: Exception | None = None
        try:
            for key in self._candidates(token):
                try:
                    return dict(jwt.decode(token, key, algorithms=[ALGORITHM]).claims)
                except BadSignatureError as error:
                    failure = error
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            failure = error
        raise TokenInvalid(f"the token cannot be verified ({type(failure).__name__})") from failure

    def _candidates(self, token: str) -> Sequence[OctKey]:
        if len(self._keys) == 1:
            return self._keys
        kid = jws.extract_compact(token.encode()).headers().get("kid")
        named = self._by_thumbprint.get(kid) if isinstance(kid, str) else None
        return self._keys if named is None else [named]
