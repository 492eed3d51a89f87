"""The search engines that `tests.bench.knowledge` compares, behind one interface.

All but Aura's own two are optional: each imports its library when it is made.
"""

from __future__ import annotations

import asyncio
import os
from array import array
from collections import defaultdict
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from app.dev.demo.embeddings import DIMENSIONS
from app.knowledge.embeddings import quantise
from app.knowledge.postgres import tables
from app.knowledge.postgres.index import PostgresIndex
from app.knowledge.postgres.tsvector import query_lexemes, stem
from app.knowledge.ranking import fuse
from app.knowledge.sqlite.database import Database
from app.knowledge.text import query_terms, terms
from app.ports.knowledge import EVERYBODY, AudienceRule, KnowledgeEntry, Query, Vector, WorkspaceEvent
from tests.harness.postgres import PostgresServer

LIMIT = 5
NAMES = frozenset({EVERYBODY, "bench"})
"""The names of the person who searches. That person may find everything, which takes the most time."""


class SearchEngine(Protocol):
    """An index of events. `finish` completes it; `search` returns the ids of the best `LIMIT` events, best first."""

    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None: ...
    def finish(self) -> None: ...
    def search(self, text: str, vector: Sequence[float] | None) -> list[str]: ...


@runtime_checkable
class SearchServer(Protocol):
    """A search engine that runs in processes of its own."""

    def pids(self) -> list[int]: ...
    def disk_bytes(self) -> int: ...
    def close(self) -> None: ...


class Sqlite:
    """Aura's embedded index: FTS5 on pairs of syllables, sqlite-vec with a byte for each dimension."""

    def __init__(self, folder: str) -> None:
        self.database = Database(f"{folder}/index.db", "bench")
        self.database.open_generation(0)
        self.position = 0

    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None:
        entries: list[WorkspaceEvent | Vector] = [*events]
        entries += [Vector(e.id, "bench", quantise(v)) for e, v in zip(events, vectors, strict=True)]
        logged = [KnowledgeEntry((self.position + i, 0), entry) for i, entry in enumerate(entries, start=1)]
        self.database.apply("t", self.database.position("t"), logged)
        self.position += len(entries)

    def finish(self) -> None: ...

    def search(self, text: str, vector: Sequence[float] | None) -> list[str]:
        hits = self.database.search("t", Query(text, limit=LIMIT), quantise(vector) if vector else None, NAMES)
        return [hit.event.id for hit in hits]


class Trigram:
    """FTS5's own trigram tokenizer; a word of two syllables can be found only by a scan of all rows."""

    def __init__(self, folder: str) -> None:
        apsw, vec = import_module("apsw"), import_module("sqlite_vec")
        self.db = apsw.Connection(f"{folder}/trigram.db")
        self.db.enable_load_extension(True)
        self.db.load_extension(vec.loadable_path())
        self.db.execute("CREATE VIRTUAL TABLE t USING fts5 (id UNINDEXED, body, tokenize='trigram')")
        self.db.execute(f"CREATE VIRTUAL TABLE v USING vec0 (embedding int8[{DIMENSIONS}] distance_metric=cosine)")

    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None:
        with self.db:
            for event, vector in zip(events, vectors, strict=True):
                self.db.execute("INSERT INTO t (id, body) VALUES (?, ?)", (event.id, event.embedding_text))
                row = self.db.last_insert_rowid()
                self.db.execute("INSERT INTO v (rowid, embedding) VALUES (?, vec_int8(?))", (row, quantise(vector)))

    def finish(self) -> None: ...

    def search(self, text: str, vector: Sequence[float] | None) -> list[str]:
        words = text.split()
        match = " OR ".join(f'"{word}"' for word in words if len(word) > 2)
        if match:
            rows = list(self.db.execute("SELECT rowid, id FROM t WHERE t MATCH ? ORDER BY rank LIMIT 50", (match,)))
        else:
            like = " OR ".join(["body LIKE ?"] * len(words))
            values = [f"%{word}%" for word in words]
            rows = list(self.db.execute(f"SELECT rowid, id FROM t WHERE {like} LIMIT 50", values))  # noqa: S608
        ranks = defaultdict[str, float](float)
        for rank, (_, id) in enumerate(rows):
            ranks[id] += 1 / (61 + rank)
        if vector:
            found = self.db.execute(
                "SELECT rowid FROM v WHERE embedding MATCH vec_int8(?) AND k = 50 ORDER BY distance",
                (quantise(vector),),
            )
            for rank, (row,) in enumerate(list(found)):
                ((id,),) = self.db.execute("SELECT id FROM t WHERE rowid = ?", (row,))
                ranks[id] += 1 / (61 + rank)
        return sorted(ranks, key=lambda found: -ranks[found])[:LIMIT]


