"""The search server's tables: a set for each tenant in one schema of PostgreSQL; pgvector for vectors.

As in the embedded index a tenant's query names that tenant's tables only. An *edition* is what was made of one
generation of the log, for one model: a new one begins empty with tables of its own, so that emptying is one small
write however many tenants there are, and whoever still works on the old one harms nobody.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from app.errors import ConfigurationError
from app.knowledge.postgres.tsvector import Document, counted, halfvec
from app.ports.knowledge import START, LogPosition, Vector, WorkspaceEvent

SCHEMA = "aura_knowledge_1"
"""Ends in the number of the format: processes of another one have tables of their own."""
_EXHAUSTIVE = 20_000
"""Vectors of a tenant up to which all are looked at: exact, and soon done."""
_HNSW_DIMENSIONS = 4000  # pgvector's most

_SHARED = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE {SCHEMA}.edition (number int NOT NULL, generation bigint NOT NULL, model text);
CREATE TABLE {SCHEMA}.tenant (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, edition int NOT NULL, id text NOT NULL,
  ms bigint NOT NULL, sequence bigint NOT NULL, documents int NOT NULL DEFAULT 0, length bigint NOT NULL DEFAULT 0,
  vectors int NOT NULL DEFAULT 0, dimensions int NOT NULL DEFAULT 0, is_indexed bool NOT NULL DEFAULT false,
  UNIQUE (edition, id));
CREATE TABLE {SCHEMA}.waiting (n int NOT NULL, event bigint NOT NULL, PRIMARY KEY (n, event));
"""
# An event's row is written once: whatever changes is elsewhere, so that nothing has to be cleaned but what was dropped.
# Each search reads the whole list of terms that are not sorted in yet (20 ms at its usual 4 MB): it is kept short.
_TABLES = """
CREATE TABLE {schema}.event_{n} (row bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text UNIQUE NOT NULL,
  ms bigint NOT NULL, at float8 NOT NULL, type text NOT NULL, topics text[] NOT NULL, user_id text NOT NULL,
  title text NOT NULL, body text NOT NULL, terms tsvector NOT NULL, length int NOT NULL)
  WITH (toast_tuple_target = 8160);
CREATE INDEX ON {schema}.event_{n} (ms);
CREATE INDEX ON {schema}.event_{n} USING gin (terms) WITH (gin_pending_list_limit = 512);
CREATE TABLE {schema}.term_{n} (term text PRIMARY KEY, documents int NOT NULL) WITH (fillfactor = 70);
"""
_VECTORS = """
CREATE TABLE {schema}.vector_{n} (event bigint PRIMARY KEY, embedding halfvec({size}) NOT NULL)
  WITH (toast_tuple_target = 8160);
UPDATE {schema}.tenant SET dimensions = {size} WHERE n = {n};
"""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's row. `model` is the edition's; `length` is of all its events, in terms."""

    n: int
    position: LogPosition
    documents: int
    length: int
    vectors: int
    dimensions: int
    is_indexed: bool
    model: str | None

    @property
    def wants_index(self) -> bool:
        return not self.is_indexed and self.vectors > _EXHAUSTIVE and self.dimensions <= _HNSW_DIMENSIONS


@dataclass(frozen=True, slots=True)
class Indexed:
    """An event and what is found of it, at its place in the log."""

    position: LogPosition
    event: WorkspaceEvent
    document: Document


class Tables:
    """On one connection, within one transaction; everything but `Tenant`s of the edition in use is out of sight."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- editions -----------------------------------------------------------------------------------------------------

    async def begin_edition(self, generation: int, model: str | None) -> None:
        """A new one, unless the one that is there is of this generation and this model."""
        await self._rows("SELECT pg_advisory_xact_lock(hashtext(%s))", SCHEMA)  # several processes start at once
        if await self._rows("SELECT to_regclass(%s)", f"{SCHEMA}.edition") == [(None,)]:
            await self._do(_SHARED)
        if model is not None:
            await self._see_to_vectors()
        if (encoding := (await self._rows("SHOW server_encoding"))[0][0]) != "UTF8":
            raise ConfigurationError(
                f"AURA_KNOWLEDGE_URL: the database is in {encoding}: create one with ENCODING 'UTF8'"
            )
        found = await self._rows(f"SELECT number, generation, model FROM {SCHEMA}.edition")
        if found and found[0][1:] == (generation, model):
            return
        number = found[0][0] + 1 if found else 1
        await self._do(f"DELETE FROM {SCHEMA}.edition")
        await self._do(f"INSERT INTO {SCHEMA}.edition VALUES (%s, %s, %s)", number, generation, model)

    async def drop_old(self) -> bool:
        """The tables of one tenant of an earlier edition; false: there are none left."""
        found = await self._rows(
            f"DELETE FROM {SCHEMA}.tenant WHERE n = (SELECT n FROM {SCHEMA}.tenant WHERE edition <>"
            f" (SELECT number FROM {SCHEMA}.edition) LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING n"
        )
        for (n,) in found:
            await self._do(f"DELETE FROM {SCHEMA}.waiting WHERE n = %s", n)
            for kind in ("vector", "term", "event"):
                await self._do(f"DROP TABLE IF EXISTS {SCHEMA}.{kind}_{n}")
        return bool(found)

    async def _see_to_vectors(self) -> None:
        for create in (True, False):
            if await self._rows("SELECT to_regtype('halfvec')::text") != [(None,)]:
                return
            if create:
                await self._do("CREATE EXTENSION IF NOT EXISTS vector")
        raise ConfigurationError(
            "AURA_KNOWLEDGE_URL: pgvector's type halfvec is not there: update the extension to 0.7 or later (ALTER"
            " EXTENSION vector UPDATE), in a schema of the user's search_path"
        )

    # --- tenants ------------------------------------------------------------------------------------------------------

    async def tenant(self, tenant_id: str, *, locked: bool = False) -> Tenant | None:
        """`locked`: nobody else takes anything in until this transaction has ended."""
        rows = await self._rows(
            "SELECT n, ms, sequence, documents, length, vectors, dimensions, is_indexed, model"
            f" FROM {SCHEMA}.tenant JOIN {SCHEMA}.edition ON edition = number WHERE id = %s"
            f"{' FOR UPDATE OF tenant' if locked else ''}",
            tenant_id,
        )
        for n, ms, sequence, *rest in rows:
            return Tenant(n, (ms, sequence), *rest)
        return None

    async def new_tenant(self, tenant_id: str) -> Tenant | None:
        """Locked. None: somebody is emptying the index."""
        made = await self._rows(
            f"INSERT INTO {SCHEMA}.tenant (edition, id, ms, sequence) SELECT number, %s, %s, %s FROM {SCHEMA}.edition"
            " ON CONFLICT DO NOTHING RETURNING n",
            *(tenant_id, *START),
        )
        for (n,) in made:
            await self._do(_TABLES.format(schema=SCHEMA, n=n))
        return await self.tenant(tenant_id, locked=True)

    async def move(self, tenant: Tenant, position: LogPosition) -> None:
        await self._do(f"UPDATE {SCHEMA}.tenant SET ms = %s, sequence = %s WHERE n = %s", *position, tenant.n)

    # --- taking in ----------------------------------------------------------------------------------------------------

    async def put_events(self, tenant: Tenant, entries: Sequence[Indexed]) -> None:
        n, table = tenant.n, f"{SCHEMA}.event_{tenant.n}"
        rows = await self._rows(
            f"INSERT INTO {table} (id, ms, at, type, topics, user_id, title, body, terms, length)"
            " SELECT * FROM json_to_recordset(%s) AS given (id text, ms bigint, at float8, type text, topics text[],"
            " user_id text, title text, body text, terms tsvector, length int)"
            " ON CONFLICT (id) DO NOTHING RETURNING id, row",
            json.dumps([_columns(entry) for entry in entries], ensure_ascii=False),
        )
        new, first = dict(rows), {entry.event.id: entry.document for entry in reversed(entries)}
        documents = [first[id] for id in new]
        counts = counted(documents)
        await self._do(
            f"INSERT INTO {SCHEMA}.term_{n} AS known SELECT * FROM unnest(%s::text[], %s::int[]) ON CONFLICT (term)"
            " DO UPDATE SET documents = known.documents + excluded.documents",
            *(list(counts), list(counts.values())),
        )
        await self._do(
            f"UPDATE {SCHEMA}.tenant SET documents = documents + %s, length = length + %s WHERE n = %s",
            *(len(documents), sum(document.length for document in documents), n),
        )
        if tenant.model is not None:
            await self._do(f"INSERT INTO {SCHEMA}.waiting SELECT %s, unnest(%s::bigint[])", n, list(new.values()))

    async def put_vectors(self, tenant: Tenant, vectors: Sequence[Vector]) -> None:
        """Those of the edition's model, the first of each event."""
        n, values = tenant.n, {v.event_id: v.values for v in reversed(vectors) if v.model == tenant.model}
        waited = await self._rows(
            f"DELETE FROM {SCHEMA}.waiting USING {SCHEMA}.event_{n} WHERE n = %s AND event = row AND id = ANY(%s)"
            " RETURNING row, id",
            *(n, list(values)),
        )
        given = [(row, values[id]) for row, id in waited if values[id]]
        if not given:
            return
        size = tenant.dimensions or len(given[0][1])
        if not tenant.dimensions:
            await self._do(_VECTORS.format(schema=SCHEMA, n=n, size=size))
        fitting = [(row, halfvec(one)) for row, one in given if len(one) == size]  # a server may change its model
        await self._do(
            f"INSERT INTO {SCHEMA}.vector_{n} SELECT * FROM unnest(%s::bigint[], %s::text[]::halfvec[])",
            *([row for row, _ in fitting], [one for _, one in fitting]),
        )
        await self._do(f"UPDATE {SCHEMA}.tenant SET vectors = vectors + %s WHERE n = %s", len(fitting), n)

    async def index_vectors(self, tenant_id: str) -> None:
        """Let the vectors of a tenant that has many be found without looking at all of them."""
        tenant = await self.tenant(tenant_id, locked=True)
        if tenant is not None and tenant.wants_index:
            own = f"{SCHEMA}.vector_{tenant.n}"
            await self._do(f"CREATE INDEX ON {own} USING hnsw (embedding halfvec_cosine_ops)")
            await self._do(f"UPDATE {SCHEMA}.tenant SET is_indexed = true WHERE n = %s", tenant.n)

    async def has_before(self, tenant: Tenant, ms: int) -> bool:
        return bool(await self._rows(f"SELECT 1 FROM {SCHEMA}.event_{tenant.n} WHERE ms < %s LIMIT 1", ms))

    async def drop_before(self, tenant: Tenant, ms: int) -> None:
        n, term, vector = tenant.n, f"{SCHEMA}.term_{tenant.n}", f"{SCHEMA}.vector_{tenant.n}"
        vectors = (
            f"DELETE FROM {vector} USING gone WHERE event = row RETURNING 1"
            if tenant.dimensions
            else "SELECT 1 LIMIT 0"
        )
        await self._do(
            f"WITH gone AS (DELETE FROM {SCHEMA}.event_{n} WHERE ms < %s RETURNING row, terms, length),"
            " less AS (SELECT term, count(*) AS documents FROM gone, unnest(tsvector_to_array(terms)) term GROUP BY 1),"
            f" fewer AS (UPDATE {term} AS known SET documents = known.documents - less.documents FROM less"
            "   WHERE known.term = less.term AND known.documents > less.documents),"
            f" none AS (DELETE FROM {term} AS known USING less"
            "   WHERE known.term = less.term AND known.documents <= less.documents),"
            f" not_waiting AS (DELETE FROM {SCHEMA}.waiting USING gone WHERE n = {n} AND event = row),"
            f" vectors AS ({vectors})"
            f" UPDATE {SCHEMA}.tenant SET documents = documents - (SELECT count(*) FROM gone),"
            " length = length - (SELECT coalesce(sum(length), 0) FROM gone),"
            f" vectors = vectors - (SELECT count(*) FROM vectors) WHERE n = {n}",
            ms,
        )

    async def _do(self, statement: str, *values: Any) -> None:
        await self._connection.execute(statement.encode(), values or None)

    async def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(statement.encode(), values or None)).fetchall()


def _columns(entry: Indexed) -> dict[str, Any]:
    event, document = entry.event, entry.document
    return {
        "id": event.id,
        "ms": entry.position[0],
        "at": event.at,
        "type": event.type,
        "topics": event.topics,
        "user_id": event.user_id,
        "title": event.title,
        "body": event.text,
        "terms": document.literal,
        "length": document.length,
    }
