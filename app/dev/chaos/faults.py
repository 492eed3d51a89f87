"""The faults of an experiment: their kinds, how often each is chosen, and those that a seed determines. Pure.

The cluster may inject a fault later than planned, or into the next node that is ready, but never another fault.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class RedisKind(StrEnum):
    """The Redis of an experiment: one server, a cluster of masters and replicas, or a master that sentinels watch."""

    SINGLE = "single"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


class FaultKind(StrEnum):
    KILL = "kill"
    TERMINATE = "terminate"
    PAUSE = "pause"
    CUT = "cut"
    REDIS_RESTART = "redis restart"
    REDIS_PAUSE = "redis pause"
    MASTER_KILL = "master kill"
    """A master is killed, replaced by a replica, and comes back as a replica."""
    SEED_KILL = "seed kill"
    """The server or the sentinel that the address of Redis names first is killed. It need not be a master."""
    PARTITION = "partition"
    """A master is suspended until it is replaced; then it continues, and does not know that yet."""
    LAGGING_REPLICA = "lagging replica"
    """The replicas of a master are away for a moment. Then it is killed, and one that lacks its last writes replaces
    it."""
    RESHARD = "reshard"
    """Hash slots in which there are keys move to another master."""
    MASTER_CUT = "master cut"
    """One node cannot reach one of the masters; all others can."""
    MCP_KILL = "MCP kill"
    """The MCP server is killed, in the middle of a write call if there is one soon, and started again."""

    @property
    def is_bounded(self) -> bool:
        """Whether the takeover after this fault must happen within the lease time."""
        return self in (FaultKind.KILL, FaultKind.PAUSE, FaultKind.CUT)

    @property
    def ends_lease(self) -> bool:
        """Whether its node loses its lease."""
        return self.is_bounded or self is FaultKind.TERMINATE

    @property
    def affects_node(self) -> bool:
        """Whether it is a fault of one node."""
        return self.ends_lease or self is FaultKind.MASTER_CUT

    @property
    def affects_redis(self) -> bool:
        """Whether it is a fault of Redis."""
        return not self.affects_node and self is not FaultKind.MCP_KILL

    @property
    def certainly_lags(self) -> bool:
        """Whether the new master must be expected to lack writes, though its replicas were there before the fault."""
        return self in (FaultKind.PARTITION, FaultKind.LAGGING_REPLICA)


_NODE_KINDS = (FaultKind.KILL, FaultKind.TERMINATE, FaultKind.PAUSE, FaultKind.CUT)
_WEIGHTS: Mapping[RedisKind, Mapping[FaultKind, int]] = {
    RedisKind.SINGLE: {
        **dict(zip(_NODE_KINDS, (34, 20, 16, 12), strict=True)),
        FaultKind.REDIS_RESTART: 8,
        FaultKind.REDIS_PAUSE: 10,
        FaultKind.MCP_KILL: 12,
    },
    RedisKind.CLUSTER: {
        **dict(zip(_NODE_KINDS, (26, 12, 10, 8), strict=True)),
        FaultKind.MASTER_KILL: 12,
        FaultKind.SEED_KILL: 7,
        FaultKind.PARTITION: 6,
        FaultKind.LAGGING_REPLICA: 5,
        FaultKind.RESHARD: 12,
        FaultKind.MASTER_CUT: 8,
        FaultKind.MCP_KILL: 12,
    },
    RedisKind.SENTINEL: {
        **dict(zip(_NODE_KINDS, (32, 14, 12, 10), strict=True)),
        FaultKind.MASTER_KILL: 14,
        FaultKind.SEED_KILL: 8,
        FaultKind.PARTITION: 6,
        FaultKind.LAGGING_REPLICA: 5,
        FaultKind.MCP_KILL: 12,
    },
}
"""How often each kind of fault is chosen, for each kind of Redis."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault: its start (s after the start of the faults), the index of its node, and its duration (s).

    Where it concerns a master of a cluster, `node` is also the index of the master, in the order of the hash slots.
    """

    kind: FaultKind
    at_seconds: float
    node: int
    duration_seconds: float


def faults(
    seed: int,
    *,
    nodes: int,
    every_seconds: float,
    lease_seconds: float,
    redis: RedisKind = RedisKind.SINGLE,
    with_mcp: bool = True,
) -> Iterator[Fault]:
    """Endless faults, one every `every_seconds`. Only one node at a time is unavailable for longer than its lease.

    `with_mcp`: whether there is an MCP server, which can have faults too.
    """
    rng = random.Random(f"{seed} faults")  # noqa: S311
    at_seconds, away, away_until = 0.0, -1, 0.0
    weights = {kind: weight for kind, weight in _WEIGHTS[redis].items() if with_mcp or kind is not FaultKind.MCP_KILL}
    while True:
        at_seconds += every_seconds
        kind = rng.choices(list(weights), weights=list(weights.values()))[0]
        node, spare = rng.randrange(nodes), rng.randrange(nodes - 1)
        duration = _fault_duration(rng, kind, lease_seconds)
        if at_seconds < away_until:  # the others must suffice for a takeover
            if kind.affects_node and duration > lease_seconds:
                kind, duration = FaultKind.KILL, 0.5
            node = spare if spare < away else spare + 1
        elif kind.affects_node and duration > lease_seconds:
            away, away_until = node, at_seconds + duration
        yield Fault(kind, round(at_seconds, 3), node, round(duration, 3))


def _fault_duration(rng: random.Random, kind: FaultKind, lease_seconds: float) -> float:
    """Where a master is replaced, this is the time after that, and for a lagging replica the time before."""
    match kind:
        case FaultKind.KILL | FaultKind.TERMINATE:
            return rng.uniform(0.1, 1.0)
        case FaultKind.PAUSE | FaultKind.CUT:
            return lease_seconds + rng.uniform(0.5, 4.0)
        case FaultKind.REDIS_PAUSE:
            return rng.uniform(1.0, 4.0)
        case FaultKind.MASTER_CUT:
            return min(rng.uniform(1.0, 6.0), lease_seconds)
        case FaultKind.RESHARD | FaultKind.LAGGING_REPLICA | FaultKind.MCP_KILL:
            return rng.uniform(0.3, 1.5)
        case _:
            return rng.uniform(0.0, 1.5)
