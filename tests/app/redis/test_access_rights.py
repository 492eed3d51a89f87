"""The users of `app/redis/README.md` (ACL): each can do its work and nothing else, and missing rights are named."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from redis.exceptions import NoPermissionError
from structlog.testing import capture_logs

from app.cli import main
from app.dev.demo.main_service import MainServiceStandIn, is_ended
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.redis import keys
from app.redis.rights import DATA_COMMANDS, RedisRights
from app.redis.wire.connection import Connection
from app.settings import Settings
from tests.docs.readmes import ROOT, blocks_of
from tests.harness.frames import check
from tests.harness.knowledge import mail, until_counted, until_subscribed
from tests.harness.service import SECRET, Aura, headers, running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
NOTE = ("send_note", {"to": "김", "text": "안녕하세요"})
REDIS_CLI = f"""#!{sys.executable}
# Stands for redis-cli, which not every machine has.
import sys, redis
reply = redis.Redis(port=int(sys.argv[2]), decode_responses=True).execute_command(*sys.argv[3:])
print(*reply if isinstance(reply, list) else [reply], sep="\\n")
"""
COMMANDS = next(each.text for each in blocks_of(ROOT / "app" / "redis" / "README.md") if "ACL SETUSER" in each.text)


def execute(client: redis.Redis, *command: Any) -> Any:
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


class Users:
    """A server with the users of the README, and the administrator `admin`; without `default`."""

    def __init__(self, server: RedisServer, passwords: dict[str, str]) -> None:
        self.server = server
        self._passwords = {**passwords, "admin": "admin"}
        self.admin = self.client("admin")
        self._aura = next(line for line in execute(self.admin, "ACL", "LIST") if line.startswith("user aura "))

    def reset(self) -> None:
        """Gives Aura's user the rights of the README again, and empties the server."""
        self.change("reset", *self._aura.split()[2:])
        self.admin.flushall()
        execute(self.admin, "ACL", "LOG", "RESET")

    def url(self, user: str) -> str:
        return self.server.url.replace("127", f"{user}:{self._passwords[user]}@127", 1)

    def client(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user), decode_responses=True)

    def change(self, *rules: str) -> None:
        """Changes the rights of Aura's user."""
        execute(self.admin, "ACL", "SETUSER", "aura", *rules)

    def refused(self, user: str) -> list[str]:
        """What Redis has refused to a user, apart from the query that the README leaves out on purpose."""
        entries: list[dict[str, Any]] = self.admin.acl_log(100)
        found = [f"{entry['reason']} {entry['object']}" for entry in entries if entry["username"] == user]
        return [each for each in found if each != "command config|get"]


def create_users(port: int, folder: Path) -> dict[str, str]:
    """Runs the commands of the README as they are printed. Returns the password of each user."""
    if shutil.which("redis-cli") is None:
        (folder / "redis-cli").write_text(REDIS_CLI, encoding="utf-8")
        (folder / "redis-cli").chmod(0o755)
    environment = {**os.environ, "REDIS_PORT": str(port), "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", COMMANDS]
    printed = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True).stdout
    return dict(line.split() for line in printed.splitlines() if not line.startswith("user "))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Users]:
    with RedisServer() as server:
        passwords = create_users(server.port, tmp_path_factory.mktemp("programs"))
        with redis.Redis.from_url(server.url) as default:
            execute(default, "ACL", "SETUSER", "admin", "on", ">admin", "allkeys", "allchannels", "+@all")
            execute(default, "ACL", "SETUSER", "default", "off")
        yield Users(server, passwords)


@pytest.fixture
def users(secured: Users) -> Users:
    secured.reset()
    return secured


def test_every_command_is_one_whose_right_is_checked() -> None:
    """What a module of `app/redis` sends outside scripts stands in the list of `rights.py`."""
    sent = {
        name
        for path in (ROOT / "app" / "redis").rglob("*.py")
        if path.name not in ("rights.py", "errors.py")  # which names error codes
        for name in re.findall(r'\(\s*"([A-Z]{3,})",', path.read_text(encoding="utf-8"))
    }
    checked_apart = {
        "PING",
        "SUBSCRIBE",
        "UNSUBSCRIBE",
        "PUBLISH",
        "MEMORY",
        "SCAN",
        "SCRIPT",
        "EVALSHA",
        "TIME",
        "WAIT",
        "SSUBSCRIBE",
    }
    needless = {"CONFIG", "INFO", "COMMAND"}  # the service works without them
    assert {"XTRIM", "ZSCORE"} <= sent
    of_other_servers = {"CLUSTER", "ASKING", "SENTINEL"}
    assert sent - checked_apart - needless - of_other_servers <= set(DATA_COMMANDS)


def run_command(*arguments: str, **environment: str) -> None:
    result = CliRunner().invoke(main, arguments, env={"JWT_SECRET": SECRET, **environment})
    assert result.exit_code == 0, result.output


