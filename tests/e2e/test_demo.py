"""`aura demo` as a separate process, without any preparation; no process and no port is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.harness.fork_server import ROOT, ForkServer
from tests.harness.process import Command, free_port

SCREEN = {"activeApp": "mail", "path": "/mail", "selectedItemIds": [11, "msg-7"]}
# Settings in the environment must neither connect the demo to real services nor stop it.
UNUSABLE_SETTINGS = {
    "REDIS_PORT": "tcp://10.0.0.1:6379",
    "SMTP_HOST": "mail.example.invalid",
    "SMTP_PORT": "none",
    "GITHUB_API_URL": "https://api.example.invalid",
    "GITHUB_TOKEN": "a-real-token-of-somebody",
}
Demo = Callable[..., Command]


@pytest.fixture
def demo(fork_server: ForkServer) -> Demo:
    def make(*arguments: str, in_terminal: bool = False, **environment: str) -> Command:
        return Command(fork_server, {**UNUSABLE_SETTINGS, **environment}, "demo", *arguments, in_terminal=in_terminal)

    return make


def is_closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def ports(output: str) -> list[int]:
    """The ports on which the demo listens, by its output."""
    found = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", output)]
    assert len(set(found)) >= 4, output
    return found


def expect_nothing_left(output: str) -> None:
    assert "Traceback" not in output
    assert all(map(is_closed, ports(output)))


@pytest.mark.parametrize(
    ("prompt", "options", "expected"),
    [
        (
            "GitHub PR을 생성해주세요",
            ("--approve",),
            ["⚠ GitHub PR을 생성하시겠습니까?", "✔ approved", "the GitHub stand-in created pull request #43"],
        ),
        pytest.param(
            "현재 화면에서 선택한 항목들을 분석해주세요",
            ("--context", json.dumps(SCREEN)),
            ["총 **2개**", "11, msg-7", "화면: mail"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "오늘 점심은 뭐 먹을까요?",
            (),
            ["오늘 점심은 뭐 먹을까요?", "미리 작성된 대본"],
            marks=pytest.mark.slow,
        ),
    ],
)
async def test_prompt_is_executed_to_its_end(
    demo: Demo, prompt: str, options: tuple[str, ...], expected: list[str]
) -> None:
    async with demo("--prompt", prompt, *options) as command:
        assert await command.wait_for_exit() == 0, command.output
    assert f"▶ {prompt}" in command.output
    for text in (*expected, "scripted", "● planning", "● content → done", "✔ completed"):
        assert text in command.output
    expect_nothing_left(command.output)


@pytest.mark.slow
async def test_command_runs_without_the_fork_server() -> None:
    """`python -m app demo`, as a shell starts it; nothing is printed to stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "demo", "--prompt", "메일을 보내주세요", "--approve"),
        cwd=ROOT,
        env={**os.environ, **UNUSABLE_SETTINGS},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    for text in (
        "⚠ 이메일을 발송하시겠습니까?",
        "✔ approved",
        "✉ the mail sink received",
        "│ To       team@example.com",
    ):
        assert text in output.decode()


async def test_rejected_prompt_exits_with_1_and_sends_nothing(demo: Demo) -> None:
    async with demo("--prompt", "메일을 보내주세요", "--reject", "--reason", "수신자 오류") as command:
        assert await command.wait_for_exit() == 1
    assert "✗ RejectionError: 수신자 오류" in command.output
    assert "the mail sink received" not in command.output


@pytest.mark.slow
async def test_openai_api_key_selects_the_real_model(demo: Demo) -> None:
    """No server listens at the address: the run ends with the model's error, which shows that it was requested."""
    real = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    async with demo("--prompt", "안녕하세요", **real) as command:
        assert await command.wait_for_exit() == 1
    assert "real      the model: gpt-4o-mini" in command.output
    assert "ModelError" in command.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--approve",), "--approve and --reject need --prompt"),
        (("--prompt", "x", "--reason", "y"), "--reason needs --reject"),
        (("--prompt", "x", "--reject", "--approve"), "--approve and --reject contradict each other"),
    ],
)
async def test_invalid_options_exit_with_2(demo: Demo, arguments: tuple[str, ...], expected: str) -> None:
    async with demo(*arguments) as command:
        assert await command.wait_for_exit() == 2
    assert expected in command.output


async def test_invalid_setting_is_reported_in_one_line(demo: Demo) -> None:
    async with demo("--prompt", "안녕하세요", AURA_MAX_TURNS="many") as command:
        assert await command.wait_for_exit() == 2
    assert command.output.count("\n") == 1
    assert "AURA_MAX_TURNS" in command.output


