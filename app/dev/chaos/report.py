"""The result of an experiment as a table or as JSON, and the function behind `aura chaos`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from app.dev.chaos.experiment import Experiment, ExperimentResult, Options
from app.dev.chaos.takeover import MARGIN_SECONDS
from app.dev.chaos.verdict import Verdict, judge, outcomes_asked
from app.server import process

GOOD, BAD, INTERRUPTED = 0, 1, 130
_MAX_FINDINGS = 40


def figures(result: ExperimentResult, verdict: Verdict) -> dict[str, Any]:
    """All reported figures by name; `--json` prints them."""
    evidence, takeovers = result.evidence, result.evidence.takeovers
    return {
        "seed": result.options.seed,
        "seconds": round(result.seconds, 1),
        "runs": evidence.planned,
        "nodes": result.options.nodes,
        "lease_seconds": result.options.lease_seconds,
        "faults": dict(sorted(Counter(fault.kind.value for fault in result.injected).items())),
        "timeline": [
            {
                "at_seconds": round(fault.since - result.started_at, 2),
                "kind": fault.kind.value,
                "node": fault.node,
                "lasted_seconds": round(fault.until - fault.since, 2),
            }
            for fault in sorted(result.injected, key=lambda fault: fault.since)
        ],
        "connections": sum(record.connections for record in evidence.records),
        "events": sum(len(log) for log in evidence.logs.values()),
        "tools_run": sum(evidence.mails.values()) + sum(evidence.pulls.values()),
        "outcomes_asked": outcomes_asked(evidence.records),
        "takeovers": dict(sorted(takeovers.counts.items())),
        "slowest_takeover_seconds": {kind: round(s, 2) for kind, s in sorted(takeovers.slowest_seconds.items())},
        "takeover_bound_seconds": result.options.lease_seconds + MARGIN_SECONDS,
        **asdict(verdict.counts),
        "is_good": verdict.is_good,
        "findings": verdict.findings,
    }


def _table(found: dict[str, Any], verdict: Verdict) -> Table:
    table = Table(title=f"aura chaos · seed {found['seed']}", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    faults = ", ".join(f"{count} {kind}" for kind, count in found["faults"].items())
    table.add_row("runs", f"{found['runs']} on {found['nodes']} nodes, {found['events']} events, {found['seconds']} s")
    table.add_row("faults", f"{sum(found['faults'].values())}: {faults}")
    table.add_row("connections", str(found["connections"]))
    table.add_row("tools run", f"{found['tools_run']}; outcome unknown, approver asked: {found['outcomes_asked']}")
    slowest = ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in found["slowest_takeover_seconds"].items())
    table.add_row("takeovers", ", ".join(f"{count} {kind}" for kind, count in found["takeovers"].items()) or "none")
    table.add_row(
        "slowest takeover", f"{slowest or 'none'} (kill, pause, cut: at most {found['takeover_bound_seconds']:g} s)"
    )
    table.add_section()
    for name, count in asdict(verdict.counts).items():
        table.add_row(name.replace("_", " "), f"[{'red' if count else 'green'}]{count}[/]")
    return table


def run(options: Options, *, as_json: bool) -> int:
    """Run an experiment, print its result and return the exit code: `GOOD` only if every count is zero."""
    console = Console(stderr=True)
    results: list[ExperimentResult] = []

    async def main() -> None:
        if task := asyncio.current_task():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with console.status(f"seed {options.seed}: starting") as status:
            results.append(await Experiment(options, status.update).run())

    try:
        process.run(main)
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("aura chaos: interrupted; all processes are stopped", style="yellow")
        return INTERRUPTED
    (result,) = results
    verdict = judge(result.evidence)
    found = figures(result, verdict)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        Console().print(_table(found, verdict))
        for words in verdict.findings[:_MAX_FINDINGS]:
            console.print(f"  {words}", style="red", markup=False, highlight=False)
    if verdict.is_good:
        with contextlib.suppress(OSError):
            shutil.rmtree(result.folder)
        return GOOD
    console.print(f"the nodes' logs: {result.folder}", style="yellow", markup=False)
    return BAD
