"""Encryption of the callers' tokens that Redis stores for requests after a restart.

The key is derived from `JWT_SECRET`, which all replicas have. Anyone with that secret can issue tokens anyway.
"""

from __future__ import annotations

import hashlib
import json

from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from app.integrations.main_service import Caller

_HEADER = {"alg": "dir", "enc": "A256GCM"}
_KEY_PREFIX = b"aura: callers' tokens\0"


class TokenCipher:
    """Encrypts and decrypts callers. What was encrypted for one run cannot be decrypted for another."""

    def __init__(self, secret: str, *accepted: str) -> None:
        """`accepted` are further secrets with which it may have been encrypted (`JWT_SECRETS_ACCEPTED`)."""
        self._key, *others = [
            OctKey.import_key(hashlib.sha256(_KEY_PREFIX + each.encode()).digest()) for each in (secret, *accepted)
        ]
        self._keys = (self._key, *others)

    def encrypt(self, session_id: str, caller: Caller) -> str:
        """Return the encrypted caller as a JWE in compact form."""
        plaintext = json.dumps([session_id, caller.token, caller.expires_at])
        return jwe.encrypt_compact(_HEADER, plaintext.encode(), self._key)

    def decrypt(self, session_id: str, encrypted_token: str) -> Caller | None:
        """Return the caller, or None if it was encrypted with another secret or for another run."""
        for key in self._keys:
            try:
                encrypted_for, token, expires_at = json.loads(
                    jwe.decrypt_compact(encrypted_token, key).plaintext or b""
                )
            except (JoseError, ValueError, TypeError):
                continue
            return Caller(token, expires_at) if encrypted_for == session_id else None
        return None
