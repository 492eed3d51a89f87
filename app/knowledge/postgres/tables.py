"""The tables of the index on a PostgreSQL server: a set for each tenant in one schema; pgvector for vectors.

As in the embedded index, a query names only the tables of its tenant. An *edition* is the index of one generation of
the log and one embedding model. A new edition starts empty, with tables of its own. So emptying the index is one small
write for any number of tenants, and processes that still use the old edition do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from app.errors import ConfigurationError
from app.knowledge.postgres.tsvector import Document, count_documents, halfvec_literal
from app.ports.knowledge import START, LogPosition, Vector, WorkspaceEvent

SCHEMA = "aura_knowledge_2"
"""Ends with the number of the format: processes with another format use another schema."""
_OLDER_SCHEMA = "aura_knowledge_1"
_RETIRED_SCHEMA = f"{_OLDER_SCHEMA}_retired"
_DROPPED_TABLES = 100
"""Tables that one transaction drops: each needs a lock, of which a server has a limited number."""
MAX_SCANNED_VECTORS = 20_000
"""A tenant with no more vectors has no vector index: comparing all of them is exact and fast enough."""
_MAX_HNSW_DIMENSIONS = 4000  # pgvector's limit

_SHARED = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE {SCHEMA}.edition (number int NOT NULL, generation bigint NOT NULL, model text);
CREATE TABLE {SCHEMA}.tenant (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, edition int NOT NULL, id text NOT NULL,
  ms bigint NOT NULL, sequence bigint NOT NULL, documents int NOT NULL DEFAULT 0, length bigint NOT NULL DEFAULT 0,
  vectors int NOT NULL DEFAULT 0, dimensions int NOT NULL DEFAULT 0, is_indexed bool NOT NULL DEFAULT false,
  UNIQUE (edition, id));
CREATE TABLE {SCHEMA}.waiting (n int NOT NULL, event bigint NOT NULL, PRIMARY KEY (n, event));
"""
# An event's row is never updated, so that only deleted rows have to be vacuumed. The pending list of the GIN index is
# kept short, because each search reads all of it (20 ms at its default size of 4 MB).
_TABLES = """
CREATE TABLE {schema}.event_{n} (row bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text UNIQUE NOT NULL,
  ms bigint NOT NULL, at float8 NOT NULL, type text NOT NULL, topics text[] NOT NULL, user_id text NOT NULL,
  title text NOT NULL, body text NOT NULL, terms tsvector NOT NULL, length int NOT NULL, audience text[] NOT NULL)
  WITH (toast_tuple_target = 8160);
CREATE INDEX ON {schema}.event_{n} (ms);
CREATE INDEX ON {schema}.event_{n} USING gin (terms) WITH (gin_pending_list_limit = 512);
CREATE INDEX ON {schema}.event_{n} USING gin (audience) WITH (gin_pending_list_limit = 512);
CREATE TABLE {schema}.term_{n} (term text PRIMARY KEY, documents int NOT NULL) WITH (fillfactor = 70);
"""
# The audience stands beside the vector, too: a search reads all vectors, and joining all events would take longer than
# that. An event's audience never changes.
_VECTORS = """
CREATE TABLE {schema}.vector_{n} (event bigint PRIMARY KEY, audience text[] NOT NULL,
  embedding halfvec({size}) NOT NULL) WITH (toast_tuple_target = 8160);
CREATE INDEX ON {schema}.vector_{n} USING gin (audience) WITH (gin_pending_list_limit = 512);
UPDATE {schema}.tenant SET dimensions = {size} WHERE n = {n};
"""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's row. `model` is that of the edition; `length` is the number of terms in all events."""

    n: int
    position: LogPosition
    documents: int
    length: int
    vectors: int
    dimensions: int
    is_indexed: bool
    model: str | None

    @property
    def needs_vector_index(self) -> bool:
        """Whether the tenant has too many vectors to compare all of them, and no index of them yet."""
        return not self.is_indexed and self.vectors > MAX_SCANNED_VECTORS and self.dimensions <= _MAX_HNSW_DIMENSIONS


@dataclass(frozen=True, slots=True)
class PreparedEvent:
    """An event with its position in the log and its terms."""

    position: LogPosition
    event: WorkspaceEvent
    document: Document


