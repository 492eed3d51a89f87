"""What `aura chaos` prints about the tools of an experiment. No process is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.dev.chaos import report
from app.dev.chaos.clients import ClientDecision, RunRecord
from app.dev.chaos.experiment import ExperimentResult, Options
from app.dev.chaos.faults import FaultKind
from app.dev.chaos.injected import InjectedFault
from app.dev.chaos.plan import MCP_TOOL, ORDER_TOOL, RunKind
from app.dev.chaos.verdict import Evidence
from tests.harness.judged import LOG, SESSION, frame, run_plan

RUN = run_plan(RunKind.ORDER_AND_MCP_NOTE)


def experiment_of(monkeypatch: pytest.MonkeyPatch, folder: Path, *, has_mcp: bool) -> Options:
    """Let `report.run` find that a note was written twice, the second time after a person was asked."""
    options = Options(1, 1.0, 3, 1, 10.0)
    started = {"toolName": MCP_TOOL, "toolCallId": "call-1", "status": "executing"}
    failed = {**started, "status": "failed", "error": "nothing was sent"}
    log = [*LOG[:3], frame(4, "tool_execution", **started), frame(5, "tool_execution", **failed)]
    decisions = [ClientDecision(f"req-{n}", MCP_TOOL, "approved", outcome_unknown=n == 2) for n in (1, 2, 3)]
    evidence = Evidence(
        records=[
            RunRecord(RUN, SESSION, decisions=[*decisions, ClientDecision("req-4", ORDER_TOOL, "approved", False)])
        ],
        planned=1,
        logs={SESSION: log},
        executions={ORDER_TOOL: {RUN.mark(ORDER_TOOL): 1}, MCP_TOOL: {RUN.mark(MCP_TOOL): 2}},
        has_mcp=has_mcp,
        is_interrupted=True,
    )
    injected = [InjectedFault(FaultKind.MCP_KILL, -1, 12, 13, calls_under_way=1)]

    class Found:
        def __init__(self, *_: Any) -> None: ...

        interrupt = None

        async def run(self) -> ExperimentResult:
            return ExperimentResult(options, evidence, injected, 10.0, 5.0, folder)

    monkeypatch.setattr(report, "Experiment", Found)
    monkeypatch.setattr("structlog.configure", lambda **_: None)
    return options


def test_plugged_in_tools_are_counted_with_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.run(experiment_of(monkeypatch, tmp_path, has_mcp=True), as_json=True)
    output, errors = capsys.readouterr()
    found = json.loads(output)
    assert (found["tools_run"], found["tools_run_by_name"]) == (3, {ORDER_TOOL: 1, MCP_TOOL: 2})
    assert (found["outcomes_asked"], found["outcomes_asked_by_name"]) == (1, {MCP_TOOL: 1})
    assert found["calls_not_made"] == 1
    assert [fault["calls_under_way"] for fault in found["timeline"]] == [1]
    assert "SDK" not in errors


def test_report_says_where_no_run_could_call_an_mcp_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.run(experiment_of(monkeypatch, tmp_path, has_mcp=False), as_json=False)
    lines = capsys.readouterr().err.splitlines()
    words = "no run called an MCP server: its SDK is not installed"
    assert f'aura chaos: {words} (pip install "aura-platform[mcp]")' in lines
