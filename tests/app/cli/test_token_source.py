"""Where commands take the token of their caller from: a file, the environment, or the command line."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.settings import Settings
from tests.harness.clients import MakeSettings, StartAsk, token
from tests.harness.service import SECRET, running

UNREACHABLE = "http://127.0.0.1:9"


def token_file(folder: Path, text: str | None = None, mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_text(token() if text is None else text)
    path.chmod(mode)
    return path


def timeline(*arguments: str, **environment: str) -> Result:
    """Run a command that calls a service which cannot be reached."""
    return CliRunner().invoke(main, ["timeline", "s", "--url", UNREACHABLE, *arguments], env=environment)


def expect_refused(result: Result, expected: str, *, hidden: str = "") -> None:
    assert result.exit_code == 2
    assert expected in result.output
    assert "cannot connect" not in result.output
    assert not hidden or hidden not in result.output


@pytest.mark.parametrize("source", ["environment", "file"])
async def test_run_starts_with_a_token_that_is_not_on_the_command_line(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path, start_ask: StartAsk, source: str
) -> None:
    model.play(ScriptedTurn(text="답"))
    arguments = ("--token-file", str(token_file(tmp_path, f"\n{token()}\n"))) if source == "file" else ()
    environment = {"AURA_TOKEN": token()} if source == "environment" else {}
    async with (
        running(settings()) as aura,
        start_ask(aura.url, "안녕하세요", *arguments, JWT_SECRET="", **environment) as command,
    ):
        assert await command.wait_for_exit() == 0, command.output
    assert "✔ completed" in command.output


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644])
def test_token_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = token_file(tmp_path, mode=mode)
    result = timeline("--token-file", str(path))
    expect_refused(result, f"others may use this token (mode {mode:04o}): chmod 600", hidden=token())


def test_token_file_that_only_its_owner_may_use_is_read(tmp_path: Path) -> None:
    for mode in (0o600, 0o400):
        result = timeline("--token-file", str(token_file(tmp_path, mode=mode)))
        assert "cannot connect" in result.output
        (tmp_path / "token").unlink()


def test_token_can_come_from_another_program_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    writer = threading.Thread(target=pipe.write_text, args=(token(),))
    writer.start()
    result = timeline("--token-file", str(pipe))
    writer.join()
    assert "cannot connect" in result.output


@pytest.mark.parametrize("text", ["", "\n", f"{'a' * 20} {'b' * 20}", "eyJ\x1b[2J", "한국어", "a.b.c"])
def test_file_without_one_token_is_refused(tmp_path: Path, text: str) -> None:
    result = timeline("--token-file", str(token_file(tmp_path, text)))
    expect_refused(result, "the token is not a JWT", hidden=text.strip())


def test_token_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    expect_refused(timeline("--token-file", str(tmp_path / "none")), "No such file or directory")
    expect_refused(timeline("--token-file", str(tmp_path)), "is a directory")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--token", "TOKEN", "--token-file", "FILE"), "--token and --token-file"),
        (("--token", "TOKEN", "--user", "u"), "--token and --user, --tenant and --role"),
        (("--token-file", "FILE", "--role", "admin"), "--token-file and --user, --tenant and --role"),
    ],
)
def test_two_identities_contradict_each_other(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    given = {"TOKEN": token(), "FILE": str(token_file(tmp_path))}
    result = timeline(*(given.get(argument, argument) for argument in arguments), JWT_SECRET=SECRET)
    expect_refused(result, f"{named} contradict each other", hidden=token())


@pytest.mark.parametrize(
    "arguments", [("--token", "TOKEN"), ("--token-file", "FILE"), ("--user", "user1", "--tenant", "tenant1")]
)
def test_command_line_overrules_the_token_of_the_environment(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    given = {"TOKEN": token(), "FILE": str(token_file(tmp_path))}
    chosen = [given.get(argument, argument) for argument in arguments]
    result = timeline(*chosen, AURA_TOKEN="not a token", JWT_SECRET=SECRET)
    assert "cannot connect" in result.output


def test_no_token_at_all_names_the_ways_to_give_one() -> None:
    for environment in ({}, {"AURA_TOKEN": ""}):
        expect_refused(timeline(**environment), "set AURA_TOKEN or pass --token-file FILE")


def test_service_starts_where_the_token_of_a_person_is_in_the_environment() -> None:
    assert Settings.from_environment({"JWT_SECRET": SECRET, "AURA_TOKEN": token()}).jwt_secret
