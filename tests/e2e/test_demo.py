"""`aura demo` as a newcomer runs it: a process of its own, nothing prepared, nothing left behind."""

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
# What a machine's environment may hold must not lead the demo to real services, nor stop it.
HOSTILE = {
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
        return Command(fork_server, {**HOSTILE, **environment}, "demo", *arguments, in_terminal=in_terminal)

    return make


def closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def ports(output: str) -> list[int]:
    """Everything that the demo said it listens on."""
    found = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", output)]
    assert len(set(found)) >= 4, output
    return found


def left_nothing_behind(output: str) -> None:
    assert "Traceback" not in output
    assert all(map(closed, ports(output)))


@pytest.mark.parametrize(
    ("prompt", "more", "said"),
    [
        (
            "GitHub PR을 생성해주세요",
            ("--approve",),
            ["⚠ GitHub PR을 생성하시겠습니까?", "✔ approved", "the GitHub stand-in created pull request #43"],
        ),
        (
            "현재 화면에서 선택한 항목들을 분석해주세요",
            ("--context", json.dumps(SCREEN)),
            ["총 **2개**", "11, msg-7", "화면: mail"],
        ),
        ("오늘 점심은 뭐 먹을까요?", (), ["오늘 점심은 뭐 먹을까요?", "미리 작성된 대본"]),
    ],
)
async def test_prompt_runs_to_its_end(demo: Demo, prompt: str, more: tuple[str, ...], said: list[str]) -> None:
    async with demo("--prompt", prompt, *more) as command:
        assert await command.wait_for_exit() == 0, command.output
    assert f"▶ {prompt}" in command.output
    for words in (*said, "scripted", "● planning", "● content → done", "✔ completed"):
        assert words in command.output
    left_nothing_behind(command.output)


async def test_the_command_itself() -> None:
    """Not forked: `python -m app demo`, as a newcomer's shell starts it; nothing on stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "demo", "--prompt", "메일을 보내주세요", "--approve"),
        cwd=ROOT,
        env={**os.environ, **HOSTILE},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    for words in (
        "⚠ 이메일을 발송하시겠습니까?",
        "✔ approved",
        "✉ the mail sink received",
        "│ To       team@example.com",
    ):
        assert words in output.decode()


async def test_rejected_prompt_is_code_1_and_does_nothing(demo: Demo) -> None:
    async with demo("--prompt", "메일을 보내주세요", "--reject", "--reason", "수신자 오류") as command:
        assert await command.wait_for_exit() == 1
    assert "✗ RejectionError: 수신자 오류" in command.output
    assert "the mail sink received" not in command.output


async def test_real_model_is_used_where_its_key_is_set(demo: Demo) -> None:
    """The address is one where nobody is: the run ends with the model's error, which shows who was asked."""
    real = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    async with demo("--prompt", "안녕하세요", **real) as command:
        assert await command.wait_for_exit() == 1
    assert "real      the model: gpt-4o-mini" in command.output
    assert "ModelError" in command.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--approve",), "--approve and --reject need --prompt"),
        (("--prompt", "x", "--reason", "y"), "--reason needs --reject"),
    ],
)
async def test_usage_is_refused(demo: Demo, arguments: tuple[str, ...], said: str) -> None:
    async with demo(*arguments) as command:
        assert await command.wait_for_exit() == 2
    assert said in command.output


async def test_bad_setting_is_one_line(demo: Demo) -> None:
    async with demo("--prompt", "안녕하세요", AURA_MAX_TURNS="many") as command:
        assert await command.wait_for_exit() == 2
    assert command.output.count("\n") == 1
    assert "AURA_MAX_TURNS" in command.output


