"""Searches a tenant's tables in PostgreSQL: ranked by words (BM25), by vectors, and by both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from psycopg import AsyncConnection

from app.knowledge.postgres.tables import SCHEMA, Tables, Tenant
from app.knowledge.postgres.tsvector import halfvec_literal, query_lexemes, tsquery
from app.knowledge.ranking import CANDIDATES, MIN_RELEVANCE, discriminative_terms, fuse
from app.knowledge.text import excerpt, query_terms
from app.ports.knowledge import Hit, MissingVector, Query, WorkspaceEvent

_LENGTH_SHARE = 0.75
"""The parameter b of BM25, at its usual value."""
_MAX_MATCHES = 10_000
_HNSW_CANDIDATES = 100


class PostgresSearch:
    """Searches on one connection, within one transaction. `model` is the label of the model of the query's vector."""

    def __init__(self, connection: AsyncConnection, model: str | None) -> None:
        self._connection = connection
        self._model = model

    async def search(
        self, tenant_id: str, query: Query, vector: bytes | None, names: frozenset[str] | None
    ) -> list[Hit]:
        await self._begin_reading()
        tenant = await Tables(self._connection).tenant(tenant_id)
        if tenant is None:
            return []
        by_text = await self._by_text(tenant, query, names)
        # Vectors of different models cannot be compared: during a deployment only words may count.
        is_comparable = tenant.model == self._model and vector is not None and tenant.dimensions == len(vector)
        by_vector = await self._by_vector(tenant, query, vector, names) if vector and is_comparable else []
        best = fuse(by_text, by_vector)[: query.limit]
        events, terms = await self._events(tenant.n, tenant_id, best), query_terms(query.text)
        return [Hit(events[row], excerpt(events[row].text, terms)) for row in best]

    async def list_missing_vectors(self, limit: int) -> list[MissingVector]:
        await self._begin_reading()
        missing = await self._rows(
            f"SELECT n, id, array_agg(event ORDER BY event DESC) FROM (SELECT n, id, event FROM {SCHEMA}.waiting"
            f" JOIN {SCHEMA}.tenant USING (n) JOIN {SCHEMA}.edition ON edition = number WHERE model = %s"
            " ORDER BY n, event DESC LIMIT %s) AS first GROUP BY n, id ORDER BY n",
            *(self._model, limit),
        )
        found: list[MissingVector] = []
        for n, tenant_id, rows in missing:
            events = await self._events(n, tenant_id, rows)
            found += [MissingVector(tenant_id, events[row].id, events[row].embedding_text) for row in rows]
        return found

    async def _begin_reading(self) -> None:
        """Makes the transaction read one snapshot, without JIT compilation, which takes longer than these queries."""
        await self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL jit = off")

    async def _by_text(self, tenant: Tenant, query: Query, names: frozenset[str] | None) -> list[int]:
        lexemes = query_lexemes(query.text)
        known = await self._rows(f"SELECT term, documents FROM {SCHEMA}.term_{tenant.n} WHERE term = ANY(%s)", lexemes)
        documents: dict[str, int] = dict(known)
        chosen = discriminative_terms(lexemes, documents, tenant.documents)
        matched = _rarest(chosen, documents)
        conditions = _conditions(query, names)
        found = await self._ranked(tenant, chosen, matched, documents, conditions)
        if found or len(matched) == len(lexemes):
            return found
        # The terms were chosen by the events of all. A rare one that only events of others have would hide what this
        # person may find, and so show that it exists.
        return await self._ranked(tenant, lexemes, lexemes, documents, conditions)

    async def _ranked(
        self,
        tenant: Tenant,
        chosen: Sequence[str],
        matched: Sequence[str],
        documents: Mapping[str, int],
        conditions: tuple[str, list[Any]],
    ) -> list[int]:
        """Returns the events that have at least one `matched` term, ranked by the `chosen` ones."""
        if not chosen:
            return []
        # BM25 with one difference: repetitions of a term count as in ts_rank (1 + 1/4 + 1/9 …).
        score = " + ".join(["%s * ts_rank('{0.5, 0, 0, 1}', terms, %s::tsquery)"] * len(chosen))
        weights = [_rarity(documents.get(term, 0), tenant.documents) for term in chosen]
        where, values = conditions
        ranked = await self._rows(
            f"SELECT row, ({score}) / ({1 - _LENGTH_SHARE} + {_LENGTH_SHARE} * length / %s::float8) AS score"
            f" FROM {SCHEMA}.event_{tenant.n} AS event WHERE terms @@ %s::tsquery{where}"
            f" ORDER BY score DESC, row LIMIT {CANDIDATES}",
            *(part for pair in zip(weights, map(tsquery, chosen), strict=True) for part in pair),
            *(tenant.length / max(tenant.documents, 1) or 1, " | ".join(map(tsquery, matched)), *values),
        )
        return [row for row, score in ranked if score >= ranked[0][1] * MIN_RELEVANCE]

    async def _by_vector(self, tenant: Tenant, query: Query, vector: bytes, names: frozenset[str] | None) -> list[int]:
        own = f"{SCHEMA}.vector_{tenant.n}"
        if tenant.is_indexed:
            await self._rows("SELECT set_config('hnsw.ef_search', %s, true)", str(_HNSW_CANDIDATES))
        own_where, own_values = _audience_condition("own", names)
        where, values = _conditions(query, None)
        joined = f" JOIN {SCHEMA}.event_{tenant.n} AS event ON own.event = event.row" if where else ""
        # The vector index is not used with conditions: of the nearest vectors that it returns, few may fulfil them.
        exhaustive = " + 0" if where or own_where else ""
        found = await self._rows(
            f"SELECT own.event FROM {own} AS own{joined} WHERE true{own_where}{where}"
            f" ORDER BY (own.embedding <=> %s::halfvec){exhaustive} LIMIT {CANDIDATES}",
            *(*own_values, *values, halfvec_literal(vector)),
        )
        return [row for (row,) in found]

    async def _events(self, n: int, tenant_id: str, rows: Sequence[int]) -> dict[int, WorkspaceEvent]:
        found = await self._rows(
            "SELECT row, id, type, topics, user_id, at, title, body, audience"
            f" FROM {SCHEMA}.event_{n} WHERE row = ANY(%s)",
            list(rows),
        )
        return {
            row: WorkspaceEvent(id, tenant_id, type, tuple(topics), user_id, at, title, body, tuple(audience))
            for row, id, type, topics, user_id, at, title, body, audience in found
        }

    async def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(statement.encode(), values or None)).fetchall()