def decide_as_java(client: redis.Redis, request_id: str) -> None:
    """What the Main Service writes for an approval: the whole request again, the signal, and the message."""
    request = json.loads(str(client.get(keys.hitl_request(request_id))))
    request |= {"status": "approved", "approvedBy": "boss", "approvedAt": int(time.time() * 1000)}
    execute(client, "SETEX", keys.hitl_request(request_id), 1800, json.dumps(request))
    signal = {"type": "approval", "requestId": request_id, "status": "approved", "timestamp": int(time.time())}
    execute(client, "SETEX", keys.hitl_signal(request["sessionId"]), 300, json.dumps(signal))
    client.publish(keys.hitl_channel(request["sessionId"]), json.dumps(signal))


@pytest.mark.slow
async def test_the_main_job_is_done_by_the_users_of_the_readme(
    settings: MakeSettings, model: ScriptedModelServer, users: Users
) -> None:
    """Events, a search, an approval by the Main Service, a task, lists, a cancellation, the commands."""
    own = settings(redis_url=users.url("aura"), openai_embedding_model="aura-hashing")
    async with MainServiceStandIn() as main_service:
        own = own.model_copy(update={"main_service_url": main_service.url})
        async with running(own) as aura:  # with the service's own tools
            assert (await aura.client.get("/ready")).status_code == 200
            await until_subscribed(users.admin)
            users.client("mail-service").publish("dwp:events:mail", json.dumps(mail()))
            users.client("approval-service").publish("dwp:events:approval", json.dumps(mail(2)))
            users.client("main-service").publish("dwp:events:agent-task", json.dumps(mail(3)))
            users.client("main-service").publish("dwp:events:all", "{")
            await until_counted(aura, accepted=3, malformed__not_json=1)
            model.play(calling(("search_workspace", {"query": "견적서"})), ScriptedTurn(text="찾았습니다."))
            async with aura.stream("견적서", body={"prompt": "견적서", "thread_id": "t"}) as stream:
                check(await stream.rest())
            assert len(json.loads(model.requests[-1]["messages"][-1]["content"])["items"]) == 3
            for command in (("stats",), ("search", "견적", "--tenant", "tenant1", "--user", "user1"), ("rebuild",)):
                await asyncio.to_thread(run_command, "knowledge", *command, REDIS_URL=users.url("aura"))
        async with running(own, tools=[risky()]) as aura:
            await approve_and_cancel(aura, model, users)
            await eventually(lambda: len(main_service.tasks) == 3 and all(map(is_ended, main_service.tasks.values())))
    for user in ("aura", "main-service", "mail-service", "approval-service", "default"):
        assert users.refused(user) == []


async def approve_and_cancel(aura: Aura, model: ScriptedModelServer, users: Users) -> None:
    model.play(calling(NOTE), ScriptedTurn(text="보냈습니다."))
    sent = headers(**{"Idempotency-Key": "once"})
    async with aura.stream(body={"prompt": "메모", "thread_id": "t"}, headers=sent) as stream:
        hitl = await stream.until("hitl")
        decide_as_java(users.client("main-service"), hitl["requestId"])
        frames = await stream.rest()
    assert frames[-2]["status"] == "completed"
    model.play(calling(NOTE))
    async with aura.stream("메모") as stream:
        session_id = (await stream.until("hitl"))["sessionId"]
        for path in ("/aura/runs", f"/aura/runs/{session_id}", f"/aura/hitl/signals/{session_id}"):
            assert (await aura.client.get(path, headers=headers())).status_code == 200
        cancelled = await aura.client.post(f"/aura/runs/{session_id}/cancel", headers=headers())
        assert cancelled.status_code in (200, 202)
        assert (await stream.rest())[-2]["status"] == "cancelled"


@pytest.mark.parametrize(
    ("user", "command"),
    [
        *(("mail-service", ("PUBLISH", name, "")) for name in ("hitl:channel:s", "aura:wake:s", "dwp:events:approval")),
        ("mail-service", ("GET", "checkpoint:{u}:s")),
        ("mail-service", ("SET", "hitl:request:r", "")),
        ("mail-service", ("SUBSCRIBE", "hitl:channel:s")),
        *(("main-service", (verb, "checkpoint:{u}:s", "")) for verb in ("GET", "SET", "DEL")),
        ("main-service", ("SET", "aura:nodes", "")),
        ("main-service", ("PUBLISH", "aura:node:n", "")),
        ("main-service", ("EVAL", "return 1", "0")),
        ("main-service", ("SCAN", "0")),
        *(("aura", words) for words in (("KEYS", "*"), ("FLUSHALL",), ("ACL", "LIST"), ("CONFIG", "GET", "*"))),
        ("aura", ("GET", "other:key")),
        ("aura", ("PUBLISH", "other:channel", "")),
        ("aura", ("SCRIPT", "FLUSH")),
    ],
    ids=str,
)
def test_a_user_is_refused_what_it_does_not_need(users: Users, user: str, command: tuple[str, ...]) -> None:
    arguments = command[:2] if command[0] in ("GET", "DEL") else command
    with pytest.raises(NoPermissionError):
        execute(users.client(user), *arguments)


