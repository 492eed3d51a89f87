"""`aura tools` and `aura tools call`: what the model is offered, and one tool run by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from tests.harness.mcp import RAW
from tests.harness.service import SECRET

Run = Callable[..., Result]

MODULE = '''
from typing import Annotated
from pydantic import Field, SecretStr
from app.tools import ToolContext, ToolError, tool

@tool(needs_approval=True, question="재고를 {count}개 주문하시겠습니까?", outward=True)
async def order_stock(
    item: str, count: Annotated[int, Field(gt=0)], context: ToolContext, key: SecretStr = SecretStr("k")
) -> dict[str, object]:
    """Order items for the stock."""
    return {"item": item, "count": count, "user": context.user_id, "email": context.email}

@tool(outward=True, untrusted=True, idempotent=True)
async def fail() -> None:
    raise ToolError("the supplier is closed")
'''


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs a command in a folder with the module `stock_tools_of_test`, and a file `.env`."""
    (tmp_path / "stock_tools_of_test.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / ".env").write_text(f"JWT_SECRET={SECRET}\nAURA_TOOLS=stock_tools_of_test\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def invoke(*arguments: str, answer: str = "") -> Result:
        return CliRunner().invoke(main, ["tools", *arguments], input=answer, env={"COLUMNS": "200"})

    return invoke


def test_the_list_shows_source_arguments_and_approval(run: Run) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    order = result.output.partition("order_stock")[2].partition("\n\n")[0]
    assert "from       stock_tools_of_test:order_stock" in order
    assert "argument   count: integer, exclusiveMinimum 0" in order
    assert "approval   needed: the tool declares it" in order
    assert "a person decides whether it is repeated" in order
    fail = result.output.partition("\nfail")[2]
    assert "not needed, until the run has read text from outside" in fail
    assert "its result is text from outside" in fail
    assert "4 tools; update_plan" in result.output


def test_the_list_for_programs_has_the_whole_schema(run: Run) -> None:
    tools = {tool["name"]: tool for tool in json.loads(run("--json").stdout)}
    order = tools["order_stock"]
    assert order["parameters"]["required"] == ["item", "count"]
    assert (order["needsApproval"], order["approvalReason"]) == (True, "the tool declares it")
    assert (order["outward"], order["untrusted"], order["idempotent"]) == (True, False, False)
    assert tools["get_current_time"]["source"] == "built in"


def test_a_tool_is_run_by_hand_after_an_approval(run: Run) -> None:
    arguments = '{"item": "볼트", "count": 2}'
    result = run("call", "order_stock", arguments, "--user", "kim", "--email", "kim@dwp.test", answer="y\n")
    assert result.exit_code == 0, result.output
    # The oldest click shows there what was typed, too.
    assert json.loads(result.stdout[result.stdout.index("{") :]) == {
        "item": "볼트",
        "count": 2,
        "user": "kim",
        "email": "kim@dwp.test",
    }
    assert "재고를 2개 주문하시겠습니까?" in result.stderr
    assert '"key": "***"' in result.stderr
    assert run("call", "order_stock", arguments, "--approve").exit_code == 0


def test_what_is_not_approved_or_not_valid_is_not_run(run: Run) -> None:
    refused = run("call", "order_stock", '{"item": "x", "count": 2}', answer="n\n")
    assert refused.exit_code == 2
    assert "{" not in refused.stdout
    assert "the call was not approved" in refused.stderr
    invalid = run("call", "order_stock", '{"item": "x", "count": 0}')
    assert invalid.exit_code == 2
    assert "count: Input should be greater than 0" in invalid.stderr
    unknown = run("call", "order_stick")
    assert unknown.exit_code == 2
    assert "Available tools: get_current_time" in unknown.stderr


def test_the_failure_of_a_tool_is_shown(run: Run) -> None:
    result = run("call", "fail")
    assert result.exit_code == 1
    assert "the supplier is closed" in result.stderr


def test_a_wrong_setting_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.env").write_text(f"JWT_SECRET={SECRET}\nAURA_TOOLS=nowhere_at_all:tool\n", encoding="utf-8")
    result = run("--env-file", "other.env")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "AURA_TOOLS: nowhere_at_all:tool: there is no module 'nowhere_at_all'" in result.stderr


def test_the_list_has_the_tools_of_mcp_servers_and_names_those_that_are_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = {"command": sys.executable, "args": [str(RAW), "2026"], "allow": ["echo"]}
    monkeypatch.setenv("AURA_MCP_SERVERS", json.dumps({"raw": program, "gone": {"command": "no-such-program"}}))
    result = run()
    echo = result.stdout.partition("raw__echo")[2].partition("\n\n")[0]
    assert "from       mcp:raw" in echo
    assert "approval   needed: the MCP server 'raw' is not trusted" in echo
    assert "aura: the MCP server gone is not connected, so its tools are missing: the command" in result.stderr
    called = run("call", "gone__anything")
    assert "The tool 'gone__anything' does not exist" in called.stderr
    assert "aura: the MCP server gone is not connected, so its tools are missing: the command" in called.stderr


def test_the_tools_are_listed_without_a_secret(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.env").write_text("AURA_TOOLS=stock_tools_of_test\n", encoding="utf-8")
    assert run("--env-file", "other.env").exit_code == 0
