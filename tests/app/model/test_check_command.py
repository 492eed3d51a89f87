"""`aura model check`: what each configured model server can do, without Redis."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from tests.harness.service import SECRET

KEY = "test-key-0123456789"
USAGE = {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39}
NUMBERS = ScriptedTurn(text="1, 2, 3, 4, 5, 6", usage=USAGE)
CALL = ScriptedTurn(tool_calls=[ScriptedCall(name="get_current_time", arguments={"timezone": "Asia/Seoul"})])


async def run_check(model: ScriptedModelServer | str, *options: str, **environment: str) -> Result:
    """Run the command in a thread, because it has an event loop of its own."""
    given: dict[str, str | None] = {
        "JWT_SECRET": SECRET,
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": model if isinstance(model, str) else model.base_url,
        "OPENAI_MODEL": "main-model",
        "REDIS_URL": "redis://127.0.0.1:1",
        **environment,
    }
    return await asyncio.to_thread(CliRunner().invoke, main, ["model", "check", *options], env=given)


async def report(model: ScriptedModelServer | str, **environment: str) -> tuple[dict[str, Any], int]:
    """Return the report of the only server, and the exit code."""
    result = await run_check(model, "--json", **environment)
    (line,) = result.output.splitlines()
    return json.loads(line), result.exit_code


async def test_a_server_that_can_do_everything_is_usable(model: ScriptedModelServer) -> None:
    model.play(NUMBERS.model_copy(update={"reasoning": "Counting."}), CALL)
    result = await run_check(model)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert result.output.startswith(f"main-model at {model.base_url} (main)\n")
    assert [" ".join(line[:3]) for line in lines[1:]] == [
        "✔ answer first",
        "✔ streaming 4",
        "✔ usage 30",
        "· reasoning shown",
        "✔ tool call",
        "· features refused:",
        "→ usable for",
    ]
    assert "finish_reason stop" in result.output
    assert 'get_current_time {"timezone": "Asia/Seoul"}, finish_reason tool_calls' in result.output
    answered, called = model.requests
    assert "tools" not in answered
    assert [tool["function"]["name"] for tool in called["tools"]] == ["get_current_time"]


async def test_json_has_all_findings(model: ScriptedModelServer) -> None:
    model.play(NUMBERS, CALL)
    found, code = await report(model)
    assert (code, found["isUsable"], found["streams"], found["refusedFeatures"]) == (0, True, True, [])
    answer, call = found["answer"], found["toolCall"]
    assert answer["usage"] == {"promptTokens": 30, "completionTokens": 9, "cachedTokens": 0}
    assert (answer["problem"], answer["failure"], answer["finishReason"]) == (None, None, "stop")
    assert 0 <= answer["firstWordSeconds"] <= answer["seconds"]
    assert (answer["pieces"], answer["showsReasoning"]) == (4, False)
    assert (call["problem"], call["callName"]) == (None, "get_current_time")
    assert json.loads(call["callArguments"]) == {"timezone": "Asia/Seoul"}


async def test_the_requests_have_the_options_of_the_settings(model: ScriptedModelServer) -> None:
    model.play(NUMBERS, CALL)
    await report(model, AURA_MODEL_OPTIONS='{"temperature": 0.5}')
    assert [request["temperature"] for request in model.requests] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        pytest.param(ScriptedTurn(text="It is noon."), "called no tool", id="text"),
        pytest.param(ScriptedTurn(tool_calls=[ScriptedCall(name="clock")]), "clock, which was not offered", id="name"),
        pytest.param(
            ScriptedTurn(tool_calls=[ScriptedCall(name="get_current_time", arguments="{Seoul")]),
            "not JSON",
            id="not JSON",
        ),
        pytest.param(
            ScriptedTurn(tool_calls=[ScriptedCall(name="get_current_time")]), "lack the required timezone", id="empty"
        ),
        pytest.param(CALL.model_copy(update={"finish_reason": "length"}), "token limit", id="cut"),
        pytest.param(ScriptedTurn(status=500, error_message="template error"), "template error", id="error"),
    ],
)
async def test_a_server_whose_tool_calls_fail_is_not_usable(
    model: ScriptedModelServer, turn: ScriptedTurn, problem: str
) -> None:
    model.play(NUMBERS, turn)
    result = await run_check(model)
    assert result.exit_code == 1
    (row,) = [line for line in result.output.splitlines() if line.startswith("  ✗")]
    assert row.startswith("  ✗ tool call")
    assert problem in row
    assert "→ not usable" in result.output


async def test_a_server_that_refuses_tools_is_named_so(model: ScriptedModelServer) -> None:
    refusal = ScriptedTurn(status=400, error_message="gemma3:4b does not support tools")
    model.play(NUMBERS, refusal, ScriptedTurn(text="It is noon."))
    found, code = await report(model)
    assert (code, found["isUsable"]) == (1, False)
    assert found["answer"]["problem"] is None
    assert found["toolCall"]["problem"] == "the server refuses tools"
    assert found["refusedFeatures"] == ["tools"]


async def test_a_server_that_refuses_other_features_is_usable(model: ScriptedModelServer) -> None:
    refusal = ScriptedTurn(status=422, error_message="stream_options: Extra inputs are not permitted")
    model.play(refusal, NUMBERS, CALL)
    result = await run_check(model)
    assert result.exit_code == 0, result.output
    assert "✗ usage      not reported" in result.output
    assert "refused: stream_options" in result.output


async def test_a_wrong_key_is_shown_without_the_key(model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(status=401, error_message=f"Incorrect API key provided: {KEY}.\x1b[31m"))
    result = await run_check(model)
    assert result.exit_code == 1
    assert "✗ answer     refused: the model's server responded with HTTP 401: Incorrect API key" in result.output
    assert KEY not in result.output
    assert "\x1b" not in result.output
    assert "tool call" not in result.output  # it was not requested


async def test_an_unreachable_server_is_shown_with_the_cause(unused_tcp_port: int) -> None:
    result = await run_check(f"http://127.0.0.1:{unused_tcp_port}/v1")
    assert result.exit_code == 1
    assert "✗ answer     unavailable: the model's server cannot be reached: it refuses the connection" in result.output
    assert f"ConnectError at http://127.0.0.1:{unused_tcp_port}/v1" in result.output


async def test_without_a_key_no_request_is_sent(model: ScriptedModelServer) -> None:
    result = await run_check(model, OPENAI_API_KEY="")
    assert result.exit_code == 1
    assert "not_configured: OPENAI_API_KEY is not set" in result.output
    assert model.requests == []


async def test_an_answer_that_comes_at_once_is_shown(model: ScriptedModelServer) -> None:
    model.play(ScriptedTurn(text=["1, 2, 3"]), CALL)
    result = await run_check(model)
    assert result.exit_code == 0
    assert "✗ streaming  the answer came at once" in result.output


async def test_the_exit_code_is_that_of_the_main_server(model: ScriptedModelServer, unused_tcp_port: int) -> None:
    model.play(NUMBERS, CALL)
    down = {"model": "backup-model", "base_url": f"http://127.0.0.1:{unused_tcp_port}/v1", "api_key": "BACKUP_KEY"}
    result = await run_check(model, AURA_MODEL_FALLBACKS=json.dumps([down]), BACKUP_KEY="backup-key-0123456789")
    assert result.exit_code == 0
    assert f"\n\nbackup-model at http://127.0.0.1:{unused_tcp_port}/v1 (fallback)\n" in result.output
    assert result.output.rstrip().endswith("→ not usable for runs")


async def test_a_bad_setting_stops_the_command(model: ScriptedModelServer) -> None:
    result = await run_check(model, AURA_MODEL_OPTIONS="[]")
    assert result.exit_code == 2
    assert result.output.startswith("aura: AURA_MODEL_OPTIONS: a JSON object is required")