class Qdrant:
    """Qdrant's client in local mode: dense vectors, and the same terms as a sparse vector with its IDF modifier."""

    def __init__(self, folder: str) -> None:
        client = import_module("qdrant_client")
        self.models = client.models
        self.client = client.QdrantClient(":memory:")
        self.numbers: dict[str, int] = {}
        self.ids: list[str] = []
        dense = self.models.VectorParams(size=DIMENSIONS, distance=self.models.Distance.COSINE)
        sparse = self.models.SparseVectorParams(modifier=self.models.Modifier.IDF)
        self.client.create_collection("t", vectors_config={"d": dense}, sparse_vectors_config={"s": sparse})

    def _sparse(self, found: Sequence[str]) -> Any:
        counts = defaultdict[int, float](float)
        for term in found:
            counts[self.numbers.setdefault(term, len(self.numbers))] += 1
        weights = [count * 2.2 / (count + 1.2) for count in counts.values()]
        return self.models.SparseVector(indices=list(counts), values=weights)

    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None:
        points = []
        for event, vector in zip(events, vectors, strict=True):
            both = {"d": list(vector), "s": self._sparse(list(terms(event.embedding_text)))}
            points.append(self.models.PointStruct(id=len(self.ids), vector=both, payload={"tenant": "t"}))
            self.ids.append(event.id)
        self.client.upsert("t", points)

    def finish(self) -> None: ...

    def search(self, text: str, vector: Sequence[float] | None) -> list[str]:
        sparse = self._sparse(query_terms(text))
        if vector is None:
            found = self.client.query_points("t", query=sparse, using="s", limit=LIMIT)
        else:
            parts = [
                self.models.Prefetch(query=sparse, using="s", limit=50),
                self.models.Prefetch(query=list(vector), using="d", limit=50),
            ]
            rrf = self.models.FusionQuery(fusion=self.models.Fusion.RRF)
            found = self.client.query_points("t", prefetch=parts, query=rrf, limit=LIMIT)
        return [self.ids[point.id] for point in found.points]


class LanceDb:
    """LanceDB in a folder: its full-text index of n-grams of two and three characters, and its hybrid search."""

    def __init__(self, folder: str) -> None:
        self.db = import_module("lancedb").connect(folder)
        self.table: Any = None

    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None:
        rows = [
            {"id": event.id, "body": event.embedding_text, "vector": list(vector)}
            for event, vector in zip(events, vectors, strict=True)
        ]
        if self.table is None:
            self.table = self.db.create_table("t", data=rows)
        else:
            self.table.add(rows)

    def finish(self) -> None:
        config = import_module("lancedb.index").FTS(
            base_tokenizer="ngram", ngram_min_length=2, ngram_max_length=3, with_position=False, remove_stop_words=False
        )
        self.table.create_index("body", config=config)
        self.table.optimize()

    def search(self, text: str, vector: Sequence[float] | None) -> list[str]:
        if vector is None:
            query = self.table.search(text, query_type="fts", fts_columns="body")
        else:
            query = self.table.search(query_type="hybrid", fts_columns="body").vector(list(vector)).text(text)
        return [row["id"] for row in query.limit(LIMIT).to_list()]


