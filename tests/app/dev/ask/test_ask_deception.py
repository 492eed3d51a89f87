"""`aura ask` against arguments that deceive: hidden characters and warnings."""

from __future__ import annotations

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.ports.journal import LogEntry
from app.settings import Settings
from tests.harness.approvals import StartWaitingRun, WaitingRun
from tests.harness.clients import MAIL, ME
from tests.harness.fork_server import ForkServer
from tests.harness.process import Command
from tests.harness.service import SECRET, running
from tests.harness.stored import read_log, write_log


async def test_hidden_characters_are_chips_and_warnings_stand_above_the_question(
    mailing: Settings, model: ScriptedModelServer, fork_server: ForkServer
) -> None:
    body = "see invoice \u202egpj.exe" + "\n" * 401 + "then pay\u200b."
    model.play(ScriptedTurn(tool_calls=[ScriptedCall(name="send_email", arguments={**MAIL, "body": body})]))
    options = ("--user", "user1", "--tenant", "tenant1")
    async with running(mailing) as aura:
        arguments = ("ask", "메일", "--url", aura.url, *options)
        async with Command(fork_server, {"JWT_SECRET": SECRET}, *arguments, in_terminal=True) as command:
            await command.wait_for_output("approve? [y]es")
            shown = command.output
            for text in ("see invoice ⟨U+202E⟩gpj.exe", "⟨400 empty lines⟩", "then pay⟨U+200B⟩.", "bcc      []"):
                assert text in shown
            for warning in ("bidirectional  body", "invisible  body", "very_long  body"):
                assert shown.index("then pay") < shown.index(warning) < shown.index("approve?")
            assert "\u202e" not in shown
            command.type("n")
            assert await command.wait_for_exit() == 1


def rewrite_event(run: WaitingRun, real: str, innocent: str) -> None:
    """Change the last event of the run in Redis, as a program that can write to its log."""
    *earlier, (id, body) = read_log(run.redis, run.session_id)
    assert real.encode() in body
    changed = LogEntry(id, body.replace(real.encode(), innocent.encode()))
    write_log(run.redis, run.session_id, [*earlier, changed])


@pytest.mark.parametrize("option", [(), ("--approve",)])
async def test_request_that_the_event_shows_otherwise_is_not_offered_for_approval(
    waiting_run: StartWaitingRun, fork_server: ForkServer, option: tuple[str, ...]
) -> None:
    async with waiting_run(arguments={"to": "thief", "text": "salaries", "copies": 1}) as run:
        rewrite_event(run, "salaries", "hello")
        arguments = ("ask", "--attach", run.session_id, "--url", run.aura.url, *ME, *option)
        async with Command(fork_server, {"JWT_SECRET": SECRET}, *arguments, in_terminal=True) as command:
            await command.wait_for_output("do not approve it")
            assert "hello" in command.output
            assert "approve? [y]es" not in command.output
            command.type("y")
            assert run.stored_request()["status"] == "pending"
            await run.aura.decide("reject", run.request_id)
            assert await command.wait_for_exit() == 1
        assert run.tool.ran == []
