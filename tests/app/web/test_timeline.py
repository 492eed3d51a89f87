"""`GET /aura/runs/{id}/timeline` and `aura timeline`: the timeline as a chart, as JSON and as a trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.client.responses import ClientError
from app.dev.ask.chart import format_chart, parse_timeline
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from statemachine.checkpoint import Usage
from statemachine.messages import AnswerFinished, ModelFailed, ModelSource
from statemachine.views.timeline import Timeline, timeline
from tests.harness.service import Aura, headers, running
from tests.harness.tools import NoteTool, calling, risky
from tests.statemachine import runs
from tests.statemachine.runs import NOW, Run


async def _send_note(service: Aura, model: ScriptedModelServer) -> str:
    """Approve and send a note; return the session id of the run."""
    model.play(calling(("write_note", {"to": "kim"}), ("send_note", {"to": "lee"})), ScriptedTurn(text="보냈습니다."))
    async with service.stream("메모") as stream:
        hitl = await stream.until("hitl")
        await service.decide("approve", hitl["requestId"])
        await stream.rest()
    return str(hitl["sessionId"])


async def test_timeline_has_spans_tokens_and_the_decision(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    async with running(settings(), tools=[NoteTool(), risky()]) as service:
        session_id = await _send_note(service, model)
        path = f"/aura/runs/{session_id}/timeline"
        data = (await service.client.get(path, headers=headers())).json()["data"]
        for code, caller in {"E2000": {}, "E2001": headers("user2")}.items():
            assert (await service.client.get(path, headers=caller)).json()["errorCode"] == code
        rejected = await service.client.get(path, params={"format": "xml"}, headers=headers())
        missing = await service.client.get("/aura/runs/nix/timeline", headers=headers())
    assert (rejected.status_code, "format: Input should be 'json' or 'trace'" in rejected.json()["message"]) == (
        400,
        True,
    )
    assert missing.status_code == 404
    view = Timeline.model_validate(data)
    assert (view.session_id, view.state, view.is_open) == (session_id, "done", False)
    kinds = [span.kind for span in view.spans]
    assert (kinds.count("state"), kinds.count("model"), kinds.count("tool"), kinds.count("wait")) == (7, 2, 2, 1)
    (wait,) = [span for span in view.spans if span.kind == "wait"]
    assert wait.decision is not None
    assert (wait.outcome, wait.decision.decided_by) == ("approved", "user1")
    used_tokens = [span.tokens.total_tokens for span in view.spans if span.kind == "model" and span.tokens]
    assert sum(used_tokens) == view.tokens.total_tokens > 0


async def test_command_prints_a_chart_json_and_a_trace(
    settings: Callable[..., Settings], model: ScriptedModelServer, tmp_path: Path
) -> None:
    async with running(settings(), tools=[NoteTool(), risky()]) as service:
        session_id = await _send_note(service, model)
        token = headers()["Authorization"].removeprefix("Bearer ")

        async def run_command(session: str, *options: str) -> Result:
            arguments = ["timeline", session, "--url", service.url, "--token", token, *options]
            return await asyncio.to_thread(CliRunner().invoke, main, arguments)

        chart_result, json_result = await run_command(session_id), await run_command(session_id, "--format", "json")
        file = tmp_path / "run.json"
        await run_command(session_id, "--format", "trace", "--output", str(file))
        missing = await run_command("nix")
    assert chart_result.output.startswith(f"{session_id} · done · ")
    assert "approval of send_note" in chart_result.output
    assert json.loads(json_result.output)["sessionId"] == session_id
    trace = json.loads(file.read_text())
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X"}
    assert (missing.exit_code, missing.stderr.count("\n"), "E1004" in missing.stderr) == (2, 1, True)


def example() -> Timeline:
    """Return a timeline with a failed model attempt, a long wait for a decision and a rejected second call."""
    run = Run(on_reject="replan")
    run.apply(ModelFailed("unavailable", "503"), at=1)
    run.now = NOW + 10
    used, source = Usage(total_tokens=7, cached_tokens=2), ModelSource("small-model\x1b[2J", "origin-1")
    run.request_tools(runs.risky("a"), runs.risky("b"), usage=used, source=source)
    run.approve(at=60, arguments={"to": "b"})
    run.finish_call("a")
    run.reject(reason="noch nicht\x1b[2J")
    run.apply(AnswerFinished("끝", "끝"), at=100)
    return timeline(run.checkpoint, NOW + 100)


def test_bars_are_proportional_and_notes_name_the_approver() -> None:
    lines = format_chart(example(), width=120, is_coloured=False).splitlines()
    assert lines[0].endswith("· done · 1 min 40 s, 50.0 s of it waiting for people · 7 tokens (2 cached)")
    assert len(lines) == 1 + len(example().spans)
    (wait,) = [line for line in lines if "approved" in line]
    (second,) = [line for line in lines if "rejected · by" in line]
    assert wait.endswith("approved · by boss · edited")
    assert second.endswith("rejected · by boss · “noch nicht[2J”"), "no control characters"
    (model,) = [line for line in lines if "attempt 2" in line]
    assert model.endswith("tools · 7 tokens (2 cached) · small-model[2J"), "the model that answered"
    assert abs(wait.count("━") / model.count("━") - 50 / 8.5) < 1
    assert any(line.startswith("model model turn 1 ") and "failed" in line for line in lines)


def test_run_in_progress_is_marked_and_colours_are_optional() -> None:
    in_progress = timeline(Run().checkpoint, NOW + 3)
    plain = format_chart(in_progress, width=80, is_coloured=False)
    assert "planning · 3.0 s so far\n" in plain
    assert "\x1b[" not in plain
    assert "\x1b[" in format_chart(in_progress, width=80, is_coloured=True)
    assert "╵" not in plain
    assert "╵" in format_chart(timeline(Run().checkpoint, NOW), width=20, is_coloured=False), (
        "a timeline without a duration"
    )


def test_response_without_a_timeline_raises() -> None:
    with pytest.raises(ClientError, match="not a timeline"):
        parse_timeline(b'{"data": {}}')
