"""`aura demo` as a newcomer runs it: a process of its own, nothing prepared, nothing left behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parents[2]
SCREEN = {"activeApp": "mail", "path": "/mail", "selectedItemIds": [11, "msg-7"]}
# What a machine's environment may hold must not lead the demo to real services, nor stop it.
HOSTILE = {
    "REDIS_PORT": "tcp://10.0.0.1:6379",
    "SMTP_HOST": "mail.example.invalid",
    "SMTP_PORT": "none",
    "GITHUB_API_URL": "https://api.example.invalid",
    "GITHUB_TOKEN": "a-real-token-of-somebody",
}


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "AURA_", "JWT_"))}
    return {**kept, **HOSTILE, **more}


def demo(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", "demo", *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in result.stdout + result.stderr
    return result


def closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def ports(output: str) -> list[int]:
    """Everything that the demo said it listens on."""
    found = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", output)]
    assert len(set(found)) >= 4, output
    return found


@pytest.mark.parametrize(
    ("prompt", "more", "said"),
    [
        ("안녕하세요", (), ["디지털 워크플레이스의 업무 도우미 **Aura**"]),
        ("GitHub PR을 분석해주세요", (), ["1. PR 정보 조회", "⚙ github_get_pr  completed", "## PR #42 분석 결과"]),
        (
            "GitHub PR을 생성해주세요",
            ("--approve",),
            ["⚠ GitHub PR을 생성하시겠습니까?", "✔ approved", "the GitHub stand-in created pull request #43"],
        ),
        (
            "메일을 보내주세요",
            ("--approve",),
            ["⚠ 이메일을 발송하시겠습니까?", "✔ approved", "✉ the mail sink received", "│ To       team@example.com"],
        ),
        (
            "현재 화면에서 선택한 항목들을 분석해주세요",
            ("--context", json.dumps(SCREEN)),
            ["총 **2개**", "11, msg-7", "화면: mail"],
        ),
        ("오늘 점심은 뭐 먹을까요?", (), ["오늘 점심은 뭐 먹을까요?", "미리 작성된 대본"]),
    ],
)
def test_prompt_runs_to_its_end(prompt: str, more: tuple[str, ...], said: list[str]) -> None:
    result = demo("--prompt", prompt, *more)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert f"▶ {prompt}" in result.stdout
    for words in (*said, "scripted", "● planning", "● content → done", "✔ completed"):
        assert words in result.stdout
    assert all(map(closed, ports(result.stdout)))


def test_rejected_prompt_is_code_1_and_does_nothing() -> None:
    result = demo("--prompt", "메일을 보내주세요", "--reject", "--reason", "수신자 오류")
    assert result.returncode == 1
    assert "✗ RejectionError: 수신자 오류" in result.stdout
    assert "the mail sink received" not in result.stdout


def test_real_model_is_used_where_its_key_is_set() -> None:
    """The address is one where nobody is: the run ends with the model's error, which shows who was asked."""
    result = demo(
        "--prompt", "안녕하세요", OPENAI_API_KEY="sk-test-0123456789", OPENAI_BASE_URL="http://127.0.0.1:9/v1"
    )
    assert result.returncode == 1
    assert "real      the model: gpt-4o-mini" in result.stdout
    assert "ModelError" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--approve",), "--approve and --reject go with --prompt"),
        (("--prompt", "x", "--reason", "y"), "--reason goes with --reject"),
    ],
)
def test_usage_is_refused(arguments: tuple[str, ...], said: str) -> None:
    result = demo(*arguments)
    assert result.returncode == 2
    assert said in result.stderr


def test_bad_setting_is_one_line() -> None:
    result = demo("--prompt", "안녕하세요", AURA_MAX_TURNS="many")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "AURA_MAX_TURNS" in result.stderr


def test_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = demo("--port", str(port))
    assert result.returncode == 2
    assert f"port {port}" in result.stderr
    assert "--port" in result.stderr.splitlines()[-1]


@dataclass
class Serving:
    """A demo that serves: what it printed, and its process."""

    process: subprocess.Popen[str]
    url: str
    output: str

    @property
    def headers(self) -> dict[str, str]:
        token = self.output.partition("export TOKEN=")[2].split()[0]
        return {"Authorization": f"Bearer {token}", "X-Tenant-ID": "tenant1", "X-User-ID": "demo"}


