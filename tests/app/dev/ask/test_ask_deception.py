"""`aura ask` against arguments that deceive: hidden characters and warnings."""

from __future__ import annotations

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedCall, ScriptedTurn
from app.settings import Settings
from tests.harness.clients import MAIL
from tests.harness.fork_server import ForkServer
from tests.harness.process import Command
from tests.harness.service import SECRET, running


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
