"""The chain: each entry holds the hash of the one before, and a MAC. Pure functions without I/O or a clock.

    hash(n) = SHA-256(tenant, chain, header(n), event(n))        header(n) has hash(n-1)
    mac(n)  = HMAC-SHA-256(key, hash(n))

Anyone can compute the hashes. Only who has the key can write an entry that passes verification.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from app.ports.audit import ChainName, SealedFailure, StoredEntry

_FORMAT = b"aura audit entry 1"
_FAILURE_FORMAT = b"aura audit failure 1\0"
_HEADER = struct.Struct(">QQQ32s")


class Head(NamedTuple):
    """The end of a chain: its last entry's sequence, time (ms) and hash."""

    sequence: int
    at_ms: int
    hash: bytes


START = Head(0, 0, bytes(32))
"""The head of a chain without entries."""


class Header(NamedTuple):
    """What the chain adds to an event. The first entry of a chain has the sequence 1.

    `previous_at_ms` shows in an entry whose predecessor is gone whether the retention time can have removed it.
    """

    sequence: int
    at_ms: int
    previous_at_ms: int
    previous_hash: bytes


def seal(key: bytes, chain: ChainName, head: Head, now_ms: int, body: bytes) -> tuple[StoredEntry, Head]:
    """Return the entry that follows `head`, and the new head. Time never goes back within a chain."""
    sequence, at_ms = head.sequence + 1, max(now_ms, head.at_ms)
    header = _HEADER.pack(sequence, at_ms, head.at_ms, head.hash)
    digest = _hash(chain, header, body)
    return StoredEntry((at_ms, sequence), header, body, _mac(key, digest)), Head(sequence, at_ms, digest)


def read_header(entry: StoredEntry) -> Header | None:
    """Return the header of an entry; None where it is none."""
    return Header(*_HEADER.unpack(entry.header)) if len(entry.header) == _HEADER.size else None


def entry_hash(chain: ChainName, entry: StoredEntry) -> bytes:
    return _hash(chain, entry.header, entry.body)


def is_sealed(keys: Iterable[bytes], chain: ChainName, entry: StoredEntry) -> bool:
    """Whether an entry was written for this chain with one of these keys."""
    digest = _hash(chain, entry.header, entry.body)
    return any(hmac.compare_digest(_mac(key, digest), entry.mac) for key in keys)


def seal_failure(key: bytes, body: bytes) -> SealedFailure:
    return SealedFailure(body, _mac(key, _FAILURE_FORMAT + body))


def is_failure_sealed(keys: Iterable[bytes], failure: SealedFailure) -> bool:
    return any(hmac.compare_digest(_mac(key, _FAILURE_FORMAT + failure.body), failure.mac) for key in keys)


def _hash(chain: ChainName, header: bytes, body: bytes) -> bytes:
    return hashlib.sha256(_prefix(chain) + header + body).digest()


@lru_cache(maxsize=1024)
def _prefix(chain: ChainName) -> bytes:
    names = (part.encode("utf-8", "replace") for part in chain)
    return b"\0".join((_FORMAT, *names, b""))


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
