"""`aura ask`: the printed run, decisions at the terminal, and invalid usage."""

from __future__ import annotations

import json
import signal

import pytest

from app.client.events import Hitl
from app.client.frames import ReceivedEvent
from app.dev.ask.view import json_line, strip_control_characters
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from app.settings import Settings
from tests.harness.clients import ANSWER, ME, MakeSettings, StartAsk, client, mail_call
from tests.harness.proxy import ConnectionFaults, CuttingProxy
from tests.harness.service import running


async def test_model_text_is_not_interpreted_as_markup(
    settings: MakeSettings, model: ScriptedModelServer, start_ask: StartAsk
) -> None:
    expected = "[bold red]빨강[/] :smile: \x1b[31m\x1b]0;title\x07 [/nonsense]"
    model.play(ScriptedTurn(reasoning="[link=http://x]생각[/]\x1b[2J", text=expected))
    async with running(settings()) as aura, start_ask(aura.url, "안녕하세요 [/x]", *ME) as command:
        assert await command.wait_for_exit() == 0
    assert "▶ 안녕하세요 [/x]" in command.output
    assert "[bold red]빨강[/] :smile: [31m]0;title [/nonsense]" in command.output
    assert "✻ [link=http://x]생각[/][2J" in command.output
    assert "\x1b" not in command.output
    assert "● planning → content" in command.output
    assert "✔ completed" in command.output


@pytest.mark.parametrize(
    ("flag", "code", "expected"), [("--approve", 0, "✔ approved"), ("--reject", 1, "RejectionError")]
)
async def test_command_line_option_decides_the_approval(
    mailing: Settings,
    model: ScriptedModelServer,
    mail: SmtpSink,
    flag: str,
    code: int,
    expected: str,
    start_ask: StartAsk,
) -> None:
    model.play(mail_call())
    if code == 0:
        model.play(ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura, start_ask(aura.url, "메일을 보내주세요", flag, *ME) as command:
        assert await command.wait_for_exit() == code
    assert expected in command.output
    assert "│          둘째 줄" in command.output
    assert len(mail.messages) == 1 - code


async def test_reason_reaches_the_service(mailing: Settings, model: ScriptedModelServer, start_ask: StartAsk) -> None:
    model.play(mail_call())
    arguments = ("메일을 보내주세요", "--reject", "--reason", "수신자 오류", *ME)
    async with running(mailing) as aura, start_ask(aura.url, *arguments) as command:
        assert await command.wait_for_exit() == 1
    assert "✗ RejectionError: 수신자 오류" in command.output


async def test_commands_that_decide_are_printed_without_a_terminal(
    mailing: Settings, model: ScriptedModelServer, start_ask: StartAsk
) -> None:
    model.play(mail_call(), ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura, start_ask(aura.url, "메일을 보내주세요", *ME) as command:
        await command.wait_for_output("/reject")
        request_id = command.output.rpartition("/aura/approvals/")[2].partition("/")[0]
        assert "argumentsDigest" in command.output
        assert 'curl -X POST -H "Authorization: Bearer $TOKEN"' in command.output
        assert (await aura.decide("approve", request_id)).status_code == 200
        assert await command.wait_for_exit() == 0


async def test_json_option_prints_one_event_per_line(
    settings: MakeSettings, model: ScriptedModelServer, start_ask: StartAsk
) -> None:
    model.play(ScriptedTurn(text="답"))
    async with running(settings()) as aura, start_ask(aura.url, "안녕하세요", "--json", *ME) as command:
        assert await command.wait_for_exit() == 0
    lines = [json.loads(line) for line in command.output.splitlines()]
    assert lines[0]["type"] == "start"
    assert lines[-1]["status"] == "completed"
    assert all(isinstance(line["eventId"], int) for line in lines)


async def test_run_can_be_attached_after_ctrl_c(
    mailing: Settings, model: ScriptedModelServer, start_ask: StartAsk
) -> None:
    model.play(mail_call(), ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura:
        async with start_ask(aura.url, "메일을 보내주세요", *ME) as command:
            await command.wait_for_output("waiting for a decision")
            command.signal(signal.SIGINT)
            assert await command.wait_for_exit() == 130
        session_id = command.output.rpartition("--attach ")[2].split()[0]
        assert "Traceback" not in command.output
        async with start_ask(aura.url, "--attach", session_id, "--approve", *ME) as again:
            assert await again.wait_for_exit() == 0
    assert "● planning" in again.output
    assert "보냈습니다." in again.output


async def test_broken_connection_is_reported_and_resumed(
    settings: MakeSettings, model: ScriptedModelServer, start_ask: StartAsk
) -> None:
    model.play(ScriptedTurn(text=ANSWER))
    async with (
        running(settings()) as aura,
        CuttingProxy(aura.url, [ConnectionFaults(cut_after=1500)]) as proxy,
        start_ask(proxy.url, "안녕하세요", *ME) as command,
    ):
        assert await command.wait_for_exit() == 0
    assert "… connection lost" in command.output
    assert "… connected again" in command.output
    assert [line.split()[0] for line in proxy.requests] == ["POST", "GET"]


# --- invalid usage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "give a PROMPT"),
        (("안녕", "--attach", "s", *ME), "give a PROMPT"),
        (("안녕",), "no user is given"),
        (("안녕", "--token", "abc"), "not a JWT"),
        (("안녕", "--reason", "x", *ME), "--reason needs --reject"),
        (("안녕", "--approve", "--reason", "x", *ME), "--reason needs --reject"),
        (("안녕", "--approve", "--reject", *ME), "--approve and --reject contradict each other"),
        (("안녕", "--reject", "--approve", *ME), "--approve and --reject contradict each other"),
        (("--attach", "s", "--context", '{"a": 1}', *ME), "--context needs a PROMPT"),
        (("안녕", "--context", "[1]", *ME), "a JSON object is required"),
        (("안녕", "--context", "{", *ME), "it is not JSON"),
        (("안녕", "--context", "@/no/such", *ME), "No such file"),
        (("안녕", *ME), "cannot connect to http://127.0.0.1:9"),
    ],
)
async def test_invalid_usage_is_reported_in_one_line(
    arguments: tuple[str, ...], expected: str, start_ask: StartAsk
) -> None:
    async with start_ask("http://127.0.0.1:9", *arguments) as command:
        assert await command.wait_for_exit() == 2
    assert expected in command.output
    assert "Traceback" not in command.output


async def test_refused_request_exits_with_2(settings: MakeSettings, start_ask: StartAsk) -> None:
    async with running(settings()) as aura, start_ask(aura.url, " ", *ME) as command:
        assert await command.wait_for_exit() == 2
    assert "E4000" in command.output


async def test_second_decision_returns_the_first(mailing: Settings, model: ScriptedModelServer) -> None:
    model.play(mail_call(), ScriptedTurn(text="보냈습니다."))
    async with running(mailing) as aura, client(aura.url) as aura_client:
        async for item in aura_client.run("메일을 보내주세요").items():
            if isinstance(item, ReceivedEvent) and isinstance(item.event, Hitl):
                first = await aura_client.approve(item.event.request_id, item.event.arguments_digest)
                second = await aura_client.reject(item.event.request_id, "늦음")
    assert (first.status, first.accepted) == ("approved", True)
    assert (second.status, second.accepted) == ("approved", False)


def test_control_characters_are_removed() -> None:
    assert strip_control_characters("a\x1b[31mb\x07\r\n\tc\x9b\u202ed") == "a[31mb\n\tcd"
    assert json_line({"a": "\x1b\u202e"}) == '{"a": "\\u001b\\u202e"}'
