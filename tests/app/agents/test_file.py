"""`AURA_AGENTS`: what a file defines; one that cannot be used names each problem, its key and its remedy."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

import app.agents
from app.agents.definitions import Agents, AgentsInvalid
from app.agents.file import Basis, read_agents
from app.agents.tables import AgentsTable, AgentTable, LimitsTable
from app.agents.tool_names import KnownTools, check_tool_names
from app.settings import Settings
from app.tools.built_in import KNOWN_TOOL_NAMES
from statemachine.checkpoint import Limits
from statemachine.instructions import text_digest

BASIS = Basis(Limits(turns=7, tokens=500), "You help.", {"temperature": 0.2, "top_p": 0.9})
COMPLETE = """
default = "assistant"

[agents.assistant]
description = "Everything that has no agent of its own"
prompt = "You are an assistant.\\n"

[agents.mail]
prompt_file = "prompts/mail.md"
model = "gpt-4o"
options = { temperature = 0, max_tokens = 800, seed = 7 }
tools = ["send_email", "crm__*"]
language = "ko"
apps = ["mail", "inbox"]
tenants = ["acme", "globex"]

[agents.mail.limits]
turns = 4
run_seconds = 90
approval_seconds = 120.5
tokens = 0
calls_per_turn = 2
open_approvals = 1
on_reject = "replan"

