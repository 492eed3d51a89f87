"""`GET /aura/runs/{id}/timeline` and `aura timeline`: where a run's time went, as a chart, JSON and a trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.client.answers import ClientError
from app.dev.ask.chart import chart, timeline_of
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from statemachine.checkpoint import Usage
from statemachine.messages import AnswerFinished, ModelFailed
from statemachine.views.timeline import Timeline, timeline
from tests.harness.service import Aura, headers, running
from tests.harness.tools import NoteTool, calling, risky
from tests.statemachine import runs
from tests.statemachine.runs import NOW, Run


async def _noted(service: Aura, model: ScriptedModelServer) -> str:
    """A note that was approved and sent; the session."""
    model.play(calling(("write_note", {"to": "kim"}), ("send_note", {"to": "lee"})), ScriptedTurn(text="보냈습니다."))
    async with service.stream("메모") as stream:
        hitl = await stream.until("hitl")
        await service.decide("approve", hitl["requestId"])
        await stream.rest()
    return str(hitl["sessionId"])


async def test_the_timeline_tells_spans_tokens_and_the_decision(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    async with running(settings(), tools=[NoteTool(), risky()]) as service:
        session_id = await _noted(service, model)
        path = f"/aura/runs/{session_id}/timeline"
        told = (await service.client.get(path, headers=headers())).json()["data"]
        for code, who in {"E2000": {}, "E2001": headers("user2")}.items():
            assert (await service.client.get(path, headers=who)).json()["errorCode"] == code
        refused = await service.client.get(path, params={"format": "xml"}, headers=headers())
        gone = await service.client.get("/aura/runs/nix/timeline", headers=headers())
    assert (refused.status_code, "format: Input should be 'json' or 'trace'" in refused.json()["message"]) == (
        400,
        True,
    )
    assert gone.status_code == 404
    shown = Timeline.model_validate(told)
    assert (shown.session_id, shown.state, shown.is_open) == (session_id, "done", False)
    kinds = [span.kind for span in shown.spans]
    assert (kinds.count("state"), kinds.count("model"), kinds.count("tool"), kinds.count("wait")) == (7, 2, 2, 1)
    (wait,) = [span for span in shown.spans if span.kind == "wait"]
    assert wait.decision is not None
    assert (wait.outcome, wait.decision.decided_by) == ("approved", "user1")
    spent = [span.tokens.total_tokens for span in shown.spans if span.kind == "model" and span.tokens]
    assert sum(spent) == shown.tokens.total_tokens > 0


async def test_the_command_shows_a_chart_json_and_a_trace(
    settings: Callable[..., Settings], model: ScriptedModelServer, tmp_path: Path
) -> None:
    async with running(settings(), tools=[NoteTool(), risky()]) as service:
        session_id = await _noted(service, model)
        token = headers()["Authorization"].removeprefix("Bearer ")

        async def ask(session: str, *more: str) -> Result:
            arguments = ["timeline", session, "--url", service.url, "--token", token, *more]
            return await asyncio.to_thread(CliRunner().invoke, main, arguments)

        drawn, told = await ask(session_id), await ask(session_id, "--format", "json")
        file = tmp_path / "run.json"
        await ask(session_id, "--format", "trace", "--output", str(file))
        missing = await ask("nix")
    assert drawn.output.startswith(f"{session_id} · done · ")
    assert "approval of send_note" in drawn.output
    assert json.loads(told.output)["sessionId"] == session_id
    trace = json.loads(file.read_text())
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X"}
    assert (missing.exit_code, missing.stderr.count("\n"), "E1004" in missing.stderr) == (2, 1, True)


def sent() -> Timeline:
    """A model that failed once, a wait of half the time, a no to a second mail."""
    run = Run(on_reject="replan")
    run.apply(ModelFailed("unavailable", "503"), at=1)
    run.now = NOW + 10
    run.request_tools(runs.risky("a"), runs.risky("b"), usage=Usage(total_tokens=7))
    run.approve(at=60, arguments={"to": "b"})
    run.finish_call("a")
    run.reject(reason="noch nicht\x1b[2J")
    run.apply(AnswerFinished("끝", "끝"), at=100)
    return timeline(run.checkpoint, NOW + 100)


def test_bars_are_in_proportion_and_notes_say_who_decided() -> None:
    lines = chart(sent(), width=120, is_coloured=False).splitlines()
    assert lines[0].endswith("· done · 1 min 40 s, 50.0 s of it waiting for people · 7 tokens")
    assert len(lines) == 1 + len(sent().spans)
    (wait,) = [line for line in lines if "approved" in line]
    (second,) = [line for line in lines if "rejected · by" in line]
    assert wait.endswith("approved · by boss · edited")
    assert second.endswith("rejected · by boss · “noch nicht[2J”"), "nothing that a terminal obeys"
    (model,) = [line for line in lines if "attempt 2" in line]
    assert abs(wait.count("━") / model.count("━") - 50 / 8.5) < 1
    assert any(line.startswith("model model turn 1 ") and "failed" in line for line in lines)


def test_a_run_that_goes_on_says_so_and_colours_are_for_terminals() -> None:
    going = timeline(Run().checkpoint, NOW + 3)
    plain = chart(going, width=80, is_coloured=False)
    assert "planning · 3.0 s so far\n" in plain
    assert "\x1b[" not in plain
    assert "\x1b[" in chart(going, width=80, is_coloured=True)
    assert "╵" not in plain
    assert "╵" in chart(timeline(Run().checkpoint, NOW), width=20, is_coloured=False), "nothing has taken time yet"


def test_an_answer_that_is_no_timeline_is_said_so() -> None:
    with pytest.raises(ClientError, match="not a timeline"):
        timeline_of(b'{"data": {}}')
