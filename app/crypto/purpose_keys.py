"""A key for each purpose, derived from the secrets of the service (HKDF, RFC 5869).

All replicas have the same secrets, so they derive the same keys. What one purpose authenticates is worthless for every
other one.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from enum import StrEnum

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_KEY_BYTES = 32
_TAG_BYTES = 24
"""Of the 32 bytes of an HMAC so many are kept: as text they have 32 characters. RFC 2104 allows half."""
TAG_CHARACTERS = 32


class Purpose(StrEnum):
    """What a key is for. The value is part of the derivation: a changed one makes another key."""

    CALLERS_TOKENS = "callers' tokens"
    CHECKPOINT = "checkpoint"
    SHOWN_REQUEST = "shown approval request"
    RECORDED_DECISION = "recorded decision"
    AUDIT = "audit"
    MCP_REQUEST_STATE = "MCP request state"


class PurposeKeys:
    """The keys of all purposes. Of the secrets the first one signs and encrypts; all of them verify and decrypt.

    So a secret can be replaced: first accept the new one everywhere, then let it be the first, then drop the old one.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise ValueError("at least one secret is required")
        self._secrets = tuple(dict.fromkeys(secrets))

    def derive(self, purpose: Purpose) -> tuple[bytes, ...]:
        """Return the keys of a purpose, 32 bytes each, in the order of the secrets."""
        return tuple(_derive(secret, purpose) for secret in self._secrets)

    def authenticator(self, purpose: Purpose) -> MessageAuthenticator:
        """Return what computes and verifies the MACs of a purpose."""
        return MessageAuthenticator(self.derive(purpose))


class MessageAuthenticator:
    """Computes and verifies MACs: HMAC-SHA256, as 32 characters of base64url."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    def tag(self, message: bytes | memoryview) -> bytes:
        """Return the MAC of a message, made with the first key."""
        return _tag(self._keys[0], message)

    def verify(self, message: bytes | memoryview, tag: bytes) -> bool:
        """Return whether one of the keys has made this MAC of the message."""
        return any(hmac.compare_digest(_tag(key, message), tag) for key in self._keys)


def _derive(secret: str, purpose: Purpose) -> bytes:
    kdf = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=f"aura: {purpose.value}".encode())
    return kdf.derive(secret.encode())


def _tag(key: bytes, message: bytes | memoryview) -> bytes:
    return base64.urlsafe_b64encode(hmac.digest(key, message, "sha256")[:_TAG_BYTES])
