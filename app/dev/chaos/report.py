"""The result of an experiment as a table or as JSON, and the function behind `aura chaos`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from app.dev.chaos.experiment import Experiment, ExperimentResult, Options
from app.dev.chaos.faults import RedisKind
from app.dev.chaos.takeover import MARGIN_SECONDS
from app.dev.chaos.verdict import Verdict, calls_not_made, judge, outcomes_asked
from app.server import process

GOOD, BAD, INTERRUPTED = 0, 1, 130
_MAX_FINDINGS = 40
_LINE_SECONDS = 30.0


def figures(result: ExperimentResult, verdict: Verdict) -> dict[str, Any]:
    """All reported figures by name; `--json` prints them."""
    evidence, takeovers = result.evidence, result.evidence.takeovers
    tools_run = {tool: sum(counts.values()) for tool, counts in evidence.executions.items()}
    asked = outcomes_asked(evidence.records)
    return {
        "seed": result.options.seed,
        "seconds": round(result.seconds, 1),
        "runs": evidence.planned,
        "interrupted": evidence.is_interrupted,
        "runs_ended": sum(record.is_done for record in evidence.records),
        "redis": result.options.redis.value,
        "replicas": result.options.replicas,
        "nodes": result.options.nodes,
        "lease_seconds": result.options.lease_seconds,
        "faults": dict(sorted(Counter(fault.kind.value for fault in result.injected).items())),
        "timeline": _timeline(result),
        "connections": sum(len(record.connections) for record in evidence.records),
        "events": sum(len(log) for log in evidence.logs.values()),
        "tools_run": sum(tools_run.values()),
        "tools_run_by_name": tools_run,
        "outcomes_asked": asked.total(),
        "outcomes_asked_by_name": dict(sorted(asked.items())),
        "has_mcp": evidence.has_mcp,
        "calls_not_made": calls_not_made(evidence),
        "takeovers": dict(sorted(takeovers.counts.items())),
        "slowest_takeover_seconds": {kind: round(s, 2) for kind, s in sorted(takeovers.slowest_seconds.items())},
        "takeover_bound_seconds": result.options.lease_seconds + MARGIN_SECONDS,
        **asdict(verdict.counts),
        "lost_by_asynchronous_replication": len(verdict.lost_by_replication),
        "is_good": verdict.is_good,
        "findings": verdict.findings,
        "losses": verdict.lost_by_replication,
    }


def _timeline(result: ExperimentResult) -> list[dict[str, Any]]:
    return [
        {
            "at_seconds": round(fault.since - result.started_at, 2),
            "kind": fault.kind.value,
            "node": fault.node,
            "lasted_seconds": round(fault.until - fault.since, 2),
            "outage_seconds": round(fault.outage[1] - fault.outage[0], 2) if fault.outage else 0.0,
            "replaced_master": fault.replaced_master,
            "replaced_successor": fault.replaced_successor,
            "calls_under_way": fault.calls_under_way,
        }
        for fault in sorted(result.injected, key=lambda fault: fault.since)
    ]


def _table(found: dict[str, Any], verdict: Verdict) -> Table:
    interrupted = ", interrupted" if found["interrupted"] else ""
    title = f"aura chaos · {found['redis']} · seed {found['seed']}{interrupted}"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    faults = ", ".join(f"{count} {kind}" for kind, count in found["faults"].items())
    ended = f"{found['runs_ended']} of {found['runs']} ended"
    table.add_row("runs", f"{ended} on {found['nodes']} nodes, {found['events']} events, {found['seconds']} s")
    if found["redis"] != RedisKind.SINGLE.value:
        table.add_row("replicas that acknowledge", str(found["replicas"]))
    table.add_row("faults", f"{sum(found['faults'].values())}: {faults}")
    table.add_row("connections", str(found["connections"]))
    table.add_row("tools run", _counted(found["tools_run"], found["tools_run_by_name"]))
    table.add_row("outcome unknown, asked", _counted(found["outcomes_asked"], found["outcomes_asked_by_name"]))
    if found["has_mcp"]:
        table.add_row("not made, MCP server away", str(found["calls_not_made"]))
    slowest = ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in found["slowest_takeover_seconds"].items())
    table.add_row("takeovers", ", ".join(f"{count} {kind}" for kind, count in found["takeovers"].items()) or "none")
    table.add_row(
        "slowest takeover", f"{slowest or 'none'} (kill, pause, cut: at most {found['takeover_bound_seconds']:g} s)"
    )
    if found["redis"] != RedisKind.SINGLE.value:
        lost = f"{found['lost_by_asynchronous_replication']} (not a failure: see app/redis/README.md)"
        table.add_row("lost by asynchronous replication", lost)
    table.add_section()
    for name, count in asdict(verdict.counts).items():
        table.add_row(name.replace("_", " "), f"[{'red' if count else 'green'}]{count}[/]")
    return table


def _counted(total: int, by_name: Mapping[str, int]) -> str:
    named = ", ".join(f"{count} {name}" for name, count in by_name.items() if count)
    return f"{total}: {named}" if named else str(total)


class ProgressLines:
    """Prints the newest text of the progress every `_LINE_SECONDS`, for a log file or a CI job."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now = now
        self._started_at = self._printed_at = now()

    def update(self, text: str) -> None:
        if self._now() - self._printed_at >= _LINE_SECONDS:
            self._printed_at = self._now()
            seconds = self._printed_at - self._started_at
            self._console.print(f"aura chaos: {seconds:.0f} s: {text}", soft_wrap=True, markup=False, highlight=False)


