"""Encryption of the callers' tokens that Redis stores for requests after a restart.

The key is derived from the secrets that all replicas have. Anyone with these can issue tokens anyway.
"""

from __future__ import annotations

import json

from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from app.crypto.purpose_keys import Purpose, PurposeKeys
from app.integrations.main_service import Caller

_HEADER = {"alg": "dir", "enc": "A256GCM"}


class TokenCipher:
    """Encrypts and decrypts callers. What was encrypted for one run cannot be decrypted for another."""

    def __init__(self, keys: PurposeKeys) -> None:
        self._keys = [OctKey.import_key(key) for key in keys.derive(Purpose.CALLERS_TOKENS)]

    def encrypt(self, session_id: str, caller: Caller) -> str:
        """Return the encrypted caller as a JWE in compact form."""
        plaintext = json.dumps([session_id, caller.token, caller.expires_at])
        return jwe.encrypt_compact(_HEADER, plaintext.encode(), self._keys[0])

    def decrypt(self, session_id: str, encrypted_token: str) -> Caller | None:
        """Return the caller, or None if it was encrypted with another secret or for another run."""
        for key in self._keys:
            try:
                plaintext = json.loads(jwe.decrypt_compact(encrypted_token, key).plaintext or b"")
                encrypted_for, token, expires_at = plaintext
            except (JoseError, ValueError, TypeError):
                continue
            return Caller(token, expires_at) if encrypted_for == session_id else None
        return None
