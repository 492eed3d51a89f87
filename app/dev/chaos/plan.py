"""The plan of an experiment, which its seed determines: the runs, the actions of their clients, and the faults. Pure.

The cluster may inject a fault later than planned, or into the next node that is ready, but never another fault.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

REPOSITORY = ("dwp-platform", "aura-platform")
PULL_NUMBER = 42

_WORDS = (
    "매출",
    "비용",
    "보고서",
    "검토",
    "일정",
    "회의",
    "결재",
    "고객",
    "계약",
    "배포",
    "점검",
    "예산",
    "알림",
    "자료",
)
_USERS = 12


class RunKind(StrEnum):
    """What the scripted model answers to the prompt of a run."""

    ANSWER = "answer"
    SAFE_TOOLS = "safe tools"
    PULL_REQUEST = "pull request"
    MAIL = "mail"
    BOTH = "mail and pull request"

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools of this kind that need an approval."""
        match self:
            case RunKind.PULL_REQUEST:
                return ("github_create_pr",)
            case RunKind.MAIL:
                return ("send_email",)
            case RunKind.BOTH:
                return ("send_email", "github_create_pr")
            case _:
                return ()


class DecisionPath(StrEnum):
    """How the decision of an approver reaches the service."""

    HTTP = "http"
    MAIN_SERVICE = "main service"
    """The stored request is updated, and the signal is stored and published."""
    SIGNAL = "signal"
    """The signal is stored and published; the stored request is not changed."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run and the actions of its client."""

    number: int
    user: str
    kind: RunKind
    text: str
    """The complete answer of a run that is not stopped."""
    reasoning: str
    chunk_chars: int
    delay_ms: float
    decision_path: DecisionPath
    decision_delay_seconds: float
    rejects: bool
    skips_unknown: bool
    """The decision where a tool may already have run: True to skip it, False to run it again."""
    cancels_after: int | None
    """The number of frames after which the client cancels the run; None to let it end."""
    has_long_read_timeout: bool
    """Whether the client waits long on a silent connection instead of switching to another node."""

    @property
    def prompt(self) -> str:
        return f"[chaos {self.number}] {self.kind.value}"

    @property
    def branch(self) -> str:
        return f"chaos-{self.number}"

    @property
    def subject(self) -> str:
        return f"chaos {self.number}"


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

    @property
    def is_bounded(self) -> bool:
        """Whether the takeover after this fault must happen within the lease time."""
        return self in (FaultKind.KILL, FaultKind.PAUSE, FaultKind.CUT)

    @property
    def ends_lease(self) -> bool:
        """Whether its node loses its lease."""
        return self.is_bounded or self is FaultKind.TERMINATE

    @property
    def affects_redis(self) -> bool:
        """Whether it is a fault of Redis and not of one node."""
        return not self.ends_lease and self is not FaultKind.MASTER_CUT

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
    },
    RedisKind.CLUSTER: {
        **dict(zip(_NODE_KINDS, (26, 12, 10, 8), strict=True)),
        FaultKind.MASTER_KILL: 12,
        FaultKind.SEED_KILL: 7,
        FaultKind.PARTITION: 6,
        FaultKind.LAGGING_REPLICA: 5,
        FaultKind.RESHARD: 12,
        FaultKind.MASTER_CUT: 8,
    },
    RedisKind.SENTINEL: {
        **dict(zip(_NODE_KINDS, (32, 14, 12, 10), strict=True)),
        FaultKind.MASTER_KILL: 14,
        FaultKind.SEED_KILL: 8,
        FaultKind.PARTITION: 6,
        FaultKind.LAGGING_REPLICA: 5,
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


def runs(seed: int, count: int) -> list[RunPlan]:
    """The runs in the order in which they start. A longer plan of the same seed begins with the shorter one."""
    return [_run(random.Random(f"{seed} run {number}"), number) for number in range(1, count + 1)]  # noqa: S311


def _run(rng: random.Random, number: int) -> RunPlan:
    kind = rng.choices(list(RunKind), weights=(36, 16, 18, 22, 8))[0]
    chance = rng.random()
    return RunPlan(
        number=number,
        user=f"chaos{rng.randrange(_USERS)}",
        kind=kind,
        text=_text(rng, number),
        reasoning=" ".join(rng.choices(_WORDS, k=12)) if rng.random() < 0.3 else "",
        chunk_chars=rng.choice((5, 8, 13)),
        delay_ms=rng.uniform(15, 45),
        decision_path=rng.choice(list(DecisionPath)),
        decision_delay_seconds=rng.uniform(0.0, 1.5),
        rejects=bool(kind.tools) and chance < 0.15,
        skips_unknown=rng.random() < 0.5,
        cancels_after=rng.randrange(2, 40) if chance > 0.88 else None,
        has_long_read_timeout=rng.random() < 0.4,
    )


def _text(rng: random.Random, number: int) -> str:
    """Numbered lines, so that every part is unique and lost, repeated or reordered text is detected."""
    lines = (
        f"{number}.{line} {' '.join(rng.choices(_WORDS, k=rng.randrange(3, 9)))} {rng.randrange(10**6)}"
        for line in range(1, rng.randrange(8, 20))
    )
    return "\n".join(lines) + rng.choice(("", " ✅", "\n", " 끝 🚀"))


def faults(
    seed: int, *, nodes: int, every_seconds: float, lease_seconds: float, redis: RedisKind = RedisKind.SINGLE
) -> Iterator[Fault]:
    """Endless faults, one every `every_seconds`. Only one node at a time is unavailable for longer than its lease."""
    rng = random.Random(f"{seed} faults")  # noqa: S311
    at_seconds, away, away_until = 0.0, -1, 0.0
    weights = _WEIGHTS[redis]
    while True:
        at_seconds += every_seconds
        kind = rng.choices(list(weights), weights=list(weights.values()))[0]
        node, spare = rng.randrange(nodes), rng.randrange(nodes - 1)
        duration = _fault_duration(rng, kind, lease_seconds)
        if at_seconds < away_until:  # the others must suffice for a takeover
            kind, duration = (
                (kind, duration) if duration <= lease_seconds or kind.affects_redis else (FaultKind.KILL, 0.5)
            )
            node = spare if spare < away else spare + 1
        elif duration > lease_seconds and not kind.affects_redis:
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
        case FaultKind.RESHARD | FaultKind.LAGGING_REPLICA:
            return rng.uniform(0.3, 1.5)
        case _:
            return rng.uniform(0.0, 1.5)
