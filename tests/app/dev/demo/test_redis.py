"""The local Redis server, tested with a real Redis client."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.dev.demo.redis import RedisNotStarted, RedisServer

ROOT = Path(__file__).parents[4]


def connect(server: RedisServer, timeout_seconds: float = 5) -> redis.Redis:
    return redis.Redis.from_url(
        server.url, decode_responses=True, socket_timeout=timeout_seconds, retry=Retry(NoBackoff(), 0)
    )


def test_stopped_server_leaves_no_data() -> None:
    server = RedisServer()
    with server, connect(server) as client:
        assert client.set("key", "value")
        assert client.xadd("log", {"a": "1"}, id="1706156400123-0") == "1706156400123-0"
        directory = Path(client.config_get("dir")["dir"])
    assert not directory.exists()
    with server, connect(server) as client:
        assert client.get("key") is None


def test_two_servers_use_different_ports() -> None:
    with RedisServer() as one, RedisServer() as other:
        assert one.port != other.port


@pytest.mark.parametrize("keep_data", [True, False])
def test_restart_after_a_crash(keep_data: bool) -> None:
    with RedisServer(persistent=True) as server:
        port = server.port
        with connect(server) as client:
            client.set("key", "value")
        server.kill()
        with connect(server) as client, pytest.raises(redis.ConnectionError):
            client.ping()
        server.restart(keep_data=keep_data)
        with connect(server) as client:
            assert client.get("key") == ("value" if keep_data else None)
        assert server.port == port


def test_restart_of_a_running_server_empties_it() -> None:
    with RedisServer() as server, connect(server) as client:
        client.set("key", "value")
        server.restart(keep_data=False)
        with connect(server) as again:
            assert again.get("key") is None


def test_restart_keeps_data_only_of_a_persistent_server() -> None:
    with RedisServer() as server, pytest.raises(ValueError, match="persistent"):
        server.restart(keep_data=True)


def test_paused_server_replies_after_resume() -> None:
    with RedisServer() as server:
        server.pause()
        with connect(server, timeout_seconds=0.05) as client, pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        with connect(server) as client:
            assert client.ping()


def test_paused_server_can_be_stopped() -> None:
    with RedisServer() as server:
        server.pause()


def test_arguments_are_passed_to_the_server() -> None:
    with RedisServer("--cluster-enabled", "yes") as server, connect(server) as client:
        assert client.info("cluster")["cluster_enabled"] == 1


def test_invalid_argument_raises_with_the_servers_output() -> None:
    with pytest.raises(RedisNotStarted, match="no-such-directive"):
        RedisServer("--no-such-directive", "1").start()


def test_server_of_the_wheel_is_used_without_one_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert RedisServer.find().name == "valkey-server"


def test_server_on_path_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "redis-server"
    binary.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert RedisServer.find() == binary


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a child with its parent")
def test_server_exits_with_its_killed_parent(tmp_path: Path) -> None:
    program = (
        "import sys, app.dev.demo.redis as r; s = r.RedisServer().start(); print(s.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        watched = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    try:
        ended, _, _ = select.select([watched], [], [], 10)
        assert ended
    finally:
        os.close(watched)
