"""The index on PostgreSQL beyond its port: concurrency, outages, cleanup, and errors for operators."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from psycopg import AsyncConnection

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ConfigurationError, StorageUnavailable
from app.knowledge import service
from app.knowledge.postgres import index as postgres
from app.knowledge.postgres import tables
from app.knowledge.postgres.index import PostgresIndex
from app.knowledge.postgres.tables import SCHEMA
from app.ports.knowledge import EVERYBODY, START, KnowledgeEntry, Query, Searcher, Vector, WorkspaceEvent
from app.settings import Settings
from tests.harness.frames import Frame
from tests.harness.knowledge import (
    MODEL,
    KnowledgeCommand,
    Publish,
    mail,
    run_in_thread,
    until_counted,
    until_subscribed,
)
from tests.harness.postgres import PostgresServer
from tests.harness.service import headers, running
from tests.harness.tools import calling
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
AS_USER1 = ("--tenant", "tenant1", "--user", "user1")
SEARCH = ("search_workspace", {"query": "김철수가 보낸 견적서"})


@pytest.fixture
def own_server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that a test may kill."""
    with PostgresServer() as server:
        yield server


def entries(count: int, *, at: int = 0, vectors: bool = False) -> list[KnowledgeEntry]:
    content: list[WorkspaceEvent | Vector] = []
    for n in range(at + 1, at + count + 1):
        content.append(WorkspaceEvent(f"e{n}", "t1", "mail", ("mail",), "u1", n, f"견적서 {n}호", "견적 reviewed"))
        if vectors:
            content.append(Vector(f"e{n}", MODEL, bytes([n, 100 - n, 7, 1])))
    return [KnowledgeEntry((at * 2 + position, 0), entry) for position, entry in enumerate(content, start=1)]


async def ids(index: PostgresIndex, text: str, vector: bytes | None = None, since: float | None = None) -> list[str]:
    return [hit.event.id for hit in await index.search("t1", Query(text, since), vector, None)]


def sources(frames: list[Frame]) -> list[str]:
    return [source["id"] for frame in frames if frame.type == "thought" for source in frame["sources"]]


# --- through the service ----------------------------------------------------------------------------------------------


async def test_an_event_is_cited_by_another_replica_to_its_tenant_only(
    settings: MakeSettings,
    model: ScriptedModelServer,
    redis_client: redis.Redis,
    publish: Publish,
    database: PostgresServer,
) -> None:
    shared = settings(aura_knowledge_url=database.url, openai_embedding_model="aura-hashing")
    model.play(calling(SEARCH), ScriptedTurn(text="1,200만원입니다."), calling(SEARCH), ScriptedTurn(text="없습니다."))
    async with running(shared), running(shared) as other:
        await until_subscribed(redis_client, nodes=2)
        publish(mail())
        await eventually(lambda: [redis_client.xlen(key) for key in redis_client.keys("aura:{know*:log")] == [2])
        async with other.stream("김철수가 보낸 견적서 얼마예요?") as stream:
            assert sources(await stream.rest()) == ["evt-1"]
        async with other.stream("tenant1의 견적서", headers=headers("user2", "tenant2")) as stream:
            assert sources(await stream.rest()) == []
    assert database.rows("SELECT id, documents, vectors FROM tenant ORDER BY n") == [("tenant1", 1, 1)]


async def test_the_commands_use_the_server(
    settings: MakeSettings,
    redis_client: redis.Redis,
    publish: Publish,
    knowledge_command: KnowledgeCommand,
    database: PostgresServer,
) -> None:
    environment = {"AURA_KNOWLEDGE_URL": database.url}
    async with running(settings(aura_knowledge_url=database.url)) as aura:
        await until_subscribed(redis_client)
        publish(mail())
        await until_counted(aura, accepted=1)
        assert "1 found by words" in await run_in_thread(
            knowledge_command, "search", "견적서", *AS_USER1, **environment
        )
        output = await run_in_thread(knowledge_command, "rebuild", **environment)
        assert output.startswith("1 running process(es) were notified; ")
        await eventually(lambda: aura.service.knowledge and aura.service.knowledge.generation == 1)
    assert "1 found by words" in await run_in_thread(knowledge_command, "search", "견적서", *AS_USER1, **environment)
    assert "tenant1" in await run_in_thread(knowledge_command, "stats", **environment)
    assert database.rows("SELECT number, generation FROM edition") == [(2, 1)]
    refused = await asyncio.to_thread(
        knowledge_command, "search", "x", *AS_USER1, AURA_KNOWLEDGE_URL=f"{database.url}&x=1"
    )
    assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
    assert refused.output.startswith("aura: AURA_KNOWLEDGE_URL: ")


