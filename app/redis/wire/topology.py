"""The map of a Redis Cluster: which server holds which hash slot, as its nodes describe it, and what redirects name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MasterDownError, MovedError, TryAgainError

from app.ports.redis_address import Server
from app.redis.wire.script import Command

_WITHOUT_KEY = frozenset({"PING", "INFO", "CONFIG", "TIME", "PUBLISH", "SCRIPT", "SCAN", "ECHO", "CLUSTER", "CLIENT"})
_KEY_IS_SECOND = frozenset({"MEMORY", "XINFO", "OBJECT"})


def slot_of(command: Command) -> int | None:
    """Return the hash slot of a command's first key; None for a command that any node can answer."""
    name = command[0]
    if name == "EVALSHA":
        return _slot(command[3]) if int(command[2]) else None
    if name in _WITHOUT_KEY:
        return None
    return _slot(command[2 if name in _KEY_IS_SECOND else 1])


def slot_of_channel(channel: str) -> int:
    """Return the hash slot of a channel of sharded Pub/Sub."""
    return _slot(channel)


def _slot(key: str | bytes) -> int:
    return key_slot(key if isinstance(key, bytes) else key.encode())


class Topology(NamedTuple):
    """What one node reports of its cluster."""

    masters: tuple[Server | None, ...]
    """The master of each slot; None for a slot that no node serves."""
    servers: frozenset[Server]
    """All masters and replicas of the map."""
    epoch: int
    """Rises with each change of the map that the cluster has agreed on."""
    is_up: bool
    """Whether the node thinks that the cluster works. One that is cut off from the majority does not."""

    @classmethod
    def read(cls, queried: Server, info: Any, slots: Sequence[Any]) -> Self:
        """Read the replies of `CLUSTER INFO` and `CLUSTER SLOTS`. The first may be an error: a user may not send it.

        `queried` is the node that gave them: a node that does not know its own host leaves it out. Raises `ValueError`,
        `TypeError` or `IndexError` for anything else.
        """
        lines = info.split(b"\r\n") if isinstance(info, bytes) else []
        fields = dict(line.split(b":", 1) for line in lines if b":" in line)
        masters: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        servers: set[Server] = set()
        for first, last, *nodes in slots:
            here = [Server(_host(node[0], queried), int(node[1])) for node in nodes]
            masters[first : last + 1] = [here[0]] * (last + 1 - first)
            servers.update(here)
        epoch, is_up = int(fields.get(b"cluster_current_epoch", 0)), fields.get(b"cluster_state", b"ok") == b"ok"
        return cls(tuple(masters), frozenset(servers), epoch, is_up)

    @property
    def all_masters(self) -> frozenset[Server]:
        """The servers that hold slots."""
        return frozenset(server for server in set(self.masters) if server is not None)


def newest(maps: Iterable[Topology]) -> Topology | None:
    """Return the map to follow: of those that describe a working cluster, or else of all, the one agreed on last."""
    return max(maps, key=lambda each: (each.is_up, each.epoch), default=None)


class Redirect(NamedTuple):
    """Another node to send to: for good (`MOVED`), or for this command alone (`ASK`: the slot is on its way)."""

    slot: int
    server: Server
    is_for_good: bool


def redirect_of(reply: Any, queried: Server) -> Redirect | None:
    """Return where a reply sends the command; None where it does not."""
    if not isinstance(reply, AskError):  # of which `MovedError` is a kind
        return None
    server = Server(_host(reply.host, queried), int(reply.port))
    return Redirect(reply.slot_id, server, isinstance(reply, MovedError))


def is_passing(reply: Any) -> bool:
    """Return whether a reply means that the slot is on its way, or that no master serves it at the moment."""
    return isinstance(reply, TryAgainError | ClusterDownError | MasterDownError)


def _host(given: bytes | str | None, queried: Server) -> str:
    host = given.decode() if isinstance(given, bytes) else given
    return host if host and host != "?" else queried.host