class Tables:
    """The tables on one connection, within one transaction. Only tenants of the current edition are visible."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- editions -----------------------------------------------------------------------------------------------------

    async def begin_edition(self, generation: int, model: str | None) -> None:
        """Starts a new edition unless the current one has this generation and this model.

        Raises `ConfigurationError` if the database cannot be used.
        """
        await self._rows("SELECT pg_advisory_xact_lock(hashtext(%s))", SCHEMA)  # processes may start simultaneously
        if await self._rows("SELECT to_regclass(%s)", f"{SCHEMA}.edition") == [(None,)]:
            await self._execute(_SHARED)
        if model is not None:
            await self._require_pgvector()
        if (encoding := (await self._rows("SHOW server_encoding"))[0][0]) != "UTF8":
            raise ConfigurationError(
                f"AURA_KNOWLEDGE_URL: the database has the encoding {encoding}: create one with ENCODING 'UTF8'"
            )
        found = await self._rows(f"SELECT number, generation, model FROM {SCHEMA}.edition")
        if found and found[0][1:] == (generation, model):
            return
        number = found[0][0] + 1 if found else 1
        await self._execute(f"DELETE FROM {SCHEMA}.edition")
        await self._execute(f"INSERT INTO {SCHEMA}.edition VALUES (%s, %s, %s)", number, generation, model)

    async def drop_one_old_tenant(self) -> bool:
        """Drops the tables of one tenant of an earlier edition. Returns False if there is none."""
        found = await self._rows(
            f"DELETE FROM {SCHEMA}.tenant WHERE n = (SELECT n FROM {SCHEMA}.tenant WHERE edition <>"
            f" (SELECT number FROM {SCHEMA}.edition) LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING n"
        )
        for (n,) in found:
            await self._execute(f"DELETE FROM {SCHEMA}.waiting WHERE n = %s", n)
            for kind in ("vector", "term", "event"):
                await self._execute(f"DROP TABLE IF EXISTS {SCHEMA}.{kind}_{n}")
        return bool(found)

    async def drop_older_format(self) -> bool:
        """Drops some tables of the format before this one, which has no audiences. Returns False if nothing is left.

        The schema is renamed first, so that processes that still use the older format get an empty one and not half of
        their tables.
        """
        await self._rows("SELECT pg_advisory_xact_lock(hashtext(%s))", SCHEMA)
        schemas = {name for (name,) in await self._rows("SELECT nspname FROM pg_namespace")}
        if _RETIRED_SCHEMA not in schemas:
            if _OLDER_SCHEMA not in schemas:
                return False
            await self._execute(f"ALTER SCHEMA {_OLDER_SCHEMA} RENAME TO {_RETIRED_SCHEMA}")
        tables = await self._rows(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s LIMIT %s", _RETIRED_SCHEMA, _DROPPED_TABLES
        )
        for (table,) in tables:
            await self._execute(f"DROP TABLE {_RETIRED_SCHEMA}.{table}")
        if len(tables) < _DROPPED_TABLES:
            await self._execute(f"DROP SCHEMA {_RETIRED_SCHEMA}")
        return True

    async def _require_pgvector(self) -> None:
        for create in (True, False):
            if await self._rows("SELECT to_regtype('halfvec')::text") != [(None,)]:
                return
            if create:
                await self._execute("CREATE EXTENSION IF NOT EXISTS vector")
        raise ConfigurationError(
            "AURA_KNOWLEDGE_URL: pgvector's type halfvec does not exist: update the extension to 0.7 or later (ALTER"
            " EXTENSION vector UPDATE), in a schema of the user's search_path"
        )

    # --- tenants ------------------------------------------------------------------------------------------------------

    async def tenant(self, tenant_id: str, *, locked: bool = False) -> Tenant | None:
        """Returns the tenant's row if it exists. `locked` keeps other writers out until the transaction ends."""
        rows = await self._rows(
            "SELECT n, ms, sequence, documents, length, vectors, dimensions, is_indexed, model"
            f" FROM {SCHEMA}.tenant JOIN {SCHEMA}.edition ON edition = number WHERE id = %s"
            f"{' FOR UPDATE OF tenant' if locked else ''}",
            tenant_id,
        )
        for n, ms, sequence, *rest in rows:
            return Tenant(n, (ms, sequence), *rest)
        return None

    async def add_tenant(self, tenant_id: str) -> Tenant | None:
        """Adds a tenant with its tables and returns its locked row; None if another process is emptying the index."""
        added = await self._rows(
            f"INSERT INTO {SCHEMA}.tenant (edition, id, ms, sequence) SELECT number, %s, %s, %s FROM {SCHEMA}.edition"
            " ON CONFLICT DO NOTHING RETURNING n",
            *(tenant_id, *START),
        )
        for (n,) in added:
            await self._execute(_TABLES.format(schema=SCHEMA, n=n))
        return await self.tenant(tenant_id, locked=True)

    async def set_position(self, tenant: Tenant, position: LogPosition) -> None:
        await self._execute(f"UPDATE {SCHEMA}.tenant SET ms = %s, sequence = %s WHERE n = %s", *position, tenant.n)

    # --- indexing -----------------------------------------------------------------------------------------------------

    async def put_events(self, tenant: Tenant, entries: Sequence[PreparedEvent]) -> None:
        n, table = tenant.n, f"{SCHEMA}.event_{tenant.n}"
        rows = await self._rows(
            f"INSERT INTO {table} (id, ms, at, type, topics, user_id, title, body, terms, length, audience)"
            " SELECT * FROM json_to_recordset(%s) AS given (id text, ms bigint, at float8, type text, topics text[],"
            " user_id text, title text, body text, terms tsvector, length int, audience text[])"
            " ON CONFLICT (id) DO NOTHING RETURNING id, row",
            json.dumps([_columns(entry) for entry in entries], ensure_ascii=False),
        )
        new, first = dict(rows), {entry.event.id: entry.document for entry in reversed(entries)}
        documents = [first[id] for id in new]
        counts = count_documents(documents)
        await self._execute(
            f"INSERT INTO {SCHEMA}.term_{n} AS known SELECT * FROM unnest(%s::text[], %s::int[]) ON CONFLICT (term)"
            " DO UPDATE SET documents = known.documents + excluded.documents",
            *(list(counts), list(counts.values())),
        )
        await self._execute(
            f"UPDATE {SCHEMA}.tenant SET documents = documents + %s, length = length + %s WHERE n = %s",
            *(len(documents), sum(document.length for document in documents), n),
        )
        if tenant.model is not None:
            await self._execute(f"INSERT INTO {SCHEMA}.waiting SELECT %s, unnest(%s::bigint[])", n, list(new.values()))

    async def put_vectors(self, tenant: Tenant, vectors: Sequence[Vector]) -> None:
        """Inserts the vectors of the edition's embedding model.

        Skips a vector of another model or another size, one without an indexed event, and every further vector of an
        event. An event whose vector is skipped for its size, or is empty, is not embedded again.
        """
        n, values = tenant.n, {v.event_id: v.values for v in reversed(vectors) if v.model == tenant.model}
        expected = await self._rows(
            f"DELETE FROM {SCHEMA}.waiting USING {SCHEMA}.event_{n} WHERE n = %s AND event = row AND id = ANY(%s)"
            " RETURNING row, id",
            *(n, list(values)),
        )
        given = [(row, values[id]) for row, id in expected if values[id]]
        if not given:
            return
        size = tenant.dimensions or len(given[0][1])
        if not tenant.dimensions:
            await self._execute(_VECTORS.format(schema=SCHEMA, n=n, size=size))
        # Vectors of another size are skipped: the server may have replaced the model under the same name.
        fitting = [(row, halfvec_literal(one)) for row, one in given if len(one) == size]
        await self._execute(
            f"INSERT INTO {SCHEMA}.vector_{n} SELECT row, audience, embedding FROM {SCHEMA}.event_{n}"
            " JOIN unnest(%s::bigint[], %s::text[]::halfvec[]) AS given (row, embedding) USING (row)",
            *([row for row, _ in fitting], [one for _, one in fitting]),
        )
        await self._execute(f"UPDATE {SCHEMA}.tenant SET vectors = vectors + %s WHERE n = %s", len(fitting), n)

    async def index_vectors(self, tenant_id: str) -> None:
        """Creates the vector index of a tenant that needs one."""
        tenant = await self.tenant(tenant_id, locked=True)
        if tenant is not None and tenant.needs_vector_index:
            own = f"{SCHEMA}.vector_{tenant.n}"
            await self._execute(f"CREATE INDEX ON {own} USING hnsw (embedding halfvec_cosine_ops)")
            await self._execute(f"UPDATE {SCHEMA}.tenant SET is_indexed = true WHERE n = %s", tenant.n)

    async def has_events_before(self, tenant: Tenant, ms: int) -> bool:
        return bool(await self._rows(f"SELECT 1 FROM {SCHEMA}.event_{tenant.n} WHERE ms < %s LIMIT 1", ms))

    async def delete_events_before(self, tenant: Tenant, ms: int) -> None:
        n, term, vector = tenant.n, f"{SCHEMA}.term_{tenant.n}", f"{SCHEMA}.vector_{tenant.n}"
        vectors = (
            f"DELETE FROM {vector} USING gone WHERE event = row RETURNING 1"
            if tenant.dimensions
            else "SELECT 1 LIMIT 0"
        )
        await self._execute(
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

    async def _execute(self, statement: str, *values: Any) -> None:
        await self._connection.execute(statement.encode(), values or None)

    async def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(statement.encode(), values or None)).fetchall()


def _columns(entry: PreparedEvent) -> dict[str, Any]:
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
        "audience": event.audience,
    }