async def test_runs_continue_during_an_outage_and_no_event_is_lost(
    settings: MakeSettings,
    model: ScriptedModelServer,
    redis_client: redis.Redis,
    publish: Publish,
    own_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "RETRY_SECONDS", 0.05)
    own_server.kill()
    model.play(calling(SEARCH), ScriptedTurn(text="검색하지 못했습니다."))
    async with running(settings(aura_knowledge_url=own_server.url)) as aura:
        await until_subscribed(redis_client)
        publish(mail())
        await until_counted(aura, accepted=1)
        async with aura.stream("견적서") as stream:
            frames = await stream.rest()
        (failed,) = [frame for frame in frames if frame.type == "tool_execution" and frame["status"] == "failed"]
        assert "cannot be searched at the moment" in failed["error"]
        assert frames[-2]["status"] == "completed"

        own_server.start()
        knowledge = aura.service.knowledge
        assert knowledge is not None
        await eventually(lambda: own_server.rows("SELECT to_regclass('event_1')") != [(None,)])
        found = await knowledge.search(Searcher("tenant1", "user1"), Query("견적서"))
        assert ([hit.event.id for hit in found.hits], found.is_complete) == (["evt-1"], True)

        own_server.kill()
        publish(mail(2))
        await until_counted(aura, accepted=2)
        own_server.start()
        found = await knowledge.search(Searcher("tenant1", "user1"), Query("견적서"))
        assert {hit.event.id for hit in found.hits} == {"evt-1", "evt-2"}


