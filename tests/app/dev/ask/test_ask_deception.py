"""`aura ask` against arguments that deceive: hidden characters, warnings, and an edit that can be read in two ways."""

from __future__ import annotations

import pytest

from app.dev.ask.keys import InvalidEdit, edit
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
            await command.wait_for_output("approve?")
            shown = command.output
            for text in ("see invoice ⟨U+202E⟩gpj.exe", "⟨400 empty lines⟩", "then pay⟨U+200B⟩.", "bcc      []"):
                assert text in shown
            for warning in ("bidirectional  body", "invisible  body", "very_long  body"):
                assert shown.index("then pay") < shown.index(warning) < shown.index("approve?")
            assert "\u202e" not in shown
            command.type("n")
            assert await command.wait_for_exit() == 1


@pytest.mark.parametrize(
    ("text", "cause"), [('{"to": "a", "to": "b"}', "the key 'to' occurs more than once"), ("[]", "not a JSON object")]
)
async def test_edit_that_can_be_read_in_two_ways_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str, cause: str
) -> None:
    monkeypatch.setattr("app.dev.ask.keys.click.edit", lambda *_, **__: text)
    with pytest.raises(InvalidEdit, match=cause):
        await edit({"to": "a"})


async def test_editor_shows_hidden_characters_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def unchanged(text: str, **_: object) -> str:
        opened.append(text)
        return text

    monkeypatch.setattr("app.dev.ask.keys.click.edit", unchanged)
    arguments = {"body": "invoice \u202egpj.exe\U000e0041"}
    assert await edit(arguments) == arguments
    assert r"invoice \u202egpj.exe\udb40\udc41" in opened[0]
