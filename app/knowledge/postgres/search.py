"""What is asked of a tenant's tables in PostgreSQL: ranked by words, by meaning, by both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from psycopg import AsyncConnection

from app.knowledge.postgres.tables import SCHEMA, Tables, Tenant
from app.knowledge.postgres.tsvector import asked, halfvec, pattern
from app.knowledge.ranking import CANDIDATES, LEAST_RELEVANCE, fuse, telling
from app.knowledge.text import excerpt, query_terms
from app.ports.knowledge import Hit, MissingVector, Query, WorkspaceEvent

_LENGTH_SHARE = 0.75
"""BM25's usual b."""
_MOST_MATCHES = 10_000
_HNSW_CANDIDATES = 100


class Finding:
    """On one connection, within one transaction. `model` is the one whose vectors are asked with."""

    def __init__(self, connection: AsyncConnection, model: str | None) -> None:
        self._connection = connection
        self._model = model

    async def search(self, tenant_id: str, query: Query, vector: bytes | None) -> list[Hit]:
        await self._begin()
        tenant = await Tables(self._connection).tenant(tenant_id)
        if tenant is None:
            return []
        by_text = await self._by_text(tenant, query)
        # vectors of another model cannot be compared: in the middle of a deployment words alone decide
        is_comparable = tenant.model == self._model and vector is not None and tenant.dimensions == len(vector)
        used_vectors = await self._by_meaning(tenant, query, vector) if vector and is_comparable else []
        best = fuse(by_text, used_vectors)[: query.limit]
        events, wanted = await self._events(tenant.n, tenant_id, best), query_terms(query.text)
        return [Hit(events[row], excerpt(events[row].text, wanted)) for row in best]

    async def list_missing_vectors(self, most: int) -> list[MissingVector]:
        await self._begin()
        waiting = await self._rows(
            f"SELECT n, id, array_agg(event ORDER BY event DESC) FROM (SELECT n, id, event FROM {SCHEMA}.waiting"
            f" JOIN {SCHEMA}.tenant USING (n) JOIN {SCHEMA}.edition ON edition = number WHERE model = %s"
            " ORDER BY n, event DESC LIMIT %s) AS first GROUP BY n, id ORDER BY n",
            *(self._model, most),
        )
        found: list[MissingVector] = []
        for n, tenant_id, rows in waiting:
            events = await self._events(n, tenant_id, rows)
            found += [MissingVector(tenant_id, events[row].id, events[row].embedding_text) for row in rows]
        return found

    async def _begin(self) -> None:
        """All that is read is of one moment; and nothing is compiled: that costs more than any of these queries."""
        await self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL jit = off")

    async def _by_text(self, tenant: Tenant, query: Query) -> list[int]:
        wanted = asked(query.text)
        known = await self._rows(f"SELECT term, documents FROM {SCHEMA}.term_{tenant.n} WHERE term = ANY(%s)", wanted)
        documents: dict[str, int] = dict(known)
        chosen = telling(wanted, documents, tenant.documents)
        if not chosen:
            return []
        # BM25 but for one thing: how a term that is said again counts less and less is ts_rank's (1 + 1/4 + 1/9 …)
        score = " + ".join(["%s * ts_rank('{0.5, 0, 0, 1}', terms, %s::tsquery)"] * len(chosen))
        weights = [_rarity(documents.get(term, 0), tenant.documents) for term in chosen]
        matched = " | ".join(map(pattern, _rarest(chosen, documents)))
        where, values = _conditions(query)
        ranked = await self._rows(
            f"SELECT row, ({score}) / ({1 - _LENGTH_SHARE} + {_LENGTH_SHARE} * length / %s::float8) AS score"
            f" FROM {SCHEMA}.event_{tenant.n} AS event WHERE terms @@ %s::tsquery{where}"
            f" ORDER BY score DESC, row LIMIT {CANDIDATES}",
            *(part for pair in zip(weights, map(pattern, chosen), strict=True) for part in pair),
            *(tenant.length / max(tenant.documents, 1) or 1, matched, *values),
        )
        return [row for row, score in ranked if score >= ranked[0][1] * LEAST_RELEVANCE]

    async def _by_meaning(self, tenant: Tenant, query: Query, vector: bytes) -> list[int]:
        where, values = _conditions(query)
        own = f"{SCHEMA}.vector_{tenant.n}"
        if tenant.is_indexed:
            await self._rows("SELECT set_config('hnsw.ef_search', %s, true)", str(_HNSW_CANDIDATES))
        if not where:
            nearest = f"SELECT event FROM {own} ORDER BY embedding <=> %s::halfvec LIMIT {CANDIDATES}"
        else:
            # not by the vectors' index: it finds what is near, and of that little may be of the kind that was asked for
            nearest = (
                f"SELECT event.row FROM {own} AS own JOIN {SCHEMA}.event_{tenant.n} AS event ON own.event = event.row"
                f" WHERE true{where} ORDER BY (embedding <=> %s::halfvec) + 0 LIMIT {CANDIDATES}"
            )
        return [row for (row,) in await self._rows(nearest, *values, halfvec(vector))]

    async def _events(self, n: int, tenant_id: str, rows: Sequence[int]) -> dict[int, WorkspaceEvent]:
        found = await self._rows(
            f"SELECT row, id, type, topics, user_id, at, title, body FROM {SCHEMA}.event_{n} WHERE row = ANY(%s)",
            list(rows),
        )
        return {
            row: WorkspaceEvent(id, tenant_id, type, tuple(topics), *rest) for row, id, type, topics, *rest in found
        }

    async def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(statement.encode(), values or None)).fetchall()


def _rarity(documents: int, total: int) -> float:
    """BM25's weight of a term."""
    return max(math.log((total - documents + 0.5) / (documents + 0.5)), 1e-6)


def _rarest(chosen: Sequence[str], documents: Mapping[str, int]) -> list[str]:
    """What an event must hold one of to be ranked by all of them. Each that is ranked costs, and where the rarer terms
    are in many already, one that has only the more common is hardly among the best."""
    rising = sorted(chosen, key=lambda term: documents.get(term, 0))
    sums = accumulate(documents.get(term, 0) for term in rising)
    return [
        term for n, (term, matches) in enumerate(zip(rising, sums, strict=True)) if not n or matches <= _MOST_MATCHES
    ]


def _conditions(query: Query) -> tuple[str, list[Any]]:
    words, values = "", list[Any]()
    if query.since is not None:
        words += " AND event.at >= %s"
        values.append(query.since)
    if query.types:
        words += " AND event.topics && %s::text[]"
        values.append([kind.replace("\0", "").strip().lower() for kind in query.types])
    return words, values
