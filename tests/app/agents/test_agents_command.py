"""`aura agents check`: what a file of agents defines, what is wrong with it, and which agent a request gets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from tests.harness.mcp import RAW
from tests.harness.service import SECRET

FILE = """
default = "general"

[agents.general]
prompt = "You help."

[agents.mail]
description = "Reads and writes mail"
prompt = "당신은 메일 도우미입니다."
model = "gpt-4o"
options = { temperature = 0 }
tools = ["get_current_time", "search_workspace", "send_email", "crm__*"]
language = "ko"
apps = ["mail"]
tenants = ["acme", "globex"]
limits = { turns = 3 }

[tenants.globex]
default = "mail"
"""


def check(folder: Path, text: str | None, *options: str, **environment: str) -> Result:
    """Run the command with only these variables and, where there is a text, the setting AURA_AGENTS."""
    given: dict[str, str | None] = {"JWT_SECRET": SECRET, "AURA_AGENTS": None, **environment}
    if text is not None:
        path = folder / "agents.toml"
        path.write_text(text, encoding="utf-8")
        given["AURA_AGENTS"] = str(path)
    return CliRunner().invoke(main, ["agents", "check", *options], env=given)


def report(folder: Path, text: str, *options: str) -> dict[str, Any]:
    result = check(folder, text, "--json", *options)
    found: dict[str, Any] = json.loads(result.output)
    assert result.exit_code == (1 if found["problems"] else 0)
    return found


def test_each_agent_is_shown_with_what_its_runs_get(tmp_path: Path) -> None:
    result = check(tmp_path, FILE, AURA_MODEL_OPTIONS='{"top_p": 0.9}', AURA_RUN_TOKENS="900")
    assert result.exit_code == 0, result.output
    general, mail = result.output.split("mail ", 1)
    assert general.startswith("general ")
    assert "  tools     all\n" in general
    assert "  tenants   all\n" in general
    lines = {line[:11].strip(): line[11:].strip() for line in mail.splitlines() if line.startswith("  ")}
    limits = lines.pop("limits")
    assert limits.startswith("turns 3, model_attempts 3,")
    assert "tokens 900" in limits
    size = len("당신은 메일 도우미입니다.".encode())
    assert lines == {
        "": "Reads and writes mail",
        "prompt": lines["prompt"],
        "model": "gpt-4o",
        "options": '{"top_p": 0.9, "temperature": 0}',
        "tools": "get_current_time, search_workspace, send_email, crm__*",
        "language": "ko",
        "apps": "mail",
        "tenants": "acme, globex",
    }
    assert size < int(lines["prompt"].split()[0]) < size + 100  # with the line about the language
    assert "default: general\ndefault of globex: mail\n" in result.output
    assert [line for line in result.output.splitlines() if line.startswith("!")] == [
        "! agents.mail.tools: 'send_email' is not offered here: its service is not configured",
        "! agents.mail.tools: 'crm__*' is a tool of the MCP server 'crm', which is not in AURA_MCP_SERVERS",
    ]


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (["--tenant", "acme", "--app", "mail"], "mail"),
        (["--tenant", "acme"], "general"),
        (["--tenant", "globex"], "mail"),
        (["--tenant", "initech", "--app", "mail"], "general"),
    ],
)
def test_the_agent_of_a_request_is_shown(tmp_path: Path, options: list[str], chosen: str) -> None:
    assert report(tmp_path, FILE, *options)["chosen"] == chosen
    result = check(tmp_path, FILE, *options)
    assert result.output.rstrip().endswith(f"gets {chosen}")


def test_a_request_without_an_agent_is_shown(tmp_path: Path) -> None:
    text = "[agents.a]\napps = ['mail']"
    assert report(tmp_path, text, "--tenant", "acme")["chosen"] is None
    assert (
        "→ a request of acme with 'x' open gets no agent"
        in check(tmp_path, text, "--tenant", "acme", "--app", "x").output
    )
    assert "chosen" not in report(tmp_path, text)


def test_programs_get_the_whole_version_and_the_limits(tmp_path: Path) -> None:
    found = report(tmp_path, FILE)
    mail = found["agents"][1]
    assert len(mail["version"]) == 64
    assert mail["limits"]["turns"] == 3
    assert (found["default"], found["tenantDefaults"]) == ("general", {"globex": "mail"})
    assert len(found["warnings"]) == 2


def test_every_problem_is_shown_and_the_exit_code_is_1(tmp_path: Path) -> None:
    text = "[agents.a]\nmodle = 'x'\n[agents.b]\ntools = 5"
    result = check(tmp_path, text)
    path = tmp_path / "agents.toml"
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"✗ {path}: agents.a.modle: there is no such key; did you mean model?",
        f"✗ {path}: agents.b.tools: Input should be a valid list",
    ]
    assert len(report(tmp_path, text)["problems"]) == 2
    (unknown,) = report(tmp_path, "[agents.a]\ntools = ['get_curent_time']")["problems"]
    assert unknown.endswith("'get_curent_time' is not a tool; did you mean get_current_time?")


def test_a_file_on_the_command_line_is_checked_instead(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[agents.only]", encoding="utf-8")
    result = check(tmp_path, FILE, "--file", str(other), "--json")
    assert [agent["name"] for agent in json.loads(result.output)["agents"]] == ["only"]


def test_the_tools_are_compared_with_those_of_connected_servers(tmp_path: Path) -> None:
    text = "[agents.a]\ntools = ['raw__echo', 'raw__ecco', 'raw__*']"
    program = {"command": sys.executable, "args": [str(RAW), "2026"]}
    environment = {"AURA_MCP_SERVERS": json.dumps({"raw": program})}
    result = check(tmp_path, text, "--json", **environment)
    assert (result.exit_code, json.loads(result.output)["warnings"]) == (0, [])
    result = check(tmp_path, text, "--json", "--connect", **environment)
    assert result.exit_code == 0, result.output
    (warning,) = json.loads(result.output)["warnings"]
    assert "'raw__ecco' is not offered at this moment; the MCP server offers " in warning
    assert "raw__echo" in warning


def test_a_server_that_cannot_be_connected_is_named(tmp_path: Path) -> None:
    servers = json.dumps({"gone": {"command": "no-such-program"}})
    result = check(tmp_path, "[agents.a]\ntools = ['gone__x']", "--connect", AURA_MCP_SERVERS=servers)
    assert result.exit_code == 0, result.output
    assert "aura: the MCP server gone is not connected, so its tools are missing: the command" in result.stderr


@pytest.mark.parametrize(
    ("options", "environment", "cause"),
    [
        ([], {}, "there is no file to check: pass --file FILE, or set AURA_AGENTS"),
        (["--app", "mail"], {}, "--app needs --tenant"),
        (["--file", "x"], {"AURA_MAX_TURNS": "0"}, "AURA_MAX_TURNS"),
    ],
)
def test_what_cannot_be_checked_has_the_exit_code_2(
    tmp_path: Path, options: list[str], environment: dict[str, str], cause: str
) -> None:
    result = check(tmp_path, None, *options, **environment)
    assert result.exit_code == 2
    assert cause in result.output
