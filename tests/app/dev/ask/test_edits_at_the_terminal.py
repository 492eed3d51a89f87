"""`aura ask` at a terminal: edits of the arguments. What is approved is what was shown last, and no text is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.dev.ask.editor import InvalidEdit, to_arguments, to_text
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from app.settings import Settings
from tests.harness.clients import MAIL, ME, MakeSettings, StartAsk, mail_call
from tests.harness.service import Aura, running
from tests.harness.terminal import Screen, ScriptedEditor

pytestmark = pytest.mark.slow

QUESTION = "approve? [y]es [n]o [e]dit"
EDITED_QUESTION = "approve as edited? [y]es [n]o [e]dit [d]iscard the edit"
UNUSABLE_QUESTION = "your edit cannot be used yet: [e]dit [d]iscard the edit [n]o"
TO_BOSS = "file.write_text(text.replace('team@', 'boss@'))"
SENT = ScriptedTurn(text="보냈습니다.")


@asynccontextmanager
async def asked(mailing: Settings, start_ask: StartAsk, **environment: str) -> AsyncIterator[tuple[Aura, Screen]]:
    """A service, and a terminal at which the question about a mail accepts keys."""
    async with (
        running(mailing) as aura,
        start_ask(aura.url, "메일을 보내주세요", *ME, in_terminal=True, **environment) as command,
    ):
        screen = Screen(command)
        await screen.wait_for(QUESTION)
        yield aura, screen


def recipients(mail: SmtpSink) -> list[tuple[str, ...]]:
    return [message.recipients for message in mail.messages]


async def test_edited_arguments_are_shown_and_asked_about_before_they_are_sent(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    model.play(mail_call(), SENT)
    editor = ScriptedEditor(tmp_path, TO_BOSS)
    async with asked(mailing, start_ask, **editor.environment) as (_, screen):
        await screen.press("e", shown="with your edit the arguments are (changed: to):")
        shown = await screen.wait_for(EDITED_QUESTION)
        assert '["boss@example.com"]' in shown
        assert str(MAIL["subject"]) in shown
        assert mail.messages == []
        await screen.press("y", shown="✔ approved")
        assert await screen.command.wait_for_exit() == 0
    assert recipients(mail) == [("boss@example.com",)]


async def test_discarded_edit_is_not_sent(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    model.play(mail_call(), SENT)
    editor = ScriptedEditor(tmp_path, TO_BOSS)
    async with asked(mailing, start_ask, **editor.environment) as (_, screen):
        await screen.press("e", shown=EDITED_QUESTION)
        await screen.press("d", shown="the edit is discarded; the arguments are again:")
        assert '["team@example.com"]' in await screen.wait_for(QUESTION)
        screen.command.type("y")
        assert await screen.command.wait_for_exit() == 0
    assert recipients(mail) == [("team@example.com",)]


async def test_editor_that_changes_nothing_leads_back_to_the_question(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    expected = {
        "pass": "nothing was changed",
        "file.write_text(text)": "nothing was changed",
        "file.write_text(json.dumps(json.loads(text), indent=8))": "nothing was changed",
        "file.write_text(' ')": "nothing was changed",
        "file.unlink()": "the file of the editor: No such file or directory",
        "sys.exit(3)": "the editor did not exit normally",
        "os.kill(os.getpid(), signal.SIGKILL)": "the editor did not exit normally",
        "file.write_bytes(b'\\xff')": "the edited file is not UTF-8",
    }
    model.play(mail_call())
    editor = ScriptedEditor(tmp_path, f"exec({list(expected)}[turn])")
    async with asked(mailing, start_ask, **editor.environment) as (_, screen):
        for cause in expected.values():
            await screen.press("e", shown=cause)
            assert "kept" not in await screen.wait_for(QUESTION)
        screen.command.type("n")
        assert await screen.command.wait_for_exit() == 1
    assert len(editor.openings) == len(expected)
    assert len({opening["text"] for opening in editor.openings}) == 1
    assert editor.left_behind == []
    assert mail.messages == []


@pytest.mark.parametrize("program", ["/no/such/editor", "'unmatched", " "])
async def test_editor_that_cannot_be_run_leads_back_to_the_question(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, program: str, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    async with asked(mailing, start_ask, VISUAL=program, EDITOR=program) as (_, screen):
        await screen.press("e", shown="the editor ")
        await screen.wait_for(QUESTION)
        screen.command.type("n")
        assert await screen.command.wait_for_exit() == 1
    assert "Traceback" not in screen.command.output
    assert mail.messages == []


async def test_invalid_edit_is_offered_again_and_cannot_be_approved(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    model.play(mail_call(), SENT)
    typed = '{"to": ["boss@example.com"], "to": []'
    corrected = json.dumps({**MAIL, "to": ["boss@example.com"]})
    editor = ScriptedEditor(tmp_path, f"file.write_text([{typed!r}, {corrected!r}][turn])")
    async with asked(mailing, start_ask, **editor.environment) as (_, screen):
        await screen.press("e", shown="that is not JSON")
        assert "your text is kept" in await screen.wait_for(UNUSABLE_QUESTION)
        await screen.press("y", shown="nothing was decided")
        await screen.press("e", shown=EDITED_QUESTION)
        assert [opening["text"] for opening in editor.openings][1] == typed
        screen.command.type("y")
        assert await screen.command.wait_for_exit() == 0
    assert recipients(mail) == [("boss@example.com",)]


async def test_text_that_a_killed_editor_has_saved_is_kept_and_cannot_be_approved_unseen(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    """The second time the editor is left at once: the text is taken over, shown, and asked about."""
    model.play(mail_call(), SENT)
    editor = ScriptedEditor(tmp_path, f"if turn == 0:\n    {TO_BOSS}\n    os.kill(os.getpid(), signal.SIGTERM)")
    async with asked(mailing, start_ask, **editor.environment) as (_, screen):
        await screen.press("e", shown="the editor did not exit normally")
        await screen.wait_for(UNUSABLE_QUESTION)
        await screen.press("y", shown="nothing was decided")
        assert '["boss@example.com"]' in await screen.press("e", shown=EDITED_QUESTION)
        assert mail.messages == []
        screen.command.type("y")
        assert await screen.command.wait_for_exit() == 0
    assert recipients(mail) == [("boss@example.com",)]


async def test_edit_that_the_service_refuses_is_asked_about_again(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    model.play(mail_call(), SENT)
    script = (
        "file.write_text(text.replace('team@example.com' if turn == 0 else 'nobody', ['nobody', 'a@b.test'][turn]))"
    )
    editor = ScriptedEditor(tmp_path, script)
    async with asked(mailing, start_ask, **editor.environment) as (_, screen):
        await screen.press("e", shown=EDITED_QUESTION)
        await screen.press("y", shown="E4000")
        await screen.wait_for(EDITED_QUESTION)
        await screen.press("e", shown="(changed: to)")
        await screen.wait_for(EDITED_QUESTION)
        screen.command.type("y")
        assert await screen.command.wait_for_exit() == 0
    assert "nobody" in editor.openings[1]["text"]
    assert recipients(mail) == [("a@b.test",)]


async def test_file_of_the_editor_is_private_and_removed_with_its_copies(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    editor = ScriptedEditor(tmp_path, "file.with_name('arguments.json~').write_text(text)")
    async with asked(mailing, start_ask, **editor.environment) as (_, screen):
        await screen.press("e", shown="nothing was changed")
        assert editor.left_behind == []
        await screen.wait_for(QUESTION)
        screen.command.type("n")
        assert await screen.command.wait_for_exit() == 1
    assert [opening["modes"] for opening in editor.openings] == [["0o600", "0o700"]]
    assert mail.messages == []


async def test_terminal_that_closes_under_the_editor_approves_nothing_and_leaves_no_file(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    editor = ScriptedEditor(tmp_path, f"{TO_BOSS}; print('opened', flush=True); time.sleep(60)")
    async with asked(mailing, start_ask, **editor.environment) as (aura, screen):
        await screen.press("e", shown="opened")
        screen.command.hang_up()
        assert await screen.command.wait_for_exit() == 129
        assert editor.left_behind == []
        assert mail.messages == []
        assert (await aura.decide("reject", screen.request_id)).status_code == 200


async def test_ctrl_c_ends_the_editor_alone(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    script = "signal.signal(signal.SIGINT, signal.SIG_DFL); print('opened', flush=True); time.sleep(60)"
    editor = ScriptedEditor(tmp_path, script)
    async with asked(mailing, start_ask, **editor.environment) as (_, screen):
        await screen.press("e", shown="opened")
        await screen.press("\x03", shown="the editor did not exit normally")
        await screen.wait_for(QUESTION)
        screen.command.type("n")
        assert await screen.command.wait_for_exit() == 1
    assert mail.messages == []


async def test_request_that_is_decided_while_the_editor_is_open_cannot_be_approved(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    """The editor saves after the decision. Its text cannot be used, so it is shown once more."""
    model.play(mail_call())
    go = tmp_path / "go"
    wait = f"print('opened', flush=True)\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)"
    editor = ScriptedEditor(tmp_path, f"{wait}\nfile.write_text('{{ what was typed')")
    async with asked(mailing, start_ask, **editor.environment) as (aura, screen):
        await screen.press("e", shown="opened")
        assert (await aura.decide("reject", screen.request_id)).status_code == 200
        go.touch()
        await screen.wait_for("an edit was not used; its text was:")
        await screen.wait_for("{ what was typed")
        await screen.wait_for("decided elsewhere")
        assert await screen.command.wait_for_exit() == 1
    assert mail.messages == []


async def test_request_that_expires_while_the_editor_is_open_cannot_be_approved(
    settings: MakeSettings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    sending = {"smtp_host": mail.host, "smtp_port": mail.port, "smtp_tls": "none", "smtp_from": "aura@example.com"}
    editor = ScriptedEditor(tmp_path, f"time.sleep(3)\n{TO_BOSS}")
    async with asked(settings(**sending, hitl_timeout_seconds=3), start_ask, **editor.environment) as (_, screen):
        await screen.press("e", shown="with your edit")
        await screen.wait_for("no decision in time")
        assert await screen.command.wait_for_exit() == 1
    assert EDITED_QUESTION not in screen.command.output
    assert mail.messages == []


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
async def test_vim_approves_nothing_whichever_way_it_is_left(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, start_ask: StartAsk
) -> None:
    model.play(mail_call(), SENT)
    async with asked(mailing, start_ask, VISUAL="vim -u NONE", EDITOR="vim -u NONE") as (_, screen):
        for command, expected in (
            (":q!\r", "nothing was changed"),
            (":%s/team@/thief@/\r:q!\r", "nothing was changed"),
            (":wq\r", "nothing was changed"),
            (":cq\r", "the editor did not exit normally"),
        ):
            await screen.press("e", shown="arguments.json")
            await screen.press(command, shown=expected)
            await screen.wait_for(QUESTION)
        await screen.press("e", shown="arguments.json")
        await screen.press(":%s/team@/boss@/\r:wq\r", shown=EDITED_QUESTION)
        assert mail.messages == []
        screen.command.type("y")
        assert await screen.command.wait_for_exit() == 0
    assert recipients(mail) == [("boss@example.com",)]


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": ' + "[" * 100_000],
)
def test_text_that_is_no_strict_json_object_is_no_edit(text: str) -> None:
    with pytest.raises(InvalidEdit):
        to_arguments(text)


def test_editor_shows_hidden_characters_as_escapes_and_keeps_them() -> None:
    hidden = "a\u202eb\u200bc\x9b\U000e0041d\u2028"
    text = to_text({"body": f"한국어 😀\n{hidden}"})
    assert "한국어 😀" in text
    assert not any(character in text for character in "\u202e\u200b\x9b\U000e0041\u2028")
    assert to_arguments(text) == {"body": f"한국어 😀\n{hidden}"}
