"""`AURA_MCP_SERVERS`: the shapes of other clients, variables, our keys, and errors that name the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigurationError
from app.ports.mcp_servers import McpServer
from app.settings import Settings
from app.settings.mcp_servers import parse_servers

ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": "/home/aura",
    "LANG": "C.UTF-8",
    "GITHUB_PAT": "ghp_4711secret",
    "REGION": "eu-west",
    "JWT_SECRET": "a secret of at least thirty-two bytes, for tests",
    "OTHER": "not for programs",
}
COMMAND = {"command": "mcp-server-files"}
URL = {"url": "https://mcp.example/mcp"}


def parse(entry: dict[str, Any], name: str = "files") -> McpServer:
    (server,) = parse_servers(json.dumps({name: entry}), ENVIRONMENT)
    return server


def refused(entry: Any, name: str = "files") -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment({**ENVIRONMENT, "AURA_MCP_SERVERS": json.dumps({name: entry})})
    return str(caught.value)


@pytest.mark.parametrize("wrap", [lambda inner: inner, lambda inner: {"mcpServers": inner}])
def test_the_json_is_inline_or_in_a_file(wrap: Any, tmp_path: Path) -> None:
    text = json.dumps(wrap({"files": {**COMMAND, "args": ["--root", "/srv"], "type": "stdio"}, "b": URL}))
    file = tmp_path / "mcp.json"
    file.write_text(f"\ufeff{text}\n")
    assert parse_servers(text, ENVIRONMENT) == parse_servers(str(file), ENVIRONMENT)
    files, remote = parse_servers(text, ENVIRONMENT)
    assert (files.command, files.args) == ("mcp-server-files", ("--root", "/srv"))
    assert (remote.name, remote.url) == ("b", "https://mcp.example/mcp")
    assert not files.trusted


def test_an_error_in_a_file_names_the_file_and_the_line(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    for text, cause in (
        ('{"files":\n {"command": }}', "it is not JSON: Expecting value at line 2, character 14"),
        (json.dumps({"files": {"comand": "a"}}), "server files: there is no key 'comand'; did you mean command?"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_environment({**ENVIRONMENT, "AURA_MCP_SERVERS": str(file)})
        assert str(caught.value) == f"AURA_MCP_SERVERS: {file}: {cause}"


def test_a_file_that_does_not_exist_is_named_but_json_with_a_mistake_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"mpc\.json does not exist .*; correct the path"):
        Settings.from_environment({**ENVIRONMENT, "AURA_MCP_SERVERS": "mpc.json"})
    with pytest.raises(ConfigurationError, match=r"^AURA_MCP_SERVERS: JSON that begins") as caught:
        Settings.from_environment({**ENVIRONMENT, "AURA_MCP_SERVERS": '[{"headers": {"Authorization": "sk-4711"}}]'})
    assert "4711" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"^AURA_MCP_SERVERS: JSON that begins") as caught:
        Settings.from_environment({**ENVIRONMENT, "AURA_MCP_SERVERS": f'[{{"key": "{"sk-4711" * 100}"}}]'})
    assert "4711" not in str(caught.value)


def test_a_program_gets_three_variables_and_its_own() -> None:
    server = parse({**COMMAND, "env": {"TOKEN": "${GITHUB_PAT}", "REGION": "${env:REGION}"}})
    assert server.environment == {
        "PATH": "/usr/bin",
        "HOME": "/home/aura",
        "LANG": "C.UTF-8",
        "TOKEN": "ghp_4711secret",
        "REGION": "eu-west",
    }
    assert server.secrets == ("ghp_4711secret",)


def test_variables_are_replaced_everywhere_and_have_defaults() -> None:
    server = parse(
        {"url": "https://${REGION}.example/${STAGE:-live}", "headers": {"Authorization": "Bearer ${GITHUB_PAT}"}}
    )
    assert server.url == "https://eu-west.example/live"
    assert server.headers == {"Authorization": "Bearer ghp_4711secret"}
    assert set(server.secrets) == {"ghp_4711secret", "Bearer ghp_4711secret"}
    assert parse({**COMMAND, "args": ["--key=${GITHUB_PAT}"]}).secrets == ("ghp_4711secret",)


def test_secrets_are_masked_and_never_shown_by_repr() -> None:
    entries = {"a": {**URL, "headers": {"X-Api-Key": "key-4711-secret"}}, "b": {**URL, "oauth": OAUTH}}
    settings = Settings.from_environment({**ENVIRONMENT, "AURA_MCP_SERVERS": json.dumps(entries)})
    assert {"key-4711-secret", "s3cret-of-aura"} <= set(settings.secrets)
    assert "4711" not in repr(settings.aura_mcp_servers)
    assert "s3cret" not in repr(settings.aura_mcp_servers)


OAUTH = {"client_id": "aura", "client_secret": "s3cret-of-aura", "issuer": "https://login.example"}


def test_our_keys() -> None:
    ours = {"trusted": True, "allow": ["read_*"], "deny": ["*_all"], "approval": {"read_x": True, "read_*": False}}
    server = parse({**COMMAND, **ours, "timeout_seconds": 7})
    assert [server.offers(tool) for tool in ("read_a", "read_all", "write")] == [True, False, False]
    assert [server.approval_of(tool) for tool in ("read_x", "read_a", "write")] == [True, False, None]
    assert server.timeout_seconds == 7.0


@pytest.mark.parametrize("pattern", ["[!a]*", "?x", "a*"])
def test_an_approval_that_can_count_behind_another_pattern_is_kept(pattern: str) -> None:
    server = parse({**COMMAND, "trusted": True, "approval": {pattern: False, "*x": True}})
    assert server.approval == ((pattern, False), ("*x", True))


def test_a_server_can_be_disabled() -> None:
    assert parse_servers(json.dumps({"files": {**COMMAND, "disabled": True}}), ENVIRONMENT) == ()


def test_grants_of_other_clients_grant_nothing_and_the_log_says_so() -> None:
    server = parse({**COMMAND, "autoApprove": ["*"], "alwaysAllow": ["*"], "icon": "x"})
    assert (server.trusted, server.approval) == (False, ())
    assert [remark.split(" ")[0] for remark in server.remarks] == ["autoApprove", "alwaysAllow", "keys"]
    assert "grants nothing here" in server.remarks[0]


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({}, "command (a program that is started) or url (a remote server) is required"),
        ({**COMMAND, **URL}, "it has command and url; one of them is possible"),
        ({**URL, "type": "sse"}, "sse is the transport before 2025, which is not supported"),
        ({**URL, "type": "stdio"}, "type: it does not fit url"),
        ({**COMMAND, "transport": "http"}, "transport: it does not fit command"),
        ({**COMMAND, "headers": {}}, "headers: it does not fit command"),
        ({**COMMAND, "trustd": True}, "there is no key 'trustd'; did you mean trusted?"),
        ({**COMMAND, "timeout_second": 3}, "did you mean timeout_seconds?"),
        ({**COMMAND, "trusted": "yes"}, "trusted: true or false is required"),
        (
            {**COMMAND, "trusted": True, "approval": {"*": False, "delete_*": True}},
            "approval: 'delete_*' never counts, because '*' stands before it and matches the same names",
        ),
        (
            {**COMMAND, "approval": {"x": False}},
            'only for a trusted server: remove it, or set "trusted": true',
        ),
        ({**COMMAND, "args": ["${NOWHERE}"]}, "args: the environment variable NOWHERE is not set; set it, or write"),
        ({**COMMAND, "env": {"X": "${JWT_SECRET}"}}, "env.X: JWT_SECRET is a setting of this service"),
        ({**COMMAND, "env": {"X": "${AURA_AUDIT_KEY}"}}, "AURA_AUDIT_KEY is a setting of this service"),
        ({**COMMAND, "args": ["${input:token}"]}, "${input:token} cannot be replaced"),
        ({**COMMAND, "timeout_seconds": 0}, "timeout_seconds: a number above 0 is required"),
        ({**COMMAND, "cwd": "/no/such/folder"}, "cwd: a folder that exists is required"),
        ({**COMMAND, "allow": "read"}, "allow: a list of names or patterns"),
        ({"url": "ftp://x"}, "url: http(s)://host"),
        ({"url": "https://user:pass4711@x/mcp"}, "url: it has a user or a password"),
        ({**URL, "headers": {"X": "a\nb"}}, "headers.X: it has a line break inside"),
        ({**URL, "oauth": {"client_id": "a", "client_secret": "b"}}, "oauth: issuer is required; else the MCP server"),
        ({**URL, "oauth": {**OAUTH, "secret": "b"}}, "oauth: there is no key 'secret'"),
        ({**URL, "oauth": OAUTH, "headers": {"authorization": "x"}}, "oauth and a header Authorization"),
        ("text", "a JSON object is required"),
    ],
)
def test_an_error_names_the_server_the_cause_and_the_remedy(entry: Any, error: str) -> None:
    message = refused(entry)
    assert message.startswith("AURA_MCP_SERVERS: server files: ")
    assert error in message
    assert "4711" not in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["", "1files", "a__b", "files_", "fi les", "x" * 33, "파일"])
def test_a_name_that_could_not_be_told_from_a_tool_is_refused(name: str) -> None:
    assert "the name of a server is not possible" in refused(COMMAND, name)


@pytest.mark.parametrize("text", ["/no/such/file.json", "[]", "{", '{"a": {}, "a": {}}'])
def test_a_text_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^AURA_MCP_SERVERS: "):
        Settings.from_environment({**ENVIRONMENT, "AURA_MCP_SERVERS": text})
