"""Which settings of a Redis server can lose runs, or waste its memory."""

from __future__ import annotations

from app.errors import StorageUnavailable
from app.redis.wire.connection import Connection

_NAMES = ("maxmemory-policy", "appendonly", "min-replicas-to-write", "stream-node-max-bytes")


async def configuration_advice(connection: Connection, replicas: int = 0) -> list[str]:
    """Return a line for each setting that can lose runs or waste memory; none if the server does not allow the query.

    `replicas` is how many are to acknowledge important writes.
    """
    try:
        found = await connection.execute("CONFIG", "GET", *_NAMES)
    except StorageUnavailable:
        return []
    values = {_text(name): _text(value) for name, value in dict(found).items()}
    advice = []
    if values.get("maxmemory-policy", "noeviction") != "noeviction":
        advice.append("maxmemory-policy is not noeviction: Redis may evict the data of runs; set it to noeviction")
    if values.get("appendonly", "yes") != "yes":
        advice.append("appendonly is off: a restart of Redis loses all runs; set appendonly yes")
    if not 0 < int(values.get("stream-node-max-bytes", "4096")) <= 4096:
        advice.append("stream-node-max-bytes is over 4096: each run takes 4 KB more of Redis; set it to 4096")
    if int(values.get("min-replicas-to-write", replicas)) < replicas:
        advice.append(
            "min-replicas-to-write is less than AURA_REDIS_REPLICAS: a master that is cut off from its replicas"
            f" goes on writing what will be lost; set it to {replicas}"
        )
    return advice


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