def test_a_program_without_a_password_can_do_nothing(users: Users) -> None:
    with redis.Redis.from_url(users.server.url) as default, pytest.raises(redis.AuthenticationError):
        default.get("checkpoint:{u}:s")


@pytest.mark.slow
async def test_the_user_of_aura_has_what_a_cluster_needs(tmp_path: Path) -> None:
    with RedisServer("--cluster-enabled", "yes") as server:
        with redis.Redis.from_url(server.url) as client:
            execute(client, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await eventually(lambda: execute(client, "CLUSTER INFO")["cluster_state"] == "ok")
            passwords = create_users(server.port, tmp_path)
        connection = Connection(server.url.replace("127", f"aura:{passwords['aura']}@127", 1), timeout_seconds=3)
        await connection.execute("SET", "aura:key", "value")
        assert connection.stats().is_cluster
        assert await connection.execute("GET", "aura:key") == b"value"
        assert connection.sharded is not None
        channel = keys.wake("session_u1_1706156400_a2ef")
        await connection.sharded.subscribe(channel, lambda _: None)
        connection.sharded.unsubscribe(channel)
        await RedisRights(connection, ()).check()
        await connection.close()


# --- missing rights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("resetchannels",), "SUBSCRIBE hitl:channel:*, PUBLISH hitl:channel:*"),
        (("resetchannels", "&aura:*", "&dwp:events:*"), "SUBSCRIBE hitl:channel:*, PUBLISH hitl:channel:*;"),
        (("resetchannels", "&hitl:*", "&aura:*", "&dwp:events:mail"), "SUBSCRIBE dwp:events:agent-task"),
        (("-publish",), "PUBLISH hitl:channel:*, PUBLISH aura:wake:*"),
        (("-xadd",), "may not: XADD aura:*;"),
        (("resetkeys", "~aura:*", "~hitl:*"), "GET checkpoint:*, SET checkpoint:*;"),
        (("resetkeys", "~aura:*", "~checkpoint:*", "%R~hitl:*"), "SET hitl:request:*"),
        (("-evalsha",), "EVALSHA and SCRIPT LOAD"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_ready_names_the_rights_that_the_user_of_aura_lacks(
    settings: MakeSettings, users: Users, change: tuple[str, ...], named: str
) -> None:
    async with running(settings(redis_url=users.url("aura"))) as aura:
        assert (await aura.client.get("/ready")).status_code == 200
        users.change(*change)
        with capture_logs() as logs:
            for _ in range(3):
                refused = await aura.client.get("/ready")
        body = refused.json()
        assert (refused.status_code, body["errorCode"]) == (503, "E5004")
        assert body["message"].startswith("저장소 사용 권한이 부족합니다. the Redis user of this service may not: ")
        assert named in body["message"]
        assert "127.0.0.1" not in refused.text
        assert str(users.server.port) not in refused.text
        (line,) = [line for line in logs if line["event"] == "redis.rights_missing"]
        assert line["log_level"] == "error"
        users.change("allkeys", "allchannels", "+@all")
        await eventually(lambda: users.admin.pubsub_numsub("dwp:events:all")[0][1] == 1)
        assert (await aura.client.get("/ready")).status_code == 200


@pytest.mark.slow
async def test_a_service_that_starts_without_channels_says_so_and_works_once_it_has_them(
    settings: MakeSettings, model: ScriptedModelServer, users: Users
) -> None:
    users.change("resetchannels")
    model.play(calling(NOTE), ScriptedTurn(text="보냈습니다."))
    with capture_logs() as logs:
        async with running(settings(redis_url=users.url("aura")), tools=[risky()]) as aura:
            (line,) = [line for line in logs if line["event"] == "redis.rights_missing"]
            assert "SUBSCRIBE hitl:channel:*" in line["rights"]
            await eventually(lambda: [each for each in logs if each["event"] == "pubsub.lost"])
            assert "permissions" in next(each["cause"] for each in logs if each["event"] == "pubsub.lost")
            users.change("&hitl:channel:*", "&aura:*", "&dwp:events:*")
            async with aura.stream("메모") as stream:
                decide_as_java(users.client("main-service"), (await stream.until("hitl"))["requestId"])
                assert (await stream.rest())[-2]["status"] == "completed"
            assert (await aura.client.get("/ready")).status_code == 200
    assert "redis.rights_granted" in [line["event"] for line in logs]


async def test_a_wrong_password_is_named_without_the_password(settings: MakeSettings, users: Users) -> None:
    url = users.server.url.replace("127", "aura:not-the-password@127", 1)
    async with running(settings(redis_url=url)) as aura:
        refused = await aura.client.get("/ready")
    assert (refused.status_code, refused.json()["errorCode"]) == (503, "E5002")
    assert "Redis does not allow it to this service" in refused.text
    assert "not-the-password" not in refused.text