def _rarity(documents: int, total: int) -> float:
    """Returns the weight (IDF) of a term in BM25."""
    return max(math.log((total - documents + 0.5) / (documents + 0.5)), 1e-6)


def _rarest(chosen: Sequence[str], documents: Mapping[str, int]) -> list[str]:
    """Returns the terms of which an event must contain at least one to be ranked by all of them.

    Ranking an event is costly. If many events have one of the rarer terms, events that have only a more common one are
    hardly among the best.
    """
    rising = sorted(chosen, key=lambda term: documents.get(term, 0))
    sums = accumulate(documents.get(term, 0) for term in rising)
    return [
        term for n, (term, matches) in enumerate(zip(rising, sums, strict=True)) if not n or matches <= _MAX_MATCHES
    ]


def _conditions(query: Query, names: frozenset[str] | None) -> tuple[str, list[Any]]:
    """Returns SQL conditions on `event` that follow others, and their values."""
    conditions, values = "", list[Any]()
    if query.since is not None:
        conditions += " AND event.at >= %s"
        values.append(query.since)
    if query.types:
        conditions += " AND event.topics && %s::text[]"
        values.append([kind.replace("\0", "").strip().lower() for kind in query.types])
    audience, audience_values = _audience_condition("event", names)
    return conditions + audience, values + audience_values


def _audience_condition(table: str, names: frozenset[str] | None) -> tuple[str, list[Any]]:
    """Returns the SQL condition that one of these names is in the audience of `table`, and its values."""
    return ("", []) if names is None else (f" AND {table}.audience && %s::text[]", [sorted(names)])
