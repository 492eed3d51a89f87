"""What a seed makes happen: the runs, what their clients do, and the faults in their order. Pure.

The cluster may carry a fault out later, or on the next node that is up, never another one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
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


class Kind(StrEnum):
    """What the prompt of a run leads to."""

    ANSWER = "answer"
    SAFE_TOOLS = "safe tools"
    PULL_REQUEST = "pull request"
    MAIL = "mail"
    BOTH = "mail and pull request"

    @property
    def tools(self) -> tuple[str, ...]:
        """The risky tools that a person is asked about."""
        match self:
            case Kind.PULL_REQUEST:
                return ("github_create_pr",)
            case Kind.MAIL:
                return ("send_email",)
            case Kind.BOTH:
                return ("send_email", "github_create_pr")
            case _:
                return ()


class Decider(StrEnum):
    """How a person's decision gets to the service."""

    HTTP = "http"
    MAIN_SERVICE = "main service"
    """The request's key is rewritten, the signal stored and published."""
    SIGNAL = "signal"
    """The signal is stored and published, the request left alone."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run and its client."""

    number: int
    user: str
    kind: Kind
    text: str
    """The whole answer of a run that completes."""
    reasoning: str
    chunk_chars: int
    delay_ms: float
    decider: Decider
    thinking_seconds: float
    rejects: bool
    skips_unknown: bool
    """What is said where a tool may already have run: leave it, or run it again."""
    cancels_after: int | None
    """Frames, after which the client asks for the run's end."""
    is_patient: bool
    """Stays on a silent connection instead of going to another node."""

    @property
    def prompt(self) -> str:
        return f"[chaos {self.number}] {self.kind.value}"

    @property
    def branch(self) -> str:
        return f"chaos-{self.number}"

    @property
    def subject(self) -> str:
        return f"chaos {self.number}"


class FaultKind(StrEnum):
    KILL = "kill"
    TERMINATE = "terminate"
    PAUSE = "pause"
    CUT = "cut"
    REDIS_RESTART = "redis restart"
    REDIS_PAUSE = "redis pause"

    @property
    def is_bounded(self) -> bool:
        """Whether the takeover that it leads to must keep to the lease."""
        return self in (FaultKind.KILL, FaultKind.PAUSE, FaultKind.CUT)

    @property
    def is_of_redis(self) -> bool:
        return self in (FaultKind.REDIS_RESTART, FaultKind.REDIS_PAUSE)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when (seconds after the start), to which node, and how long it lasts before all is well again."""

    kind: FaultKind
    at_seconds: float
    node: int
    lasts_seconds: float


def runs(seed: int, count: int) -> list[RunPlan]:
    """The runs, in the order in which they start; the first of a longer list are those of a shorter one."""
    return [_run(random.Random(f"{seed} run {number}"), number) for number in range(1, count + 1)]  # noqa: S311


def _run(dice: random.Random, number: int) -> RunPlan:
    kind = dice.choices(list(Kind), weights=(36, 16, 18, 22, 8))[0]
    fate = dice.random()
    return RunPlan(
        number=number,
        user=f"chaos{dice.randrange(_USERS)}",
        kind=kind,
        text=_text(dice, number),
        reasoning=" ".join(dice.choices(_WORDS, k=12)) if dice.random() < 0.3 else "",
        chunk_chars=dice.choice((5, 8, 13)),
        delay_ms=dice.uniform(15, 45),
        decider=dice.choice(list(Decider)),
        thinking_seconds=dice.uniform(0.0, 1.5),
        rejects=bool(kind.tools) and fate < 0.15,
        skips_unknown=dice.random() < 0.5,
        cancels_after=dice.randrange(2, 40) if fate > 0.88 else None,
        is_patient=dice.random() < 0.4,
    )


def _text(dice: random.Random, number: int) -> str:
    """Numbered, so that no part of it is like another: lost, doubled and swapped text shows."""
    lines = (
        f"{number}.{line} {' '.join(dice.choices(_WORDS, k=dice.randrange(3, 9)))} {dice.randrange(10**6)}"
        for line in range(1, dice.randrange(8, 20))
    )
    return "\n".join(lines) + dice.choice(("", " ✅", "\n", " 끝 🚀"))


def faults(seed: int, *, nodes: int, every_seconds: float, lease_seconds: float) -> Iterator[Fault]:
    """The faults without end, one every so often. Only one node at a time is away for longer than its lease."""
    dice = random.Random(f"{seed} faults")  # noqa: S311
    at_seconds, away, away_until = 0.0, -1, 0.0
    while True:
        at_seconds += every_seconds
        kind = dice.choices(list(FaultKind), weights=(34, 20, 16, 12, 8, 10))[0]
        node, spare = dice.randrange(nodes), dice.randrange(nodes - 1)
        lasts = _lasting(dice, kind, lease_seconds)
        if at_seconds < away_until:  # the others must suffice for a takeover
            kind, lasts = (kind, lasts) if lasts <= lease_seconds or kind.is_of_redis else (FaultKind.KILL, 0.5)
            node = spare if spare < away else spare + 1
        elif lasts > lease_seconds and not kind.is_of_redis:
            away, away_until = node, at_seconds + lasts
        yield Fault(kind, round(at_seconds, 3), node, round(lasts, 3))


def _lasting(dice: random.Random, kind: FaultKind, lease_seconds: float) -> float:
    match kind:
        case FaultKind.KILL | FaultKind.TERMINATE:
            return dice.uniform(0.1, 1.0)
        case FaultKind.PAUSE | FaultKind.CUT:
            return lease_seconds + dice.uniform(0.5, 4.0)
        case FaultKind.REDIS_RESTART:
            return dice.uniform(0.0, 1.5)
        case FaultKind.REDIS_PAUSE:
            return dice.uniform(1.0, 4.0)
