"""`aura ask`: how a run is shown, how a person decides at the terminal, what the command refuses."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.client.frames import ReceivedEvent
from app.dev.ask.view import json_line, plain
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from app.settings import Settings
from statemachine.events import Hitl
from tests.harness.clients import (
    ANSWER,
    MakeSettings,
    client,
    mail_call,
)
from tests.harness.nursery import Nursery
from tests.harness.process import Command
from tests.harness.proxy import CuttingProxy, Link
from tests.harness.service import SECRET, running

Asking = Callable[..., Command]


@pytest.fixture
def asking(nursery: Nursery) -> Asking:
    """`aura ask` as a process, in a terminal of its own or with nobody there."""

    def ask(url: str, *arguments: str, in_terminal: bool = False, **environment: str) -> Command:
        environment = {"JWT_SECRET": SECRET, **environment}
        return Command(nursery, environment, "ask", *arguments, "--url", url, in_terminal=in_terminal)

    return ask


ME = ("--user", "user1", "--tenant", "tenant1")


async def test_run_is_shown_and_markup_of_the_model_is_not_obeyed(
    settings: MakeSettings, model: ScriptedModelServer, asking: Asking
) -> None:
    said = "[bold red]빨강[/] :smile: \x1b[31m\x1b]0;title\x07 [/nonsense]"
    model.play(ScriptedTurn(reasoning="[link=http://x]생각[/]\x1b[2J", text=said))
    async with running(settings()) as aura, asking(aura.url, "안녕하세요 [/x]", *ME) as command:
        assert await command.ended() == 0
    assert "▶ 안녕하세요 [/x]" in command.output
    assert "[bold red]빨강[/] :smile: [31m]0;title [/nonsense]" in command.output
    assert "✻ [link=http://x]생각[/][2J" in command.output
    assert "\x1b" not in command.output
    assert "● planning → content" in command.output
    assert "✔ completed" in command.output


@pytest.mark.parametrize(("flag", "code", "said"), [("--approve", 0, "✔ approved"), ("--reject", 1, "RejectionError")])
async def test_decision_of_the_command_line(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, flag: str, code: int, said: str, asking: Asking
) -> None:
    model.play(mail_call())
    if code == 0:
        model.play(ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura, asking(aura.url, "메일을 보내주세요", flag, *ME) as command:
        assert await command.ended() == code
    assert said in command.output
    assert "│          둘째 줄" in command.output
    assert len(mail.messages) == 1 - code


async def test_reason_is_told(mailing: Settings, model: ScriptedModelServer, asking: Asking) -> None:
    model.play(mail_call())
    arguments = ("메일을 보내주세요", "--reject", "--reason", "수신자 오류", *ME)
    async with running(mailing) as aura, asking(aura.url, *arguments) as command:
        assert await command.ended() == 1
    assert "✗ RejectionError: 수신자 오류" in command.output


async def test_without_a_terminal_it_says_how_to_decide_and_waits(
    mailing: Settings, model: ScriptedModelServer, asking: Asking
) -> None:
    model.play(mail_call(), ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura, asking(aura.url, "메일을 보내주세요", *ME) as command:
        await command.until("/aura/hitl/reject/req-")
        request_id = command.output.rpartition("/aura/hitl/reject/")[2].split()[0]
        assert 'curl -X POST -H "Authorization: Bearer $TOKEN"' in command.output
        assert (await aura.decide("approve", request_id)).status_code == 200
        assert await command.ended() == 0


async def test_json_lines_are_the_events(settings: MakeSettings, model: ScriptedModelServer, asking: Asking) -> None:
    model.play(ScriptedTurn(text="답"))
    async with running(settings()) as aura, asking(aura.url, "안녕하세요", "--json", *ME) as command:
        assert await command.ended() == 0
    lines = [json.loads(line) for line in command.output.splitlines()]
    assert lines[0]["type"] == "start"
    assert lines[-1]["status"] == "completed"
    assert all(isinstance(line["eventId"], int) for line in lines)


async def test_ctrl_c_leaves_a_run_that_can_be_attached_to(
    mailing: Settings, model: ScriptedModelServer, asking: Asking
) -> None:
    model.play(mail_call(), ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura:
        async with asking(aura.url, "메일을 보내주세요", *ME) as command:
            await command.until("waiting for a decision")
            command.signal(signal.SIGINT)
            assert await command.ended() == 130
        session_id = command.output.rpartition("--attach ")[2].split()[0]
        assert "Traceback" not in command.output
        async with asking(aura.url, "--attach", session_id, "--approve", *ME) as again:
            assert await again.ended() == 0
    assert "● planning" in again.output
    assert "보냈습니다." in again.output


async def test_broken_connection_is_told_and_mended(
    settings: MakeSettings, model: ScriptedModelServer, asking: Asking
) -> None:
    model.play(ScriptedTurn(text=ANSWER))
    async with (
        running(settings()) as aura,
        CuttingProxy(aura.url, [Link(cut_after=1500)]) as proxy,
        asking(proxy.url, "안녕하세요", *ME) as command,
    ):
        assert await command.ended() == 0
    assert "… connection lost" in command.output
    assert "… connected again" in command.output
    assert [line.split()[0] for line in proxy.requests] == ["POST", "GET"]


# --- a person at a terminal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "code"), [("y", 0), ("ㅛ", 0), ("n", 1)])
async def test_person_decides_with_a_key(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, key: str, code: int, asking: Asking
) -> None:
    model.play(mail_call())
    if code == 0:
        model.play(ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura, asking(aura.url, "메일을 보내주세요", *ME, in_terminal=True) as command:
        await command.until("approve? [y]es [n]o [e]dit")
        await command.until("s left)")
        command.type("x" + key)
        assert await command.ended() == code
    assert len(mail.messages) == 1 - code


async def test_person_edits_the_arguments(
    mailing: Settings, model: ScriptedModelServer, mail: SmtpSink, tmp_path: Path, asking: Asking
) -> None:
    """First no JSON, then arguments that do not fit, then good ones: each time asked again."""
    editor = tmp_path / "editor"
    editor.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "count = pathlib.Path(__file__ + '.count')\n"
        "turn = int(count.read_text()) if count.exists() else 0\n"
        "count.write_text(str(turn + 1))\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "value = json.loads(file.read_text())\n"
        "value['to'] = ['nobody', 'boss@example.com'][turn == 2:]\n"
        "file.write_text('{' if turn == 0 else json.dumps(value))\n"
    )
    editor.chmod(0o755)
    model.play(mail_call(), ScriptedTurn(text="보냈습니다."))
    async with (
        running(mailing) as aura,
        asking(aura.url, "메일을 보내주세요", *ME, in_terminal=True, EDITOR=str(editor), VISUAL=str(editor)) as command,
    ):
        asked = "\x1b[Kapprove?"
        await command.until(asked)
        command.type("e")
        await command.until("that is not JSON")
        seen = command.output.count(asked)
        await command.until(asked, times=seen + 1)
        command.type("e")
        await command.until("E4000")
        seen = command.output.count(asked)
        await command.until(asked, times=seen + 1)
        command.type("e")
        assert await command.ended() == 0
    assert [message.recipients for message in mail.messages] == [("boss@example.com",)]
    assert "boss@example.com" in command.output


async def test_decision_elsewhere_ends_the_question(
    mailing: Settings, model: ScriptedModelServer, asking: Asking
) -> None:
    model.play(mail_call(), ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura, asking(aura.url, "메일을 보내주세요", *ME, in_terminal=True) as command:
        await command.until("approve?")
        assert (await aura.decide("approve", request_of(command))).status_code == 200
        assert await command.ended() == 0
    assert "decided elsewhere" in command.output


async def test_time_that_is_up_ends_the_question(
    settings: MakeSettings, model: ScriptedModelServer, mail: SmtpSink, asking: Asking
) -> None:
    model.play(mail_call())
    short = settings(
        smtp_host=mail.host,
        smtp_port=mail.port,
        smtp_tls="none",
        smtp_from="aura@example.com",
        hitl_timeout_seconds=1.5,
    )
    async with running(short) as aura, asking(aura.url, "메일을 보내주세요", *ME, in_terminal=True) as command:
        assert await command.ended() == 1
    assert "no decision in time" in command.output
    assert "timed_out" in command.output


def request_of(command: Command) -> str:
    return "req-" + command.output.partition("req-")[2][:12]


# --- what the command refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a PROMPT"),
        (("안녕", "--attach", "s", *ME), "give a PROMPT"),
        (("안녕",), "say who asks"),
        (("안녕", "--token", "abc"), "not a JWT"),
        (("안녕", "--reason", "x", *ME), "--reason goes with --reject"),
        (("안녕", "--context", "[1]", *ME), "a JSON object is required"),
        (("안녕", "--context", "{", *ME), "it is not JSON"),
        (("안녕", "--context", "@/no/such", *ME), "No such file"),
        (("안녕", *ME), "cannot connect to http://127.0.0.1:9"),
    ],
)
async def test_usage_is_refused_in_one_line(arguments: tuple[str, ...], said: str, asking: Asking) -> None:
    async with asking("http://127.0.0.1:9", *arguments) as command:
        assert await command.ended() == 2
    assert said in command.output
    assert "Traceback" not in command.output


async def test_refused_request_is_code_2(settings: MakeSettings, asking: Asking) -> None:
    async with running(settings()) as aura, asking(aura.url, " ", *ME) as command:
        assert await command.ended() == 2
    assert "E4000" in command.output


async def test_client_decides_once(mailing: Settings, model: ScriptedModelServer) -> None:
    model.play(mail_call(), ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura, client(aura.url) as asks:
        async for item in asks.run("메일을 보내주세요").items():
            if isinstance(item, ReceivedEvent) and isinstance(item.event, Hitl):
                first = await asks.approve(item.event.request_id)
                second = await asks.reject(item.event.request_id, "늦음")
    assert (first.status, first.accepted) == ("approved", True)
    assert (second.status, second.accepted) == ("approved", False)


def test_controls_never_reach_the_terminal() -> None:
    assert plain("a\x1b[31mb\x07\r\n\tc\x9b\u202ed") == "a[31mb\n\tcd"
    assert json_line({"a": "\x1b\u202e"}) == '{"a": "\\u001b\\u202e"}'
