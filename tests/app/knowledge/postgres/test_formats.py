"""The index of an older release: events without an audience are found by nobody, and its tables are dropped."""

from __future__ import annotations

import asyncio

from app.knowledge.postgres.index import PostgresIndex
from app.knowledge.postgres.tables import SCHEMA
from app.ports.knowledge import START, KnowledgeEntry, Query, Searcher, WorkspaceEvent
from tests.harness.postgres import PostgresServer

OLDER = "aura_knowledge_1"
SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'aura_knowledge%' ORDER BY 1"


def install_older_index(database: PostgresServer, tenants: int, schema: str = OLDER) -> None:
    database.execute(
        f"CREATE SCHEMA {schema}",
        f"CREATE TABLE {schema}.edition (number int NOT NULL, generation bigint NOT NULL, model text)",
        *(
            f"CREATE TABLE {schema}.{kind}_{n} (row bigint, id text, body text)"
            for n in range(tenants)
            for kind in ("event", "term", "vector")
        ),
    )


async def test_the_tables_of_an_older_format_are_dropped_when_a_process_starts(database: PostgresServer) -> None:
    """Also a part of them that a process has left that was killed meanwhile, and by several processes at once."""
    install_older_index(database, tenants=40)
    install_older_index(database, tenants=3, schema=f"{OLDER}_retired")
    database.execute("CREATE SCHEMA aura_knowledge_of_others")
    indexes = [PostgresIndex(database.url, None) for _ in range(3)]
    try:
        await asyncio.gather(*(index.open(0) for index in indexes))
        assert database.rows(SCHEMAS) == [(SCHEMA,), ("aura_knowledge_of_others",)]
        event = WorkspaceEvent("e1", "t1", "mail", ("mail",), "u1", 1, "견적서", "", ("kim",))
        await indexes[0].apply("t1", START, [KnowledgeEntry((1, 0), event)])
        for user, found in (("kim", ["e1"]), ("lee", [])):
            hits = await indexes[1].search("t1", Query("견적"), None, Searcher("t1", user).names)
            assert [hit.event.id for hit in hits] == found
    finally:
        database.execute("DROP SCHEMA aura_knowledge_of_others")
        for index in indexes:
            await index.close()
