"""Wires what every process has: a name, its connection to Redis and its subscriptions."""

from __future__ import annotations

from app.redis.nodes import new_node_id
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from app.settings import Settings


def connect(settings: Settings) -> tuple[str, Connection, PubSub]:
    """Return the name of a new node and its parts. Nothing connects before it is used."""
    node_id, timeout_seconds = new_node_id(), settings.aura_redis_timeout_seconds
    connection = Connection(settings.redis_address, timeout_seconds=timeout_seconds)
    return node_id, connection, PubSub(connection, node_id, timeout_seconds=timeout_seconds)
