"""The slots of a cluster in a test: who serves one, and moving one to another master."""

from __future__ import annotations

from collections.abc import Sequence

from redis.crc import key_slot

from app.dev.demo.redis import RedisServer
from app.dev.demo.redis_deployments import ClusterServers, execute


def master_of(cluster: ClusterServers, key: str) -> RedisServer:
    """Return the server that holds the slot of a key or of a channel."""
    slot = key_slot(key.encode())
    ranges = execute(cluster.servers[-1], "CLUSTER", "SLOTS")
    (port,) = [int(each[2][1]) for each in ranges if int(each[0]) <= slot <= int(each[1])]
    return next(server for server in cluster.servers if server.port == port)


class SlotMove:
    """Moves the slot of a key to another master, as `redis-cli --cluster reshard` does."""

    def __init__(self, cluster: ClusterServers, key: str) -> None:
        self.slot = key_slot(key.encode())
        self.source = master_of(cluster, key)
        self.target = next(server for server in cluster.masters() if server is not self.source)
        self._source_id, self._target_id = (execute(it, "CLUSTER", "MYID") for it in (self.source, self.target))

    def begin(self) -> None:
        """From now on the target gets the keys that the source does not have (`ASK`)."""
        execute(self.target, "CLUSTER", "SETSLOT", self.slot, "IMPORTING", self._source_id)
        execute(self.source, "CLUSTER", "SETSLOT", self.slot, "MIGRATING", self._target_id)

    def keys(self) -> list[str]:
        """Return the keys that are still at the source."""
        return list(execute(self.source, "CLUSTER", "GETKEYSINSLOT", self.slot, 1000))

    def send_keys(self, keys: Sequence[str]) -> None:
        execute(self.source, "MIGRATE", "127.0.0.1", self.target.port, "", 0, 2000, "KEYS", *keys)

    def end(self) -> None:
        """From now on the target serves the slot (`MOVED`)."""
        for server in (self.target, self.source):
            execute(server, "CLUSTER", "SETSLOT", self.slot, "NODE", self._target_id)
