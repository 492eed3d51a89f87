"""`aura erase`: what is stored of a person is removed everywhere, and nothing of anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis
from click.testing import CliRunner

from app.archive import erasure as erasure_module
from app.archive.erasure import Erasure
from app.cli import main
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.errors import StorageUnavailable
from app.ports.audit import AuditEvent, ErasureStarted, PersonErased
from app.ports.erasure import Counts
from app.ports.knowledge import Query, Searcher
from app.settings import Settings
from tests.app.archive.conftest import ArchiveDatabase, EraseCommand, expire_runs
from tests.app.archive.test_archive import complete_run, session_of
from tests.harness.approvals import FINAL_ANSWER, StartWaitingRun
from tests.harness.audit import KeptTrail, StoredRecord
from tests.harness.knowledge import Publish, mail, until_counted, until_subscribed
from tests.harness.service import SECRET, Aura, headers, running
from tests.harness.stored import everything_stored
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
PERSON = ("--user", "kim", "--tenant", "tenant1")
NO_NODES = cast("Any", None)
"""Where nothing is cancelled."""
AUDITOR = {"JWT_SECRET": SECRET}
NAMESAKE = headers(user="kim", tenant="tenant2")


@pytest.fixture
def stored(redis_client: redis.Redis) -> Callable[[str], bool]:
    """Whether a text is anywhere in Redis but in the record of decisions."""

    def is_stored(text: str) -> bool:
        raw = redis.Redis(
            connection_pool=redis.ConnectionPool(
                **{
                    **redis_client.connection_pool.connection_kwargs,
                    "decode_responses": False,
                }
            )
        )
        with raw:
            lines = everything_stored(raw).split(b"\n")
        forms = text.encode(), repr(text.encode())[2:-1].encode()
        return any(form in line for line in lines for form in forms if not line.startswith(b"aura:audit:"))

    return is_stored


async def test_everything_of_a_person_is_removed_and_counted(
    settings: MakeSettings,
    model: ScriptedModelServer,
    archive: ArchiveDatabase,
    redis_client: redis.Redis,
    stored: Callable[[str], bool],
    record: StoredRecord,
    redis_server: RedisServer,
    erase_command: EraseCommand,
) -> None:
    model.play(*(ScriptedTurn(text="네.") for _ in range(4)))
    kim, environment, url = headers(user="kim"), {"AURA_ARCHIVE_URL": archive.url}, redis_server.url
    async with running(settings(aura_archive_url=archive.url)) as aura:
        old = session_of(await complete_run(aura, "나의 비밀 하나", as_=kim, thread_id="t-1"))
        await eventually(lambda: archive.sessions() == [old])
        expire_runs(redis_client, old)
        new = session_of(
            await complete_run(aura, "나의 비밀 둘", as_={**kim, "Idempotency-Key": "k-1"}, thread_id="t-1")
        )
        others = [
            session_of(await complete_run(aura, "남의 비밀", as_=headers(user="lee"), thread_id="t-1")),
            session_of(await complete_run(aura, "동명이인의 비밀", as_=NAMESAKE, thread_id="t-1")),
        ]
        await eventually(lambda: len(archive.sessions()) == 4)
        counted = await erase_command(*PERSON, "--dry-run", **environment)
        assert counted.exit_code == 0, counted.output
        assert stored("나의 비밀")
        assert len(archive.sessions()) == 4
        done = await erase_command(*PERSON, **environment)
        assert done.exit_code == 0, done.output
        lines = done.output.splitlines()
        assert counted.output.splitlines()[:-1] == lines[:-2]
        found = {kind: int(count) for count, _, kind in (line.strip().partition(" ") for line in lines[:-2])}
        assert found == {
            "archived runs": 2,
            "checkpoints": 1,
            "event logs": 1,
            "idempotency keys": 1,
            "lists and counters": found["lists and counters"],
            "runs": 1,
            "summaries": 1,
            "threads": 1,
        }
        assert not stored("나의 비밀")
        assert not stored(new)
        assert archive.sessions() == sorted(others, key=archive.sessions().index)
        for caller, prompt in ((headers(user="lee"), "남의 비밀"), (NAMESAKE, "동명이인의 비밀")):
            listed = (await aura.client.get("/aura/runs", headers=caller)).json()["data"]["runs"]
            assert [run["promptHead"] for run in listed] == [prompt]
        assert (await aura.client.get("/aura/runs", headers=kim)).json()["data"] == {"runs": []}
        again = await erase_command(*PERSON, **environment)
        assert again.output.startswith("0 things were removed"), again.output
    entries = [event for event in record.events() if event["kind"].startswith("eras")]
    person = {"user": "kim", "by": "operator", "via": "cli"}
    begun, nothing = {"kind": "erasure.started", **person}, {"kind": "erased", **person, "removed": {}}
    assert len(entries) == 4
    for entry in (begun, begun, nothing, {**nothing, "removed": found}):
        entries.remove(entry)
    assert not [event for event in record.events("tenant2") if event["kind"].startswith("eras")]
    verified = await asyncio.to_thread(CliRunner().invoke, main, ["audit", "verify"], env=AUDITOR | {"REDIS_URL": url})
    assert verified.exit_code == 0, verified.output
    assert "nothing is wrong" in verified.output


async def test_the_content_of_an_approval_is_removed_and_the_record_of_its_decision_stays(
    waiting_run: StartWaitingRun,
    record: StoredRecord,
    stored: Callable[[str], bool],
    erase_command: EraseCommand,
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()
        assert stored("안녕하세요")
        done = await erase_command("--user", "user1", "--tenant", "tenant1")
        assert done.exit_code == 0, done.output
        assert "1 approval requests" in done.output
        assert not stored("안녕하세요")
        assert not stored(run.request_id)
        assert "decision" in record.kinds()


async def test_a_run_that_has_not_ended_is_refused_or_cancelled(
    waiting_run: StartWaitingRun, stored: Callable[[str], bool], record: StoredRecord, erase_command: EraseCommand
) -> None:
    person = ("--user", "user1", "--tenant", "tenant1")
    async with waiting_run() as run:
        refused = await erase_command(*person)
        assert refused.exit_code == 1
        assert run.session_id in refused.output
        assert "--cancel" in refused.output
        assert stored(run.session_id)
        assert "1 runs have not ended" in (await erase_command(*person, "--dry-run")).output
        assert not [kind for kind in record.kinds() if kind.startswith("eras")]
        done = await erase_command(*person, "--cancel")
        assert done.exit_code == 0, done.output
        assert (await run.stream.rest())[-2]["status"] == "cancelled"
        assert not stored(run.session_id)
        (begun,) = [event for event in record.events() if event["kind"] == "erasure.started"]
        assert begun["cancel"] is True
        assert "erased" in record.kinds()


async def found_by(aura: Aura, user: str) -> set[str]:
    assert aura.service.knowledge is not None
    result = await aura.service.knowledge.search(Searcher("tenant1", user), Query("견적서"))
    return {hit.event.title for hit in result.hits}


async def test_the_events_of_a_person_are_found_no_longer(
    settings: MakeSettings,
    publish: Publish,
    redis_client: redis.Redis,
    stored: Callable[[str], bool],
    erase_command: EraseCommand,
) -> None:
    async with running(settings()) as aura:
        await until_subscribed(redis_client)
        for number, user in enumerate(("kim", "lee")):
            publish(mail(number, userId=user, subject=f"{user}의 견적서", visibility="tenant"))
        await until_counted(aura, accepted=2)
        assert await found_by(aura, "park") == {"kim의 견적서", "lee의 견적서"}
        done = await erase_command(*PERSON)
        assert done.exit_code == 0, done.output
        assert "1 domain events" in done.output
        assert not stored("kim의 견적서")
        assert stored("lee의 견적서")
        for _ in range(600):  # the running process builds its index anew
            if await found_by(aura, "park") == {"lee의 견적서"}:
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("the event of somebody else is not found any more")
        assert "kim의 견적서" not in await found_by(aura, "park")


@pytest.mark.slow
async def test_nothing_is_removed_while_the_archive_is_down(
    settings: MakeSettings,
    model: ScriptedModelServer,
    stored: Callable[[str], bool],
    erase_command: EraseCommand,
    unused_tcp_port: int,
) -> None:
    model.play(ScriptedTurn(text="네."))
    async with running(settings()) as aura:
        await complete_run(aura, "나의 비밀", as_=headers(user="kim"))
        url = f"postgresql://u:p@127.0.0.1:{unused_tcp_port}/d"
        failed = await erase_command(*PERSON, AURA_ARCHIVE_URL=url)
        assert failed.exit_code == 2, failed.output
        assert stored("나의 비밀")


class Place:
    """A place that stores something of people, and may be unavailable in the middle."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.recorded: list[AuditEvent] = []
        self.seen: list[int] = []

    async def count(self, tenant_id: str, user_id: str) -> Counts:
        return {"things": 2}

    async def erase(self, tenant_id: str, user_id: str) -> Counts:
        self.seen.append(len(self.recorded))
        if self.fails:
            raise StorageUnavailable("it is away")
        return {"things": 2}

    async def active_runs(self, tenant_id: str, user_id: str) -> list[str]:
        return []


async def test_nothing_is_removed_before_it_is_recorded_and_an_interruption_is_recorded_too() -> None:
    trail, first, second = KeptTrail(), Place(), Place(fails=True)
    first.recorded = trail.events
    erasure = Erasure(first, [second], NO_NODES, trail)
    with pytest.raises(StorageUnavailable):
        await erasure.erase("tenant1", "kim", cancel=False)
    assert first.seen == [1]
    started, ended = trail.events
    assert started == ErasureStarted(user="kim", by="operator", via="cli")
    assert ended == PersonErased(user="kim", removed={"things": 2}, by="operator", via="cli", interrupted=True)


async def test_nothing_is_removed_where_it_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(KeptTrail):
        async def write(self, tenant_id: str, event: AuditEvent) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(erasure_module, "_RECORD_SECONDS", 0.05)
    place = Place()
    with pytest.raises(StorageUnavailable, match="record of decisions"):
        await Erasure(place, [], NO_NODES, Stuck()).erase("tenant1", "kim", cancel=False)
    assert place.seen == []