async def test_port_in_use_is_reported_in_one_line(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with demo("--port", str(port)) as command:
            assert await command.wait_for_exit() == 2
    (line,) = command.output.splitlines()
    assert f"port {port}" in line
    assert "--port" in line


class ServingDemo:
    """The address and the token that a serving demo has printed."""

    def __init__(self, command: Command, port: int) -> None:
        self.output = command.output
        self.url = f"http://127.0.0.1:{port}"

    @property
    def headers(self) -> dict[str, str]:
        token = self.output.partition("export TOKEN=")[2].split()[0]
        return {"Authorization": f"Bearer {token}", "X-Tenant-ID": "tenant1", "X-User-ID": "demo"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_stops_the_service_and_all_its_processes(demo: Demo, number: signal.Signals) -> None:
    port = free_port()
    async with demo("--port", str(port)) as command, httpx2.AsyncClient(timeout=30) as client:
        await command.wait_for_output("지금 몇 시예요?")
        served = ServingDemo(command, port)
        assert (await client.get(f"{served.url}/ready")).status_code == 200
        body = {"prompt": "안녕하세요"}
        response = await client.post(f"{served.url}/aura/test/stream", json=body, headers=served.headers)
        assert response.text.endswith("data: [DONE]\n\n")
        command.signal(number)
        assert await command.wait_for_exit() == 0
        expect_nothing_left(command.output)


@pytest.mark.slow
async def test_printed_commands_work_when_pasted(demo: Demo, tmp_path: Path) -> None:
    """The commands run as printed, except `redis-cli`, which may not be installed: bash sends its command."""
    port = free_port()
    async with demo("--port", str(port)) as command:
        await command.wait_for_output("지금 몇 시예요?")
        commands, _, event_commands = (
            command.output.partition("# 1. ")[2].partition("# or all of it")[0].partition("# 6. ")
        )
        redis_port = int(commands.partition("redis-cli -p ")[2].split()[0])
        published = re.search(r"^redis-cli.*\n.*$", commands, flags=re.MULTILINE)
        assert published is not None
        wait_for_hitl = "until grep -q hitl run.sse; do sleep 0.05; done;"
        script = commands.replace(published[0], "").replace("sleep 3;", wait_for_hitl)
        by_http = re.search(r"^aura_curl .*/approve/.*$", script, flags=re.MULTILINE)
        assert by_http is not None
        first = await run_script(f"# {script}\nwait", tmp_path)
        assert '"status":"approved"' in first
        resumed = first.rpartition('"success":true')[2]
        assert '"type":"start"' not in resumed
        assert resumed.endswith("data: [DONE]\n\n")

        publish = (
            r"""printf '*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n' ${#1} "$1" ${#2} "$2" >&3; head -c4 <&3"""
        )
        define_publish = f"aura_publish() {{ exec 3<>/dev/tcp/127.0.0.1/{redis_port}; {publish}; }}\n"
        # Without the removal, the second script could find the first run before the background shell empties the file.
        (tmp_path / "run.sse").unlink()
        line = re.sub(r"redis-cli -p \d+ PUBLISH", "aura_publish", published[0])
        script_with_publish = script.replace(by_http[0], define_publish + line)
        second = await run_script(f"# {script_with_publish}\nwait", tmp_path)
        assert ":1\r\n" in second
        assert second.endswith("data: [DONE]\n\n")

        token_commands = commands.partition("# 2. ")[0]
        publish_event = re.sub(r"redis-cli -p \d+ PUBLISH", "LC_ALL=C aura_publish", event_commands)  # lengths in bytes
        third = await run_script(f"# {token_commands}\n{define_publish}\n# {publish_event}", tmp_path)
        assert ":1\r\n" in third
        assert '"sources":[{"id":"e1","type":"mail.received","title":"사무실 이전 안내"' in third


async def run_script(script: str, folder: Path) -> str:
    """Run a bash script, which must succeed; returns its output."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_signal_during_a_prompt_stops_all_processes(demo: Demo, number: signal.Signals, code: int) -> None:
    async with demo("--prompt", "메일을 보내주세요") as command:
        await command.wait_for_output("waiting for a decision")
        command.signal(number)
        assert await command.wait_for_exit() == code
    expect_nothing_left(command.output)


@pytest.mark.slow
async def test_approval_is_asked_at_the_terminal(demo: Demo) -> None:
    async with demo("--prompt", "메일을 보내주세요", in_terminal=True) as command:
        await command.wait_for_output("s left)")
        command.type("y")
        assert await command.wait_for_exit() == 0, command.output
    assert "✔ approved" in command.output
