"""The runs of an experiment and the actions of their clients, which its seed determines. Pure.

`faults` has the other half of the plan.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

REPOSITORY = ("dwp-platform", "aura-platform")
PULL_NUMBER = 42
TICKET_TOOL, ORDER_TOOL, NOTICE_TOOL = "read_ticket", "order_stock", "post_notice"
"""The plugged-in tools (`plugged_in`). The first one's result is text of others; the last one is outward."""
MCP_SERVER, MCP_SERVER_TOOL = "notes", "add_note"
MCP_TOOL = f"{MCP_SERVER}__{MCP_SERVER_TOOL}"

_DID_NOT_RUN = (
    "nothing was sent",
    "the call did not run; call it again",
    "is not available any more",
    "does not exist",
)
"""Parts of what the service says of an MCP call that it has not made because the server was away."""

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


def did_not_run(error: str) -> bool:
    """Whether the error of an MCP call says that it certainly had no effect, and may be made again."""
    return any(part in error for part in _DID_NOT_RUN)


class RunKind(StrEnum):
    """What the scripted model answers to the prompt of a run."""

    ANSWER = "answer"
    SAFE_TOOLS = "safe tools"
    PULL_REQUEST = "pull request"
    MAIL = "mail"
    BOTH = "mail and pull request"
    ORDER = "plugged-in tool"
    OUTSIDE_TEXT = "text from outside"
    """A plugged-in tool brings text of others. Then an outward one needs an approval, which its own marks do not."""
    MCP_NOTE = "MCP tool"
    ORDER_AND_MCP_NOTE = "plugged-in and MCP tool"

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools of this kind that need an approval."""
        return _TOOLS.get(self, ())

    @property
    def uses_mcp(self) -> bool:
        """Whether the tools of an MCP server are among them."""
        return MCP_TOOL in self.tools


_TOOLS: Mapping[RunKind, tuple[str, ...]] = {
    RunKind.PULL_REQUEST: ("github_create_pr",),
    RunKind.MAIL: ("send_email",),
    RunKind.BOTH: ("send_email", "github_create_pr"),
    RunKind.ORDER: (ORDER_TOOL,),
    RunKind.OUTSIDE_TEXT: (NOTICE_TOOL,),
    RunKind.MCP_NOTE: (MCP_TOOL,),
    RunKind.ORDER_AND_MCP_NOTE: (ORDER_TOOL, MCP_TOOL),
}
_WEIGHTS: Mapping[RunKind, int] = {
    RunKind.ANSWER: 36,
    RunKind.SAFE_TOOLS: 16,
    RunKind.PULL_REQUEST: 18,
    RunKind.MAIL: 22,
    RunKind.BOTH: 8,
    RunKind.ORDER: 14,
    RunKind.OUTSIDE_TEXT: 10,
    RunKind.MCP_NOTE: 20,
    RunKind.ORDER_AND_MCP_NOTE: 10,
}
"""How often each kind of run is chosen."""


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

    def mark(self, tool: str) -> str:
        """What an execution of this run's call of a tool can be recognised by."""
        return self.branch if tool == "github_create_pr" else self.subject


def runs(seed: int, count: int, *, with_mcp: bool = True) -> list[RunPlan]:
    """The runs in the order in which they start. A longer plan of the same seed begins with the shorter one.

    `with_mcp`: whether there is an MCP server, whose tools some kinds of runs call.
    """
    weights = {kind: weight for kind, weight in _WEIGHTS.items() if with_mcp or not kind.uses_mcp}
    numbers = range(1, count + 1)
    return [_run(random.Random(f"{seed} run {number}"), number, weights) for number in numbers]  # noqa: S311


def _run(rng: random.Random, number: int, weights: Mapping[RunKind, int]) -> RunPlan:
    kind = rng.choices(list(weights), weights=list(weights.values()))[0]
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