[tenants.acme]
default = "mail"
"""


def write(folder: Path, text: str) -> str:
    path = folder / "agents.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def read(folder: Path, text: str, basis: Basis = BASIS) -> Agents:
    return read_agents(write(folder, text), basis)


def problems(folder: Path, text: str) -> list[str]:
    """Return the problems of a file, without its path."""
    path = write(folder, text)
    with pytest.raises(AgentsInvalid) as invalid:
        read_agents(path, BASIS)
    assert str(invalid.value).startswith(f"AURA_AGENTS: {path}: ")
    for problem in invalid.value.problems:
        assert "\n" not in problem
    return [problem.removeprefix(f"{path}: ").replace(str(folder), "FOLDER") for problem in invalid.value.problems]


def test_a_complete_file_defines_its_agents(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "mail.md").write_text("당신은 메일 도우미입니다.\n", encoding="utf-8")
    agents = read(tmp_path, COMPLETE)
    assert (agents.default, agents.tenant_defaults) == ("assistant", {"acme": "mail"})
    assistant, mail = agents.by_name["assistant"], agents.by_name["mail"]
    assert assistant.instructions == "You are an assistant."
    assert (assistant.agent.model, assistant.agent.tools, assistant.tenants) == (None, None, None)
    assert assistant.agent.options == BASIS.options
    assert assistant.limits == BASIS.limits
    assert mail.agent.options == {"temperature": 0, "top_p": 0.9, "max_tokens": 800, "seed": 7}
    assert mail.limits == Limits(
        turns=4,
        run_seconds=90,
        approval_seconds=120.5,
        on_reject="replan",
        tokens=0,
        completion_tokens=800,
        calls_per_turn=2,
        open_approvals=1,
    )
    assert mail.instructions.startswith("당신은 메일 도우미입니다.\n\nAnswer in the language with the BCP 47 tag ko,")
    assert mail.agent.instructions == text_digest(mail.instructions)
    assert (mail.agent.model, mail.agent.tools) == ("gpt-4o", ("send_email", "crm__*"))
    assert (mail.apps, mail.tenants) == (frozenset({"mail", "inbox"}), frozenset({"acme", "globex"}))


def test_an_agent_without_a_prompt_has_the_instructions_of_the_settings(tmp_path: Path) -> None:
    agents = read(tmp_path, '[agents.a]\n[agents.b]\nlanguage = "en-GB"')
    assert agents.by_name["a"].instructions == "You help."
    assert agents.by_name["b"].instructions.startswith("You help.\n\nAnswer in the language with the BCP 47 tag en-GB")


def test_the_version_depends_on_what_a_run_gets_and_on_nothing_else(tmp_path: Path) -> None:
    def version(text: str, basis: Basis = BASIS) -> str:
        return read(tmp_path, f"[agents.a]\n{text}", basis).by_name["a"].agent.version

    base = version('prompt = "p"')
    assert version('prompt = "p"\ndescription = "d"\napps = ["x"]\ntenants = ["t"]') == base
    assert version('prompt = "p"\ntools = []') != base
    changes = ('prompt = "q"', 'prompt = "p"\nmodel = "m"', 'prompt = "p"\noptions = { seed = 1 }')
    limits = 'prompt = "p"\n[agents.a.limits]\nturns = 3'
    versions = {base, version(limits), *map(version, changes)}
    assert len(versions) == 5
    assert version('prompt = "p"', Basis(Limits(), "other", {"temperature": 1})) not in versions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[agents.a]\noptoins = {}", "agents.a.optoins: there is no such key; did you mean options?"),
        ("[agents.a]\nx = 1", "agents.a.x: there is no such key; possible are description, prompt, prompt_file,"),
        ("[agents.a.limits]\nturn = 1", "agents.a.limits.turn: there is no such key; did you mean turns?"),
        ("[tenants.t]\ndefualt = 'a'", "tenants.t.defualt: there is no such key; did you mean default?"),
        ("[agent.a]", "agent: there is no such key; did you mean agents?"),
        ("agents = 5", "agents: Input should be a valid dictionary"),
        ("[agents.a.limits]\nturns = 0", "agents.a.limits.turns: Input should be greater than or equal to 1"),
        ("[agents.a.limits]\nturns = true", "agents.a.limits.turns: Input should be a valid integer"),
        ("[agents.a.limits]\nrun_seconds = inf", "agents.a.limits.run_seconds: Input should be a finite number"),
        ("[agents.a.limits]\non_reject = 'go'", "agents.a.limits.on_reject: Input should be 'stop' or 'replan'"),
        ("[agents.a]\nprompt = ' '", "agents.a.prompt: it is empty; write the instructions into it"),
        (f"[agents.a]\nprompt = '{'x' * 65_537}'", "agents.a.prompt: it has more than 65536 bytes; shorten it"),
        ("[agents.a]\nprompt = 'p'\nprompt_file = 'f'", "agents.a.prompt: prompt_file is there too"),
        ("[agents.a]\nprompt_file = 'f.md'", "agents.a.prompt_file: FOLDER/f.md does not exist"),
        ("[agents.a]\nprompt_file = '.'", "agents.a.prompt_file: FOLDER is not a file; name a text file"),
        ("[agents.a]\nlanguage = 'Korean!'", "agents.a.language: a BCP 47 tag is required, such as ko or en-GB"),
        ("[agents.a]\ntools = ['a b']", "agents.a.tools.0: the name of a tool is required, in which * stands for"),
        ("[agents.a]\ntenants = []", "agents.a.tenants: List should have at least 1 item"),
        ("[agents.a]\noptions = { model = 'm' }", "agents.a.options: model cannot be an option: write it as the key"),
        ("[agents.a]\noptions = { tools = [] }", "agents.a.options: tools cannot be an option: the service offers"),
        ("[agents.a]\noptions = { max_tokens = 0 }", "agents.a.options: max_tokens: a whole number above 0"),
        ("[agents.a]\noptions = { t = 2024-01-01 }", "agents.a.options: a date or a time has no place"),
        ("[agents.a]\noptions = { t = nan }", "agents.a.options: NaN is not a JSON number"),
        ("[agents.'a b']", "agents.a b: the name of an agent has letters, digits"),
        ("default = 'asistant'\n[agents.assistant]", "default: there is no agent 'asistant'; did you mean assistant?"),
        ("default = 'z'\n[agents.assistant]", "default: there is no agent 'z'; the agents are assistant"),
        ("default = 'z'", "default: there is no agent 'z'; the agents are none"),
        ("[tenants.t]\ndefault = 'z'\n[agents.a]", "tenants.t.default: there is no agent 'z'; the agents are a"),
        (
            "[tenants.t]\ndefault = 'a'\n[agents.a]\ntenants = ['u']",
            "tenants.t.default: t may not use 'a'; add it to agents.a.tenants, or name another agent",
        ),
        ("[agents.a", "it is not TOML: "),
        pytest.param(f"[agents.a.limits]\nturns = {'1' * 5000}", "it is not TOML: ", id="a number of 5,000 digits"),
        ("[agents.a]\n[agents.a]", "it is not TOML: "),
    ],
)
def test_a_problem_is_one_line_with_its_key_and_its_remedy(tmp_path: Path, text: str, expected: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(expected)


def test_all_problems_are_named_and_the_start_shows_the_first(tmp_path: Path) -> None:
    text = "[agents.a]\nmodle = 'x'\n[agents.b.limits]\nturns = 0"
    assert len(problems(tmp_path, text)) == 2
    with pytest.raises(AgentsInvalid, match=r"modle.*and 1 more: `aura agents check` shows all"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("tenants", "others", "contested"),
    [
        ("", "", "every tenant"),
        ("tenants = ['t', 'u']", "", "t, u"),
        ("tenants = ['t', 'u']", "tenants = ['u', 'v']", "u"),
        ("tenants = ['t']", "tenants = ['u']", None),
    ],
)
def test_an_app_chooses_one_agent_of_a_tenant(tmp_path: Path, tenants: str, others: str, contested: str | None) -> None:
    text = f"[agents.a]\napps = ['mail']\n{tenants}\n[agents.b]\napps = ['mail', 'x']\n{others}"
    if contested is None:
        assert len(read(tmp_path, text).by_name) == 2
        return
    expected = f"agents.b.apps: 'mail' chooses 'a' for {contested}; remove it from one of them"
    assert problems(tmp_path, text) == [expected]


@pytest.mark.parametrize("content", [b"\xff", b"x" * (1024 * 1024 + 1)])
def test_a_file_that_is_not_text_or_too_large_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agents.toml"
    path.write_bytes(content)
    with pytest.raises(AgentsInvalid, match=r"is not UTF-8 text .*save it as UTF-8|has more than 1048576 bytes; move"):
        read_agents(str(path), BASIS)


def test_a_file_with_the_marks_of_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    path.write_bytes("\ufeff[agents.a]\r\nprompt = '''\r\none\r\ntwo'''\r\n".encode())
    assert read_agents(str(path), BASIS).by_name["a"].instructions == "one\ntwo"


def test_what_is_no_file_is_refused_with_the_cause(tmp_path: Path) -> None:
    missing, pipe, private = tmp_path / "none.toml", tmp_path / "pipe", tmp_path / "private.toml"
    os.mkfifo(pipe)
    private.touch(mode=0)
    for path, cause in ((missing, "does not exist"), (pipe, "is not a file")):
        with pytest.raises(AgentsInvalid, match=cause):
            read_agents(str(path), BASIS)
    if os.geteuid() != 0:  # root may read every file
        with pytest.raises(AgentsInvalid, match="cannot be read"):
            read_agents(str(private), BASIS)


def test_the_prompt_does_not_show(tmp_path: Path) -> None:
    agents = read(tmp_path, '[agents.a]\nprompt = "private instructions"')
    assert "private instructions" not in repr(agents)


def test_limits_have_the_bounds_of_the_settings() -> None:
    def bounds(field: FieldInfo) -> dict[str, Any]:
        names = ("gt", "ge", "lt", "le")
        return {name: getattr(it, name) for it in field.metadata for name in names if hasattr(it, name)}

    settings = {
        "turns": "aura_max_turns",
        "run_seconds": "aura_run_timeout_seconds",
        "approval_seconds": "hitl_timeout_seconds",
        "tokens": "aura_run_tokens",
        "calls_per_turn": "aura_max_calls_per_turn",
        "open_approvals": "aura_max_open_approvals",
        "on_reject": "aura_on_reject",
    }
    assert settings.keys() == LimitsTable.model_fields.keys()
    for name, setting in settings.items():
        assert bounds(LimitsTable.model_fields[name]) == bounds(Settings.model_fields[setting])


def test_a_tool_that_does_not_exist_is_an_error_unless_it_may_come_later(tmp_path: Path) -> None:
    names = (
        "'send_email', 'send_*', 'sendmail', 'crm__find', 'hr__find', 'git*', 'x*', 'update_plan', 'crm*', '*__find'"
    )
    agents = read(tmp_path, f"[agents.a]\ntools = [{names}]")
    known = KnownTools(["send_email", "update_plan"], {"send_email", "github_get_pr"}, ["crm"])
    found = check_tool_names(agents, known)
    assert [(finding.agent, finding.is_error, finding.text) for finding in found] == [
        ("a", True, "agents.a.tools: 'sendmail' is not a tool; did you mean send_email?"),
        ("a", False, "agents.a.tools: 'hr__find' is a tool of the MCP server 'hr', which is not in AURA_MCP_SERVERS"),
        ("a", False, "agents.a.tools: 'git*' is not offered here: its service is not configured"),
        ("a", True, "agents.a.tools: 'x*' is not a tool; tools are github_get_pr, send_email, update_plan"),
    ]
    connected = replace(known, offered=[*known.offered, "crm__search", "crm__list"])
    (finding,) = (it for it in check_tool_names(agents, connected) if "'crm__find'" in it.text)
    assert not finding.is_error
    assert finding.text.endswith("is not offered at this moment; the MCP server offers crm__list, crm__search")


def test_the_example_of_the_documentation_has_every_key_and_can_be_used(tmp_path: Path) -> None:
    readme = Path(app.agents.__file__).with_name("README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "mail.md").write_text("You help with mail.", encoding="utf-8")
    agents = read(tmp_path, example)
    assert [
        finding.is_error for finding in check_tool_names(agents, KnownTools(["update_plan"], KNOWN_TOOL_NAMES))
    ] == [False] * 3
    for key in (*AgentsTable.model_fields, *AgentTable.model_fields, *LimitsTable.model_fields):
        assert re.search(rf"\b{key}\b", example), key
        assert f"`{key}" in readme or f", `{key}`" in readme or f"`agents.NAME.{key}`" in readme, key
