"""The keys of the service, and what authenticates and stores its records in Redis with them."""

from __future__ import annotations

from app.crypto.purpose_keys import PurposeKeys
from app.ports.clock import Clock
from app.redis.checkpoints import Checkpoints
from app.redis.seals import CheckpointSeal, RequestSeal, Seals
from app.redis.wire.connection import Connection
from app.settings import Settings


def make_purpose_keys(settings: Settings) -> PurposeKeys:
    """Return the keys that are derived from `JWT_SECRET`, and from the further secrets that are accepted."""
    return PurposeKeys(settings.token_secrets)


def make_seals(settings: Settings, keys: PurposeKeys) -> Seals:
    """Return what adds and checks the MACs of checkpoints, requests and decisions."""
    key, accept = settings.aura_decision_key, settings.aura_accept_unsigned
    decision_key = None if key is None else key.get_secret_value()
    return Seals(
        CheckpointSeal(keys, accept_unsigned=accept),
        RequestSeal(keys, accept_unsigned=accept, decision_key=decision_key),
    )


def make_checkpoints(settings: Settings, connection: Connection, seals: Seals, clock: Clock) -> Checkpoints:
    """Return what stores checkpoints, with the instructions of the operator as a shared text."""
    prompt_file = settings.aura_system_prompt_file
    texts = [] if prompt_file is None else [prompt_file.text]
    retention_seconds = settings.aura_retention_seconds
    return Checkpoints(connection, seals.checkpoints, clock, texts, retention_seconds=retention_seconds)
