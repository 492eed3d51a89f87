"""A run of `aura chaos` as its verdict sees it: its frames, its log, its decisions, and what its tools did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.dev.chaos import plan
from app.dev.chaos.clients import DONE_BODY, ClientDecision, Frame, RunRecord, Verdict
from app.dev.chaos.plan import RunKind, RunPlan
from app.dev.chaos.takeover import Takeovers
from app.dev.chaos.verdict import Evidence, judge

SESSION = "session_chaos1_1795000000_abcd"


def frame(id: int, type: str, **fields: Any) -> Frame:
    return id, f"event: {type}\ndata: {json.dumps({'type': type, **fields})}\n\n".encode()


def ended(id: int, status: str = "completed") -> list[Frame]:
    return [frame(id, "end", status=status), (id + 1, DONE_BODY)]


LOG = [frame(1, "start"), frame(2, "content", content="하나 "), frame(3, "content", content="둘"), *ended(4)]


def run_plan(kind: RunKind = RunKind.ANSWER) -> RunPlan:
    return replace(plan.runs(1, 1)[0], kind=kind, text="하나 둘")


def count_findings(
    seen: Sequence[Frame] = LOG,
    log: Sequence[Frame] = LOG,
    *,
    kind: RunKind = RunKind.ANSWER,
    decisions: Sequence[tuple[str, Verdict]] = (),
    cancelled: bool = False,
    executions: Mapping[str, int] | None = None,
    is_gone: bool = False,
    **evidence: Any,
) -> dict[str, int]:
    """Judge one run, which lasted from second 10 to 20; returns the counts that are not zero.

    `executions` are how often the run's tools were executed, by their names.
    """
    run = run_plan(kind)
    client_decisions = [ClientDecision(f"req-{i}", tool, verdict, i > 0) for i, (tool, verdict) in enumerate(decisions)]
    record = RunRecord(
        run, SESSION, list(seen), client_decisions, cancelled, started_at=10, ended_at=20, is_gone=is_gone
    )
    given: dict[str, Any] = {
        "records": [record],
        "logs": {SESSION: log},
        "executions": {tool: {run.mark(tool): count} for tool, count in (executions or {}).items()},
        "stored_runs": frozenset({SESSION}),
        "planned": 1,
        "node_problems": (),
        "takeovers": Takeovers(),
    }
    verdict = judge(Evidence(**{**given, **evidence}))
    counts = {name: getattr(verdict.counts, name) for name in type(verdict.counts).__slots__}
    assert verdict.is_good == (not any(counts.values())) == (not verdict.findings)
    found = {name: count for name, count in counts.items() if count}
    return found | ({"lost": len(verdict.lost_by_replication)} if verdict.lost_by_replication else {})
