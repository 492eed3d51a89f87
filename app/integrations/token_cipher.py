"""A caller's token as it is kept for the time after a restart: sealed, so that who reads Redis does not have it.

The key comes from `JWT_SECRET`: all replicas have it, and who has it could make himself a token anyway.
"""

from __future__ import annotations

import hashlib
import json

from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from app.integrations.main_service import Caller

_HEADER = {"alg": "dir", "enc": "A256GCM"}
_PURPOSE = b"aura: callers' tokens\0"


class TokenCipher:
    """Closes and opens; what was closed for one run opens for no other."""

    def __init__(self, secret: str) -> None:
        self._key = OctKey.import_key(hashlib.sha256(_PURPOSE + secret.encode()).digest())

    def close(self, session_id: str, caller: Caller) -> str:
        kept = json.dumps([session_id, caller.token, caller.expires_at])
        return jwe.encrypt_compact(_HEADER, kept.encode(), self._key)

    def open(self, session_id: str, encrypted_token: str) -> Caller | None:
        """None: it was not closed with this secret, or not for this run."""
        try:
            kept = json.loads(jwe.decrypt_compact(encrypted_token, self._key).plaintext or b"")
            kept_for, token, expires_at = kept
        except (JoseError, ValueError, TypeError):
            return None
        return Caller(token, expires_at) if kept_for == session_id else None
