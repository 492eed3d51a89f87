"""Authenticates what Redis holds: checkpoints, what an approval request shows, and decisions (CONTRACT §5).

Other programs can write to the same Redis. A MAC of ours shows whether they have changed what this service stored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.crypto.purpose_keys import TAG_CHARACTERS, MessageAuthenticator, Purpose, PurposeKeys
from app.errors import RecordChanged
from statemachine.checkpoint import Checkpoint
from statemachine.instructions import NOTHING_SHARED
from statemachine.stored import JsonObject, canonical_json

_MAC_FIELD = b',"mac":"'
_SEAL_BYTES = len(_MAC_FIELD) + TAG_CHARACTERS + len(b'"}')

SHOWN_FIELDS = (
    "requestId",
    "sessionId",
    "userId",
    "tenantId",
    "actionType",
    "message",
    "context",
    "argumentsDigest",
    "warnings",
    "outcomeUnknown",
    "position",
    "total",
    "createdAt",
    "expiresAt",
    "expiresAtMillis",
)
"""What an approver sees of a request, and what decides who may decide it until when."""

DECISION_FIELDS = (
    "status",
    "approvedBy",
    "approvedAt",
    "rejectedBy",
    "rejectedAt",
    "reason",
    "params",
    "skip",
    "decisionId",
)
"""What this service writes when it records a decision."""

_UNSIGNED = "it has no MAC; while an older release is replaced, AURA_ACCEPT_UNSIGNED=true accepts that"
_WRONG = "its MAC does not match: another program has changed it, or JWT_SECRET was replaced (JWT_SECRETS_ACCEPTED)"


class CheckpointSeal:
    """Adds a MAC to saved checkpoints, and checks it wherever one is read.

    The stored text stays one JSON object: the MAC is its last field. It covers the bytes before it.
    """

    def __init__(self, keys: PurposeKeys, *, accept_unsigned: bool) -> None:
        self._mac = keys.authenticator(Purpose.CHECKPOINT)
        self._accept_unsigned = accept_unsigned

    def seal(self, checkpoint: Checkpoint, shared: Mapping[str, str] = NOTHING_SHARED) -> bytes:
        """Return the checkpoint as it is stored: with references to the `shared` texts."""
        return self.seal_text(checkpoint.to_json(shared))

    def seal_text(self, text: bytes) -> bytes:
        """Return the JSON object of a checkpoint with its MAC."""
        content = text[:-1]
        return b"".join((content, _MAC_FIELD, self._mac.tag(content), b'"}'))

    def open(self, session_id: str, stored: bytes, shared: Mapping[str, str] = NOTHING_SHARED) -> Checkpoint:
        """Return a stored checkpoint of this session.

        Raises `RecordChanged`, `CheckpointTooNew`, `SharedTextMissing`, `CheckpointUnreadable`.
        """
        content, tag = stored[:-_SEAL_BYTES], stored[-TAG_CHARACTERS - 2 : -2]
        if stored[-_SEAL_BYTES : -TAG_CHARACTERS - 2] == _MAC_FIELD and stored.endswith(b'"}'):
            if not self._mac.verify(content, tag):
                raise RecordChanged(f"the checkpoint of {session_id}: {_WRONG}")
            checkpoint = Checkpoint.from_json(content + b"}", shared)
        elif self._accept_unsigned:
            checkpoint = Checkpoint.from_json(stored, shared)
        else:
            raise RecordChanged(f"the checkpoint of {session_id}: {_UNSIGNED}")
        if checkpoint.session_id != session_id:
            raise RecordChanged(f"the checkpoint of {session_id} is that of another run")
        return checkpoint


class RequestSeal:
    """Authenticates approval requests. Their MACs cover values: the Main Service may write the same values otherwise.

    `decision_key` is shared with the Main Service; where it is set, decisions of others count only with a MAC of it.
    """

    def __init__(self, keys: PurposeKeys, *, accept_unsigned: bool, decision_key: str | None = None) -> None:
        self._shown = keys.authenticator(Purpose.SHOWN_REQUEST)
        self._recorded = keys.authenticator(Purpose.RECORDED_DECISION)
        self._accept_unsigned = accept_unsigned
        self._decision_key = None if decision_key is None else decision_key.encode()

    @property
    def needs_decision_mac(self) -> bool:
        """Whether a decision of another service counts only with its MAC."""
        return self._decision_key is not None

    def seal(self, request: JsonObject) -> JsonObject:
        """Return a new request with the MAC of what it shows."""
        return {**request, "mac": _tag(self._shown, request, SHOWN_FIELDS)}

    def is_intact(self, request_id: str, stored: JsonObject) -> bool:
        """Return whether what this request shows is as this service wrote it, under this id."""
        if stored.get("requestId") != request_id:
            return False
        if "mac" not in stored:
            return self._accept_unsigned
        return _verify(self._shown, stored, SHOWN_FIELDS, stored["mac"])

    def seal_decision(self, decided: JsonObject) -> JsonObject:
        """Return a request with the MAC of the decision by HTTP that it holds, or of the status with which it ends."""
        return {**decided, "auraMac": _tag(self._recorded, decided, _RECORDED)}

    def is_own_decision(self, stored: JsonObject) -> bool:
        """Return whether this service has recorded the decision by HTTP, or the status with which the request ended."""
        return "auraMac" in stored and _verify(self._recorded, stored, _RECORDED, stored["auraMac"])

    def may_be_closed(self, stored: JsonObject) -> bool:
        """Return whether a status without a decision, such as `expired`, counts: with `decision_key` only ours does."""
        return self._decision_key is None or self.is_own_decision(stored)

    def is_authentic(self, stored: JsonObject) -> bool:
        """Return whether the decision that another service wrote counts: it does without `decision_key`."""
        if self._decision_key is None:
            return True
        is_approved = str(stored.get("status")).lower() == "approved"
        by, at = ("approvedBy", "approvedAt") if is_approved else ("rejectedBy", "rejectedAt")
        values = (stored.get(name) for name in ("requestId", "status", "argumentsDigest", by, at))
        text = "\n".join("" if value is None else str(value) for value in values)
        expected = hmac.new(self._decision_key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
        sent = str(stored.get("decisionMac", ""))
        return hmac.compare_digest(expected.encode(), sent.encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Seals:
    """What authenticates the stored values of this service."""

    checkpoints: CheckpointSeal
    requests: RequestSeal


_RECORDED = ("requestId", "argumentsDigest", *DECISION_FIELDS)


def _tag(mac: MessageAuthenticator, stored: JsonObject, names: tuple[str, ...]) -> str:
    return mac.tag(_values(stored, names)).decode()


def _verify(mac: MessageAuthenticator, stored: JsonObject, names: tuple[str, ...], tag: Any) -> bool:
    return isinstance(tag, str) and mac.verify(_values(stored, names), tag.encode("utf-8", "replace"))


def _values(stored: JsonObject, names: tuple[str, ...]) -> bytes:
    return canonical_json([stored.get(name) for name in names]).encode("utf-8", "surrogatepass")
