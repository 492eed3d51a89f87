"""The tables: what they store, for how long, and what they refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from app.archive.journal import ArchivedTail
from app.archive.postgres import PostgresRunArchive
from app.archive.tables import storable
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import RunLost, RunNotArchivable
from app.ports.archive import ArchivedRun, Retention
from app.ports.journal import LogEntry
from app.settings import Settings
from statemachine.frames import DONE_BODY
from tests.app.archive.conftest import ArchiveDatabase
from tests.app.archive.test_archive import complete_run, session_of
from tests.harness.service import running

MakeSettings = Callable[..., Settings]
DAY_MS = 86_400_000


@pytest.fixture
async def ended_run(settings: MakeSettings, model: ScriptedModelServer) -> ArchivedRun:
    """A run with the record and the checkpoint of a real one, and a log of two entries."""
    model.play(ScriptedTurn(text="네."))
    async with running(settings()) as aura:
        session_id = session_of(await complete_run(aura, "하나", thread_id="t-1"))
        record, checkpoint = (
            await aura.service.stores.journal.get_record(session_id),
            await aura.service.stores.journal.load(session_id),
        )
    assert record is not None
    assert checkpoint is not None
    return ArchivedRun(record, checkpoint, [LogEntry(1000, b"event: a\ndata: {}\n\n"), LogEntry(1001, DONE_BODY)])


@pytest.fixture
async def tables(archive: ArchiveDatabase) -> AsyncIterator[PostgresRunArchive]:
    opened = PostgresRunArchive(archive.url)
    yield opened
    await opened.close()


def of(run: ArchivedRun, number: int, *, tenant: str = "tenant1", ended_ms: int = 2000) -> ArchivedRun:
    """The same run under another id, of another tenant, with another end."""
    session_id = f"session_user1_1700000000_{number:04x}"
    record = replace(run.record, session_id=session_id, tenant_id=tenant)
    return ArchivedRun(record, run.checkpoint, [*run.entries[:-1], LogEntry(ended_ms, DONE_BODY)])


async def test_runs_are_removed_after_the_days_of_their_tenant(
    tables: PostgresRunArchive, ended_run: ArchivedRun, archive: ArchiveDatabase
) -> None:
    for number, tenant in enumerate(("tenant1", "brief", "long"), start=1):
        assert await tables.add([of(ended_run, number, tenant=tenant, ended_ms=DAY_MS)])
    retention = Retention(10, {"brief": 2, "long": 100})
    left = []
    for day in (2, 4, 12, 102):
        while await tables.expire(retention, day * 86_400):
            pass
        left.append([row[0] for row in archive.rows("tenant")])
    assert left == [["tenant1", "brief", "long"], ["tenant1", "long"], ["long"], []]


async def test_a_run_that_is_being_copied_while_its_person_is_erased_is_refused(
    tables: PostgresRunArchive, ended_run: ArchivedRun, archive: ArchiveDatabase
) -> None:
    created_at = ended_run.checkpoint.created_at
    assert await tables.add([of(ended_run, 1)])
    assert await tables.erase("tenant1", "user1", created_at + 1) == 1
    assert not await tables.add([of(ended_run, 2)]), "it had begun before"
    assert await tables.add([of(ended_run, 3, tenant="tenant2")])
    assert await tables.erase("tenant1", "user1", created_at - 1) == 0, "an earlier erasure does not undo a later one"
    assert not await tables.add([of(ended_run, 2)])
    (kept,) = archive.server.rows("SELECT person FROM aura_archive_1.erased")
    assert b"user1" not in bytes(kept[0])


async def test_a_long_log_is_read_in_pages(tables: PostgresRunArchive, ended_run: ArchivedRun) -> None:
    long = [LogEntry(1000 + i, b'event: content\ndata: {"content":"%b"}\n\n' % (b"x" * 90_000)) for i in range(7)]
    longest = LogEntry(1007, b'event: hitl\ndata: {"a":"%b"}\n\n' % (b"y" * 600_000))
    run = replace(ended_run, entries=[*long, longest, LogEntry(1008, DONE_BODY)])
    session_id = run.record.session_id
    assert await tables.add([run])
    assert not await tables.add([run])
    found: list[LogEntry] = []
    place, pages = 0, 0
    while (page := await tables.read_page(session_id, place)) is not None and page.entries:
        found, place, pages = found + page.entries, page.place, pages + 1
    assert found == run.entries
    assert pages >= 4
    owner = (run.record.tenant_id, run.record.user_id)
    by_id = [await tables.find_by_event_id(*owner, id) for id in (999, 1000, 1007, 1008, 1009)]
    assert [record is not None for record in by_id] == [False, True, True, True, False]
    assert await tables.find_by_event_id("tenant2", owner[1], 1000) is None
    assert await tables.read_page("session_user1_1700000000_ffff", 0) is None


async def test_the_thread_of_an_archived_run_is_bounded(tables: PostgresRunArchive, ended_run: ArchivedRun) -> None:
    for number in range(5):
        assert await tables.add([of(ended_run, number)])
    owner, size = ("tenant1", "user1", "t-1"), len(ended_run.checkpoint.to_json())
    without = ["session_user1_1700000000_0000"]
    some = await tables.load_thread(*owner, without=without, max_runs=3, max_bytes=100 * size)
    assert (len(some.newest), some.not_loaded) == (3, 1)
    small = await tables.load_thread(*owner, without=without, max_runs=3, max_bytes=size // 2)
    assert (len(small.newest), small.not_loaded) == (1, 3), "the newest one is loaded whatever its size"
    none = await tables.load_thread("tenant1", "user2", "t-1", without=(), max_runs=3, max_bytes=size)
    assert (none.newest, none.not_loaded) == ([], 0)


async def test_what_the_database_refuses_is_named_and_concerns_no_other_run(
    tables: PostgresRunArchive, ended_run: ArchivedRun
) -> None:
    refused = replace(ended_run, record=replace(ended_run.record, prompt_digest="a\0b"))
    with pytest.raises(RunNotArchivable, match=ended_run.record.session_id):
        await tables.add([refused])
    assert await tables.add([ended_run])
    assert storable({"a\0": ["\ud800", 1, None, {"b": "\0"}]}) == {"a\ufffd": ["?", 1, None, {"b": "\ufffd"}]}


class LostTail:
    """A tail of a run that expires after its first entry."""

    is_draining = False

    def __init__(self) -> None:
        self.is_closed = False
        self._reads = 0

    def buffered(self) -> list[LogEntry] | None:
        return None

    async def fetch(self) -> list[LogEntry]:
        self._reads += 1
        if self._reads > 1:
            raise RunLost("s", "gone")
        return [LogEntry(1000, b"event: a\ndata: {}\n\n")]

    def close(self) -> None:
        self.is_closed = True


async def test_a_reader_gets_the_rest_of_a_run_that_expires_while_it_is_read(
    tables: PostgresRunArchive, ended_run: ArchivedRun
) -> None:
    await tables.add([ended_run])
    kept = LostTail()
    tail = ArchivedTail(kept, tables, ended_run.record.session_id, 0, lambda: None)
    read = [await tail.fetch() for _ in range(3)]
    end = list(ended_run.entries[1:])
    assert read == [list(ended_run.entries[:1]), end, end], "after the end the end marker comes again"
    assert tail.buffered() is None
    tail.close()
    assert kept.is_closed
    unknown = ArchivedTail(LostTail(), tables, "session_user1_1700000000_ffff", 0, lambda: None)
    await unknown.fetch()
    with pytest.raises(RunLost):
        await unknown.fetch()