class Postgres:
    """Aura's index on PostgreSQL: terms as `tsvector`, vectors as pgvector's `halfvec`, without a vector index.

    Without parallel workers, which would end before their processor time could be read.
    """

    max_scanned_vectors = 1 << 31
    audience: AudienceRule = "named"

    def __init__(self, folder: str) -> None:
        tables.MAX_SCANNED_VECTORS = self.max_scanned_vectors
        self.server = PostgresServer(max_parallel_workers_per_gather="0", max_wal_size="4GB").start()
        self.runner = asyncio.Runner()
        self.postgres = PostgresIndex(self.server.url, "bench", self.audience)
        self.runner.run(self.postgres.open(0))
        self.position = 0

    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None:
        entries: list[WorkspaceEvent | Vector] = [*events]
        entries += [Vector(e.id, "bench", quantise(v)) for e, v in zip(events, vectors, strict=True)]
        logged = [KnowledgeEntry((self.position + i, 0), entry) for i, entry in enumerate(entries, start=1)]
        self.runner.run(self.postgres.apply("t", (self.position, 0), logged))
        self.position += len(entries)

    def finish(self) -> None: ...

    def search(self, text: str, vector: Sequence[float] | None) -> list[str]:
        query = Query(text, limit=LIMIT)
        names = NAMES if self.audience == "named" else None
        hits = self.runner.run(self.postgres.search("t", query, quantise(vector) if vector else None, names))
        return [hit.event.id for hit in hits]

    def pids(self) -> list[int]:
        return self.server.pids()

    def disk_bytes(self) -> int:
        return int(self.server.rows("SELECT pg_database_size(current_database())")[0][0])

    def close(self) -> None:
        self.runner.run(self.postgres.close())
        self.runner.close()
        self.server.__exit__()


class PostgresHnsw(Postgres):
    """The same with the vector index that a tenant with many vectors gets where everybody finds the same events."""

    max_scanned_vectors = tables.MAX_SCANNED_VECTORS
    audience = "tenant"


class RedisSearch:
    """The search module of the server at `REDIS_URL`: the same terms, its own BM25, a scan of all vectors."""

    def __init__(self, folder: str) -> None:
        redis = import_module("redis")
        self.db = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost"), protocol=2)
        if not any(b"search" in module.values() for module in self.db.module_list()):
            raise SystemExit("the server at REDIS_URL has no search module: start a Redis with one")
        self.db.flushall()
        vector = ("VECTOR", "FLAT", "6", "TYPE", "FLOAT32", "DIM", DIMENSIONS, "DISTANCE_METRIC", "COSINE")
        fields = ("title", "TEXT", "NOSTEM", "WEIGHT", "2", "body", "TEXT", "NOSTEM", "tenant", "TAG", "v", *vector)
        self.db.execute_command("FT.CREATE", "i", "ON", "HASH", "SLIMITWORDS", "0", "SCHEMA", *fields)

    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None:
        pipe = self.db.pipeline(transaction=False)
        for event, vector in zip(events, vectors, strict=True):
            title, body = (" ".join(stem(terms(text))) for text in (event.title, event.text))
            fields = {"tenant": "t", "title": title, "body": body, "v": array("f", vector).tobytes()}
            pipe.hset(f"e:{event.id}", mapping={**fields, "text": event.embedding_text})
        pipe.execute()

    def finish(self) -> None:
        info = self.db.execute_command("FT.INFO", "i")
        assert int(info[info.index(b"indexing") + 1]) == 0, "it indexes in the background"

    def search(self, text: str, vector: Sequence[float] | None) -> list[str]:
        any_of = "|".join(f"{term}*" if len(term) == 1 and not term.isascii() else term for term in query_lexemes(text))
        rankings = [self._search(f"@tenant:{{t}} ({any_of})", "SCORER", "BM25")] if any_of else []
        if vector:
            options = ("PARAMS", "2", "q", array("f", vector).tobytes(), "SORTBY", "d")
            rankings.append(self._search("(@tenant:{t})=>[KNN 50 @v $q AS d]", *options))
        ids = {id: n for n, id in enumerate(dict.fromkeys(id for ranking in rankings for id in ranking))}
        names = list(ids)
        return [names[n] for n in fuse(*([ids[id] for id in ranking] for ranking in rankings))][:LIMIT]

    def _search(self, query: str, *options: Any) -> list[str]:
        found = self.db.execute_command("FT.SEARCH", "i", query, *options, "NOCONTENT", "LIMIT", 0, 50, "DIALECT", 2)
        return [id.decode().removeprefix("e:") for id in found[1:]]

    def pids(self) -> list[int]:
        return [self.db.info("server")["process_id"]]

    def disk_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self.db.close()


ENGINES: dict[str, Any] = {
    "sqlite": Sqlite, "trigram": Trigram, "qdrant": Qdrant, "lancedb": LanceDb, "postgres": Postgres,
    "postgres-hnsw": PostgresHnsw, "redis": RedisSearch,
}  # fmt: skip