@contextmanager
def serving(folder: Path) -> Iterator[Serving]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    written = folder / "out"
    with written.open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "demo", "--port", str(port)],
            cwd=ROOT,
            env=environment(),
            stdout=out,
            stderr=err,
            text=True,
        )
    try:
        until = time.monotonic() + 60
        while "지금 몇 시예요?" not in written.read_text():
            assert process.poll() is None, (folder / "err").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield Serving(process, f"http://127.0.0.1:{port}", written.read_text())
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_service_stops_and_leaves_nothing_behind(tmp_path: Path, how: signal.Signals) -> None:
    with serving(tmp_path) as demo:
        assert httpx2.get(f"{demo.url}/ready").status_code == 200
        answer = httpx2.post(f"{demo.url}/aura/test/stream", json={"prompt": "안녕하세요"}, headers=demo.headers)
        assert answer.text.endswith("data: [DONE]\n\n")
        demo.process.send_signal(how)
        assert demo.process.wait(20) == 0
        assert all(map(closed, ports(demo.output)))
        assert "Traceback" not in (tmp_path / "err").read_text()


def test_lines_to_paste_work(tmp_path: Path) -> None:
    with serving(tmp_path) as demo:
        pasted = demo.output.partition("# 1. ")[2].partition("# or all of it")[0]
        # 4. twice would be a second decision: the one by HTTP here; `redis-cli` need not be installed
        script = re.sub(r"^redis-cli.*\n.*$", "", pasted, flags=re.MULTILINE).replace("sleep 3;", "sleep 4;")
        done = subprocess.run(
            ["bash", "-c", f"# {script}\nwait"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert '"status":"approved"' in done.stdout
        resumed = done.stdout.rpartition('"success":true')[2]
        assert '"type":"start"' not in resumed
        assert resumed.endswith("data: [DONE]\n\n")


def test_publish_line_decides(tmp_path: Path) -> None:
    """What the printed `redis-cli` line sends, sent by the Python client."""
    with serving(tmp_path) as demo:
        line = demo.output.partition("redis-cli -p ")[2]
        redis_port = int(line.split()[0])
        url = f"{demo.url}/aura/test/stream"
        with httpx2.stream("POST", url, json={"prompt": "메일을 보내주세요"}, headers=demo.headers, timeout=30) as run:
            text = ""
            for piece in run.iter_text():
                text += piece
                if "event: hitl" in text and text.endswith("\n\n") and "PUBLISHED" not in text:
                    request_id = re.findall(r"req-[0-9a-f]+", text)[-1]
                    signal_text = json.dumps({"type": "approval", "requestId": request_id, "timestamp": 1})
                    with socket.create_connection(("127.0.0.1", redis_port)) as redis:
                        parts = ("PUBLISH", f"hitl:channel:{run.headers['X-Session-ID']}", signal_text)
                        command = "".join(f"${len(part.encode())}\r\n{part}\r\n" for part in parts)
                        redis.sendall(f"*{len(parts)}\r\n{command}".encode())
                        assert redis.recv(64) == b":1\r\n"
                    text += "PUBLISHED"
        assert '"status":"completed"' in text


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_prompt_that_is_stopped_leaves_nothing_behind(tmp_path: Path, how: signal.Signals, code: int) -> None:
    written = tmp_path / "out"
    with written.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "demo", "--prompt", "메일을 보내주세요"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    until = time.monotonic() + 60
    while "waiting for a decision" not in written.read_text():
        assert process.poll() is None, written.read_text()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait(20) == code
    output = written.read_text()
    assert "Traceback" not in output
    assert all(map(closed, ports(output)))


def test_person_at_the_terminal_is_asked() -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "app", "demo", "--prompt", "메일을 보내주세요"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        output, answered = "", False
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the process is gone
                break
            output += piece.decode(errors="replace")
            if "s left)" in output and not answered:
                os.write(ours, b"y")
                answered = True
        assert process.wait(20) == 0, output
    os.close(ours)
    assert "✔ approved" in output
