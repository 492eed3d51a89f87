"""Wires what every process has: a name, its connection to Redis and its subscriptions."""

from __future__ import annotations

from app.redis.nodes import RedisNodes, new_node_id
from app.redis.wire.acknowledgements import Acknowledgements
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from app.settings import Settings


def connect(settings: Settings) -> tuple[str, Connection, PubSub]:
    """Return the name of a new node and its parts. Nothing connects before it is used."""
    node_id, timeout_seconds = new_node_id(), settings.aura_redis_timeout_seconds
    connection = Connection(settings.redis_address, timeout_seconds=timeout_seconds)
    return node_id, connection, PubSub(connection, node_id, timeout_seconds=timeout_seconds)


def make_nodes(
    settings: Settings, connection: Connection, pubsub: PubSub, node_id: str, acknowledgements: Acknowledgements
) -> RedisNodes:
    """Return the leases of the nodes and the takeover of their runs; nothing starts before it is used."""
    return RedisNodes(
        connection,
        pubsub,
        node_id=node_id,
        lease_seconds=settings.aura_lease_seconds,
        takeover_limit=settings.aura_takeover_limit,
        acknowledgements=acknowledgements,
    )