@contextlib.contextmanager
def _progress(console: Console, seed: int) -> Iterator[Callable[[str], None]]:
    """Yield what shows the progress: a line that changes in a terminal, else new lines."""
    if console.is_terminal:
        with console.status(f"seed {seed}: starting") as status:
            yield status.update
    else:
        console.print(f"aura chaos: seed {seed}: starting", markup=False, highlight=False)
        yield ProgressLines(console).update


def run(options: Options, *, as_json: bool) -> int:
    """Run an experiment, print its result and return the exit code: `GOOD` only if every count is zero.

    SIGINT (Ctrl-C) and SIGTERM end the experiment: what it has shown so far is printed, and the code is `INTERRUPTED`.
    """
    console = Console(stderr=True)
    results: list[ExperimentResult] = []
    # The experiment's own client of Redis logs as the service does; its output is the verdict alone.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    async def main() -> None:
        with _progress(console, options.seed) as progress:
            experiment = Experiment(options, progress)
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, experiment.interrupt)
            results.append(await experiment.run())

    try:
        process.run(main)
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("aura chaos: interrupted twice; all processes are stopped", style="yellow")
        return INTERRUPTED
    (result,) = results
    verdict = judge(result.evidence)
    _print(console, result, verdict, as_json=as_json)
    if not result.evidence.has_mcp:
        extra = 'pip install "aura-platform[mcp]"'
        words = f"aura chaos: no run called an MCP server: its SDK is not installed ({extra})"
        console.print(words, soft_wrap=True, markup=False, highlight=False)
    if verdict.is_good:
        with contextlib.suppress(OSError):
            shutil.rmtree(result.folder)
    else:
        console.print(f"the nodes' logs: {result.folder}", style="yellow", markup=False)
    if result.evidence.is_interrupted:
        console.print("aura chaos: interrupted: this is the verdict so far; all processes are stopped", style="yellow")
        return INTERRUPTED
    return GOOD if verdict.is_good else BAD


def _print(console: Console, result: ExperimentResult, verdict: Verdict, *, as_json: bool) -> None:
    found = figures(result, verdict)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    Console().print(_table(found, verdict))
    for words in verdict.findings[:_MAX_FINDINGS]:
        console.print(f"  {words}", style="red", markup=False, highlight=False)
    for words in verdict.lost_by_replication[:_MAX_FINDINGS]:
        console.print(f"  lost by asynchronous replication: {words}", markup=False, highlight=False)
