"""`aura ask` at a terminal: a decision is one key that is pressed alone, and nothing else ever approves."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from app.dev.ask.keys import only_key
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from app.settings import Settings
from tests.harness.clients import ME, MakeSettings, StartAsk, mail_call, token
from tests.harness.fork_server import ROOT
from tests.harness.proxy import CuttingProxy
from tests.harness.service import Aura, running
from tests.harness.terminal import Screen
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

PROMPT = "메일을 보내주세요"
QUESTION = "approve? [y]es [n]o [e]dit"
NOTHING_DECIDED = "nothing was decided"


@asynccontextmanager
async def asked(mailing: Settings, start_ask: StartAsk, **environment: str) -> AsyncIterator[tuple[Aura, Screen]]:
    """A service, and a terminal at which the question about a mail accepts keys."""
    async with (
        running(mailing) as aura,
        start_ask(aura.url, PROMPT, *ME, in_terminal=True, **environment) as command,
    ):
        screen = Screen(command)
        await screen.wait_for(QUESTION)
        yield aura, screen


async def expect_undecided(aura: Aura, screen: Screen, mail: SmtpSink) -> None:
    """Nothing was sent, and the request still waits for its first decision."""
    assert mail.messages == []
    reply = await aura.decide("reject", screen.request_id)
    assert (reply.status_code, reply.json()["data"]["status"]) == (200, "rejected")


@pytest.mark.parametrize(("key", "code"), [("y", 0), ("ㅛ", 0), ("n", 1)])
async def test_key_decides_the_approval(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, key: str, code: int, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    if code == 0:
        model.play(ScriptedTurn(text="보냈습니다."))
    async with asked(mailing, start_ask) as (_, screen):
        screen.command.type(key)
        assert await screen.command.wait_for_exit() == code
    assert len(mail.messages) == 1 - code


async def test_input_that_is_not_one_key_alone_decides_nothing(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, start_ask: StartAsk
) -> None:
    inputs = {
        "an empty line": "\n",
        "Ctrl-D": "\x04",
        "an unknown key": "x",
        "a word": "yes",
        "a pasted line": "y\n",
        "pasted lines": "n\ny\nplease send it\ny\n",
        "Alt and y": "\x1by",
        "the 9 of a numeric keypad": "\x1bOy",
        "a terminal's answer about a mode": "\x1b[?2026;2$y",
        "a paste that the terminal marks": "\x1b[200~y\x1b[201~",
    }
    model.play(mail_call())
    async with asked(mailing, start_ask) as (aura, screen):
        for keys in inputs.values():
            await screen.press(keys, shown=NOTHING_DECIDED)
            await screen.wait_for(QUESTION)
        await expect_undecided(aura, screen, mail)
        assert await screen.command.wait_for_exit() == 1
    assert mail.messages == []


async def test_key_inside_a_slow_paste_decides_nothing(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, start_ask: StartAsk
) -> None:
    """Each piece arrives after a silence, and the mark of the end in two halves."""
    model.play(mail_call())
    async with asked(mailing, start_ask) as (aura, screen):
        for piece in ("\x1b[20", "0~", "y", "\x1b[201", "~"):
            await screen.press(piece, shown=NOTHING_DECIDED)
        await expect_undecided(aura, screen, mail)
        assert await screen.command.wait_for_exit() == 1


async def test_keys_that_were_typed_before_the_question_decide_nothing(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, start_ask: StartAsk
) -> None:
    """Also while it appears: a person who is still typing has not read it."""
    model.play(mail_call())
    async with running(mailing) as aura, start_ask(aura.url, PROMPT, *ME, in_terminal=True) as command:
        screen = Screen(command)
        command.type("y")
        await screen.wait_for("approve? ")
        command.type("y")
        await screen.wait_for(QUESTION)
        await expect_undecided(aura, screen, mail)
        assert await command.wait_for_exit() == 1


def test_enter_after_a_key_does_not_matter_unless_both_were_pasted() -> None:
    assert only_key(["Y"]) == only_key(["y", "\n"]) == only_key(["y", "\r"]) == "y"
    assert only_key(["y\n"]) == only_key(["y", "y"]) == only_key(["y", "\n", "\n"]) == only_key(["\n", "y"]) == ""


async def test_ctrl_c_decides_nothing_even_after_a_key(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    async with asked(mailing, start_ask) as (aura, screen):
        screen.command.type("y\x03")
        assert await screen.command.wait_for_exit() == 130
        await expect_undecided(aura, screen, mail)
    assert "the run continues: aura ask --attach" in screen.command.output


async def test_suspended_command_asks_again_when_it_continues(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, start_ask: StartAsk
) -> None:
    """A shell sets modes of its own while the command is stopped, in which a line is sent as a whole."""
    model.play(mail_call())
    async with asked(mailing, start_ask) as (_, screen):
        command = screen.command
        command.signal(signal.SIGSTOP)
        command.set_line_mode()
        command.signal(signal.SIGCONT)
        await screen.press("", shown=QUESTION)
        command.type("n")
        assert await command.wait_for_exit() == 1
    assert mail.messages == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_signal_while_the_question_is_open_decides_nothing(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, number: signal.Signals, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    async with asked(mailing, start_ask) as (aura, screen):
        screen.command.signal(number)
        assert await screen.command.wait_for_exit() == 128 + number
        await expect_undecided(aura, screen, mail)


async def test_terminal_that_closes_decides_nothing(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    async with asked(mailing, start_ask) as (aura, screen):
        _ = screen.request_id
        screen.command.hang_up()
        assert await screen.command.wait_for_exit() == 129
        await expect_undecided(aura, screen, mail)


async def test_end_of_input_without_a_signal_decides_nothing(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink
) -> None:
    """The terminal is not the one that controls the process, so that its end is no SIGHUP."""
    model.play(mail_call())
    async with running(mailing) as aura:
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", "ask", PROMPT, "--url", aura.url),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "TERM": "xterm", "AURA_TOKEN": token()},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(ours, False)
        shown = bytearray()
        await eventually(lambda: QUESTION.encode() in _read_more(ours, shown))
        os.close(ours)
        async with asyncio.timeout(30):
            assert await process.wait() == 129
        request_id = "req-" + shown.decode().partition("req-")[2][:12]
        assert mail.messages == []
        assert (await aura.decide("reject", request_id)).status_code == 200


def _read_more(terminal: int, shown: bytearray) -> bytes:
    """Read what a terminal shows, append it, and return everything so far."""
    with suppress(BlockingIOError):
        shown += os.read(terminal, 65536)
    return bytes(shown)


async def test_answers_from_a_pipe_decide_nothing(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink
) -> None:
    model.play(mail_call())
    async with running(mailing) as aura:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", "ask", PROMPT, "--url", aura.url),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "AURA_TOKEN": token()},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"y\n" * 100)
        process.stdin.close()
        shown = b""
        async with asyncio.timeout(30):
            while b"/reject" not in shown:
                shown += await process.stdout.readline()
            assert mail.messages == []
            request_id = shown.decode().rpartition("/aura/approvals/")[2].partition("/")[0]
            assert (await aura.decide("reject", request_id)).status_code == 200
            await process.communicate()
    assert (process.returncode, mail.messages) == (1, [])


async def test_lost_connection_keeps_the_question_open(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    async with (
        running(mailing) as aura,
        CuttingProxy(aura.url) as proxy,
        start_ask(proxy.url, PROMPT, *ME, in_terminal=True) as command,
    ):
        screen = Screen(command)
        await screen.wait_for(QUESTION)
        proxy.break_all()
        await screen.wait_for("… connected again")
        await screen.wait_for(QUESTION)
        await expect_undecided(aura, screen, mail)
        assert await command.wait_for_exit() == 1


async def test_decision_elsewhere_closes_the_question(
    mailing: Settings, model: ScriptedModelServer, start_ask: StartAsk
) -> None:
    model.play(mail_call(), ScriptedTurn(text="보냈습니다."))
    async with asked(mailing, start_ask) as (aura, screen):
        assert (await aura.decide("approve", screen.request_id)).status_code == 200
        assert await screen.command.wait_for_exit() == 0
    assert "decided elsewhere" in screen.command.output


async def test_deadline_closes_the_question(
    settings: MakeSettings, model: ScriptedModelServer, mail: SmtpSink, start_ask: StartAsk
) -> None:
    model.play(mail_call())
    short = settings(
        smtp_host=mail.host,
        smtp_port=mail.port,
        smtp_tls="none",
        smtp_from="aura@example.com",
        hitl_timeout_seconds=1.5,
    )
    async with running(short) as aura, start_ask(aura.url, PROMPT, *ME, in_terminal=True) as command:
        assert await command.wait_for_exit() == 1
    assert "no decision in time" in command.output
    assert "timed_out" in command.output