async def test_port_that_is_taken_is_one_line(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with demo("--port", str(port)) as command:
            assert await command.wait_for_exit() == 2
    (line,) = command.output.splitlines()
    assert f"port {port}" in line
    assert "--port" in line


class Serving:
    """A demo that serves: what a reader of its first lines knows."""

    def __init__(self, command: Command, port: int) -> None:
        self.output = command.output
        self.url = f"http://127.0.0.1:{port}"

    @property
    def headers(self) -> dict[str, str]:
        token = self.output.partition("export TOKEN=")[2].split()[0]
        return {"Authorization": f"Bearer {token}", "X-Tenant-ID": "tenant1", "X-User-ID": "demo"}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_service_stops_and_leaves_nothing_behind(demo: Demo, how: signal.Signals) -> None:
    port = free_port()
    async with demo("--port", str(port)) as command, httpx2.AsyncClient(timeout=30) as client:
        await command.wait_for_output("지금 몇 시예요?")
        served = Serving(command, port)
        assert (await client.get(f"{served.url}/ready")).status_code == 200
        asked = {"prompt": "안녕하세요"}
        answer = await client.post(f"{served.url}/aura/test/stream", json=asked, headers=served.headers)
        assert answer.text.endswith("data: [DONE]\n\n")
        command.signal(how)
        assert await command.wait_for_exit() == 0
        left_nothing_behind(command.output)


async def test_lines_to_paste_work(demo: Demo, tmp_path: Path) -> None:
    """As they are printed, but for `redis-cli`, which need not be installed: what it would send is sent by hand."""
    port = free_port()
    async with demo("--port", str(port)) as command:
        await command.wait_for_output("지금 몇 시예요?")
        pasted, _, telling = command.output.partition("# 1. ")[2].partition("# or all of it")[0].partition("# 6. ")
        redis_port = int(pasted.partition("redis-cli -p ")[2].split()[0])
        published = re.search(r"^redis-cli.*\n.*$", pasted, flags=re.MULTILINE)
        assert published is not None
        until_asked = "until grep -q hitl run.sse; do sleep 0.05; done;"
        script = pasted.replace(published[0], "").replace("sleep 3;", until_asked)
        by_http = re.search(r"^aura_curl .*/approve/.*$", script, flags=re.MULTILINE)
        assert by_http is not None
        first = await shell(f"# {script}\nwait", tmp_path)
        assert '"status":"approved"' in first
        resumed = first.rpartition('"success":true')[2]
        assert '"type":"start"' not in resumed
        assert resumed.endswith("data: [DONE]\n\n")

        publish = (
            r"""printf '*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n' ${#1} "$1" ${#2} "$2" >&3; head -c4 <&3"""
        )
        by_hand = f"aura_publish() {{ exec 3<>/dev/tcp/127.0.0.1/{redis_port}; {publish}; }}\n"
        # Its second run would be looked for in what is left of the first, until the background shell empties the file.
        (tmp_path / "run.sse").unlink()
        line = re.sub(r"redis-cli -p \d+ PUBLISH", "aura_publish", published[0])
        decided_there = script.replace(by_http[0], by_hand + line)
        second = await shell(f"# {decided_there}\nwait", tmp_path)
        assert ":1\r\n" in second
        assert second.endswith("data: [DONE]\n\n")

        who = pasted.partition("# 2. ")[0]
        told = re.sub(r"redis-cli -p \d+ PUBLISH", "LC_ALL=C aura_publish", telling)  # its lengths are bytes
        third = await shell(f"# {who}\n{by_hand}\n# {told}", tmp_path)
        assert ":1\r\n" in third
        assert '"sources":[{"id":"e1","type":"mail.received","title":"사무실 이전 안내"' in third


async def shell(script: str, folder: Path) -> str:
    """What a script that succeeds prints."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_prompt_that_is_stopped_leaves_nothing_behind(demo: Demo, how: signal.Signals, code: int) -> None:
    async with demo("--prompt", "메일을 보내주세요") as command:
        await command.wait_for_output("waiting for a decision")
        command.signal(how)
        assert await command.wait_for_exit() == code
    left_nothing_behind(command.output)


async def test_person_at_the_terminal_is_asked(demo: Demo) -> None:
    async with demo("--prompt", "메일을 보내주세요", in_terminal=True) as command:
        await command.wait_for_output("s left)")
        command.type("y")
        assert await command.wait_for_exit() == 0, command.output
    assert "✔ approved" in command.output
