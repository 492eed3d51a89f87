"""Seals the `requestState` of a server: text that must come back unchanged, to that server, and for that call alone."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from app.crypto.purpose_keys import TAG_CHARACTERS, MessageAuthenticator
from statemachine.stored import JsonObject, canonical_json, digest


class StateRefused(ValueError):
    """The sealed state is of another server, tool or call, or was changed."""


@dataclass(frozen=True, slots=True)
class CallIdentity:
    """The call that a state belongs to."""

    server: str
    tool: str
    session_id: str
    idempotency_key: str
    arguments_digest: str

    @classmethod
    def of(cls, server: str, tool: str, session_id: str, idempotency_key: str, arguments: JsonObject) -> CallIdentity:
        return cls(server, tool, session_id, idempotency_key, digest(arguments))


class RequestStates:
    """Seals and opens states with a key of this service. All replicas have the same key."""

    def __init__(self, authenticator: MessageAuthenticator) -> None:
        self._authenticator = authenticator

    def seal(self, state: str, call: CallIdentity) -> str:
        """Return the state with a MAC that binds it to the call."""
        encoded = base64.urlsafe_b64encode(state.encode("utf-8", "surrogatepass")).decode()
        return self._authenticator.tag(_message(encoded, call)).decode() + encoded

    def open(self, sealed: str, call: CallIdentity) -> str:
        """Return the state as the server sent it. Raises `StateRefused`."""
        tag, encoded = sealed[:TAG_CHARACTERS], sealed[TAG_CHARACTERS:]
        if not self._authenticator.verify(_message(encoded, call), tag.encode("utf-8", "replace")):
            raise StateRefused("the state of the request is of another call, or was changed")
        try:
            return base64.urlsafe_b64decode(encoded).decode("utf-8", "surrogatepass")
        except (binascii.Error, UnicodeDecodeError):
            raise StateRefused("the state of the request cannot be read") from None


def _message(encoded: str, call: CallIdentity) -> bytes:
    parts = [call.server, call.tool, call.session_id, call.idempotency_key, call.arguments_digest, encoded]
    return canonical_json(parts).encode("utf-8", "replace")