@pytest.mark.slow
async def test_a_server_that_hangs_runs_into_the_timeout(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = PostgresIndex(own_server.url, MODEL)
    await index.open(0)
    await index.apply("t1", START, entries(1))
    monkeypatch.setattr(postgres, "RESPONSE_SECONDS", 0.1)
    monkeypatch.setattr(postgres, "CANCEL_SECONDS", 0.1)
    own_server.signal(signal.SIGSTOP)
    with pytest.raises(StorageUnavailable, match=r"did not answer within 0\.1 s"):
        await index.position("t1")
    own_server.signal(signal.SIGCONT)
    monkeypatch.undo()
    assert await ids(index, "견적") == ["e1"]
    await index.close()


# --- concurrency and crashes ------------------------------------------------------------------------------------------


async def test_an_interrupted_batch_is_indexed_completely_or_not_at_all(own_server: PostgresServer) -> None:
    """The counts match the rows after any number of crashes of the server."""
    index = PostgresIndex(own_server.url, MODEL)
    await index.open(0)
    for at in range(0, 60, 20):
        applying = asyncio.create_task(
            index.apply("t1", (at * 2, 0) if at else START, entries(20, at=at, vectors=True))
        )
        await asyncio.sleep(0)
        own_server.kill()
        await asyncio.gather(applying, return_exceptions=True)
        own_server.start()
        while await index.position("t1") < ((at + 20) * 2, 0):
            await index.apply("t1", await index.position("t1"), entries(20, at=at, vectors=True))
    assert own_server.rows("SELECT documents, vectors FROM tenant") == [(60, 60)]
    assert own_server.rows("SELECT documents FROM term_1 WHERE term = '견적'") == [(60,)]
    await index.close()


async def test_a_replaced_database_is_rebuilt(database: PostgresServer) -> None:
    index = PostgresIndex(database.url, MODEL)
    await index.open(7)
    await index.apply("t1", START, entries(2))
    database.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    assert await index.position("t1") == START
    await index.apply("t1", START, entries(2))
    assert set(await ids(index, "견적")) == {"e1", "e2"}
    await index.close()


async def test_a_process_with_another_model_indexes_events_but_compares_no_vectors(database: PostgresServer) -> None:
    """During a deployment, the older process neither deletes the newer one's vectors nor makes its own."""
    older, newer = PostgresIndex(database.url, "older"), PostgresIndex(database.url, MODEL)
    await older.open(0)
    await newer.open(0)
    await older.apply("t1", START, entries(2, vectors=True)[:3])
    assert await ids(newer, "없는말", bytes([1, 99, 7, 1])) == ["e1"]
    assert await ids(older, "없는말", bytes([1, 99, 7, 1])) == []
    assert set(await ids(older, "견적", bytes([1, 99, 7, 1]))) == {"e1", "e2"}
    assert await older.list_missing_vectors(10) == []
    assert [item.event_id for item in await newer.list_missing_vectors(10)] == ["e2"]
    await older.close()
    await newer.close()


@pytest.mark.parametrize(("generation", "model"), [(2, MODEL), (1, "newer"), (1, None)])
async def test_the_tables_of_an_earlier_edition_are_dropped(
    database: PostgresServer, generation: int, model: str | None
) -> None:
    index = PostgresIndex(database.url, MODEL)
    await index.open(1)
    for tenant in ("t1", "t2"):
        await index.apply(tenant, START, entries(3, vectors=True)[:5])
    await index.close()
    index = PostgresIndex(database.url, model)
    await index.open(generation)
    names = database.rows("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1")
    assert names == [("edition",), ("tenant",), ("waiting",)]
    assert database.rows("SELECT count(*) FROM waiting") == [(0,)]
    await index.close()


# --- statistics and the vector index ----------------------------------------------------------------------------------


async def test_deleted_events_are_not_counted(database: PostgresServer) -> None:
    index = PostgresIndex(database.url, MODEL)
    await index.open(0)
    await index.apply("t1", START, entries(10, vectors=True)[:-1])
    await index.delete_before("t1", (9, 0))
    documents = "SELECT term, count(*) FROM event_1, unnest(tsvector_to_array(terms)) term GROUP BY 1 ORDER BY 1"
    counted = database.rows("SELECT term, documents FROM term_1 ORDER BY 1")
    assert counted == database.rows(documents)
    assert dict(counted)["견적"] == 6
    sizes = database.rows("SELECT documents, length, vectors FROM tenant")
    assert sizes == database.rows("SELECT count(*), sum(length), 5 FROM event_1")
    assert database.rows("SELECT count(*) FROM waiting") == [(1,)]
    await index.close()


async def test_many_vectors_are_indexed_and_filters_still_find_all_of_them(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_SCANNED_VECTORS", 59)
    index = PostgresIndex(database.url, MODEL, "tenant")
    await index.open(0)
    vector, before = bytes([1, 99, 7, 1]), list[str]()
    for at in (0, 30):
        await index.apply("t1", (at * 2, 0), entries(30, at=at, vectors=True))
        before = before or await ids(index, "없는말", vector)
    assert database.rows("SELECT is_indexed FROM tenant") == [(True,)]
    assert await ids(index, "없는말", vector) == before == [f"e{n}" for n in range(1, 6)]
    assert await ids(index, "없는말", vector, since=58) == ["e58", "e59", "e60"]
    await index.close()


async def test_no_vector_index_is_made_that_a_search_for_one_person_could_not_use(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_SCANNED_VECTORS", 3)
    index = PostgresIndex(database.url, MODEL)
    await index.open(0)
    await index.apply("t1", START, entries(5, vectors=True))
    assert database.rows("SELECT is_indexed, vectors FROM tenant") == [(False, 5)]
    await index.close()


async def test_vectors_are_searched_for_one_person_without_reading_the_events(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joining the events takes longer than comparing the vectors."""
    statements: list[bytes] = []
    execute = AsyncConnection.execute

    async def record(connection: AsyncConnection, statement: Any, *rest: Any) -> Any:
        statements.append(statement.encode() if isinstance(statement, str) else statement)
        return await execute(connection, statement, *rest)

    monkeypatch.setattr(AsyncConnection, "execute", record)
    index = PostgresIndex(database.url, MODEL)
    await index.open(0)
    readers = {"e1": "lee", "e2": EVERYBODY, "e3": "kim", "e4": "lee", "e5": "kim"}
    await index.apply("t1", START, [_named(logged, readers) for logged in entries(6, vectors=True)])
    hits = await index.search("t1", Query("없는말"), bytes([1, 99, 7, 1]), frozenset({EVERYBODY, "kim"}))
    assert [hit.event.id for hit in hits] == ["e2", "e3", "e5"]
    (nearest,) = [statement for statement in statements if b"<=>" in statement]
    assert b"event_1" not in nearest
    await index.close()


def _named(logged: KnowledgeEntry, readers: dict[str, str]) -> KnowledgeEntry:
    if isinstance(logged.entry, Vector):
        return logged
    return replace(logged, entry=replace(logged.entry, audience=("park", readers.get(logged.entry.id, "lee"))))


async def test_a_transaction_leaves_no_state_in_its_session(
    database: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection pooler may run each transaction in another session."""
    sessions: list[AsyncConnection] = []
    connect = AsyncConnection.connect

    async def record(*args: Any, **options: Any) -> AsyncConnection:
        sessions.append(await connect(*args, **options))
        return sessions[-1]

    monkeypatch.setattr(AsyncConnection, "connect", record)
    monkeypatch.setattr(tables, "MAX_SCANNED_VECTORS", 3)
    index = PostgresIndex(database.url, MODEL, "tenant")
    await index.open(0)
    await index.apply("t1", START, entries(5, vectors=True)[:-1])
    assert database.rows("SELECT is_indexed FROM tenant") == [(True,)]
    assert await index.list_missing_vectors(10)
    assert await ids(index, "견적", bytes([1, 99, 7, 1]))
    assert await ids(index, "견적", bytes([1, 99, 7, 1]), since=2)
    await index.delete_before("t1", (3, 0))
    (session,) = sessions
    for left in (
        "SELECT name FROM pg_prepared_statements",
        "SELECT name FROM pg_settings WHERE source = 'session' AND setting <> reset_val",
        "SELECT objid FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
        "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
        "SELECT name FROM pg_cursors WHERE is_holdable",
        "SELECT pg_listening_channels()",
    ):
        assert await (await session.execute(left.encode())).fetchall() == [], left
    await index.close()


# --- errors for operators ---------------------------------------------------------------------------------------------


async def error_of_opening(url: str, model: str | None = MODEL) -> str:
    async def open_it() -> None:
        index = PostgresIndex(url, model)
        try:
            await index.open(0)
        finally:
            await index.close()

    with pytest.raises(ConfigurationError) as raised:
        await open_it()
    assert "secret" not in str(raised.value)
    return str(raised.value)


async def test_a_problem_of_the_database_is_named_with_the_remedy(database: PostgresServer) -> None:
    assert "percent-encode" in await error_of_opening("postgresql://aura:100%secret@h/db")
    assert "after the question mark" in await error_of_opening(f"{database.url}&sslmod=require")
    database.execute("DROP EXTENSION IF EXISTS vector", "CREATE SCHEMA aside", "CREATE EXTENSION vector SCHEMA aside")
    database.execute("CREATE ROLE guest LOGIN PASSWORD 'secret'")
    database.execute("CREATE DATABASE western ENCODING 'LATIN1' TEMPLATE template0")
    try:
        assert "ENCODING 'UTF8'" in await error_of_opening(database.url.replace("/postgres?", "/western?"), None)
        assert "search_path" in await error_of_opening(database.url)
        assert "GRANT CREATE ON DATABASE" in await error_of_opening(database.url.replace("aura:a%20", "guest:"))
    finally:
        database.execute("DROP SCHEMA aside CASCADE", "DROP ROLE guest", "DROP DATABASE western")


async def test_searching_words_needs_no_extension(database: PostgresServer) -> None:
    database.execute("DROP EXTENSION IF EXISTS vector CASCADE")
    index = PostgresIndex(database.url, None)
    await index.open(0)
    await index.apply("t1", START, entries(2, vectors=True))
    assert set(await ids(index, "견적")) == {"e1", "e2"}
    assert database.rows("SELECT 1 FROM pg_extension WHERE extname = 'vector'") == []
    await index.close()


async def test_a_rejected_connection_names_the_cause_in_the_log_without_the_password(database: PostgresServer) -> None:
    index = PostgresIndex(database.url.replace("a%20secret", "another-secret"), MODEL)
    with pytest.raises(StorageUnavailable) as raised:
        await index.position("t1")
    assert "password authentication failed" in raised.value.log_cause
    assert "authentication" not in raised.value.message
    assert "another-secret" not in raised.value.log_cause
