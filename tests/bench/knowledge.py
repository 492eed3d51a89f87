"""Which library the workspace's index is made of: the contenders on the same events and the same labelled questions.

Not a test. The contenders are not dependencies: `pip install qdrant-client lancedb` first, then

    python -m tests.bench.knowledge [--events 100000] [sqlite trigram qdrant lancedb postgres postgres-hnsw redis]

Each runs in a process of its own; the table is what README shows. Vectors are `app/demo/embeddings.py`'s hashing ones
for the labelled events and questions, random ones for the filling: their recall shows that the hybrid works, not how
good a real model is. Times are of the processor, all threads and a
server's processes together: what else runs on the machine does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from collections import defaultdict
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from app.dev.demo.embeddings import DIMENSIONS, embedding
from app.knowledge.embeddings import quantised
from app.knowledge.events import parse
from app.knowledge.postgres import tables
from app.knowledge.postgres.index import PostgresIndex
from app.knowledge.postgres.tsvector import asked as asked_terms
from app.knowledge.postgres.tsvector import stemmed
from app.knowledge.ranking import fuse
from app.knowledge.sqlite.database import Database
from app.knowledge.text import query_terms, terms
from app.ports.knowledge import KnowledgeEntry, Query, Vector, WorkspaceEvent
from tests.harness.postgres import PostgresServer

FIXTURES = Path(__file__).parents[2] / "fixtures" / "knowledge"
BATCH, TOP = 500, 5


class Contender(Protocol):
    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None: ...
    def finish(self) -> None: ...
    def search(self, text: str, vector: Sequence[float] | None) -> list[str]: ...


@runtime_checkable
class Serving(Protocol):
    def pids(self) -> list[int]: ...
    def disk_bytes(self) -> int: ...
    def close(self) -> None: ...


class Sqlite:
    """What Aura uses: FTS5 on pairs of syllables, sqlite-vec with a byte a dimension."""

    def __init__(self, folder: str) -> None:
        self.database = Database(f"{folder}/index.db", "bench")
        self.database.keep_only(0)
        self.at = 0

    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None:
        entries: list[WorkspaceEvent | Vector] = [*events]
        entries += [Vector(e.id, "bench", quantised(v)) for e, v in zip(events, vectors, strict=True)]
        logged = [KnowledgeEntry((self.at + i, 0), entry) for i, entry in enumerate(entries, start=1)]
        self.database.apply("t", self.database.position("t"), logged)
        self.at += len(entries)

    def finish(self) -> None: ...

    def search(self, text: str, vector: Sequence[float] | None) -> list[str]:
        hits = self.database.search("t", Query(text, limit=TOP), quantised(vector) if vector else None)
        return [hit.event.id for hit in hits]


class Trigram:
    """FTS5's own trigram tokenizer; a word of two syllables can only be looked for in every row."""

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
                self.db.execute("INSERT INTO v (rowid, embedding) VALUES (?, vec_int8(?))", (row, quantised(vector)))

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
                (quantised(vector),),
            )
            for rank, (row,) in enumerate(list(found)):
                ((id,),) = self.db.execute("SELECT id FROM t WHERE rowid = ?", (row,))
                ranks[id] += 1 / (61 + rank)
        return sorted(ranks, key=lambda found: -ranks[found])[:TOP]


class Qdrant:
    """Qdrant's client in local mode: dense vectors, and the same terms as a sparse one with its IDF modifier."""

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
            found = self.client.query_points("t", query=sparse, using="s", limit=TOP)
        else:
            parts = [
                self.models.Prefetch(query=sparse, using="s", limit=50),
                self.models.Prefetch(query=list(vector), using="d", limit=50),
            ]
            rrf = self.models.FusionQuery(fusion=self.models.Fusion.RRF)
            found = self.client.query_points("t", prefetch=parts, query=rrf, limit=TOP)
        return [self.ids[point.id] for point in found.points]


class LanceDb:
    """LanceDB on a folder: its n-gram full text index from two characters on, and its hybrid search."""

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
        return [row["id"] for row in query.limit(TOP).to_list()]


class Postgres:
    """Aura's search server: terms as `tsvector`, vectors as pgvector's `halfvec`. One core: its parallel workers end
    before anybody could read what they took."""

    exhaustive = 1 << 31

    def __init__(self, folder: str) -> None:
        tables._EXHAUSTIVE = self.exhaustive
        self.server = PostgresServer(max_parallel_workers_per_gather="0", max_wal_size="4GB").start()
        self.runner = asyncio.Runner()
        self.index_ = PostgresIndex(self.server.url, "bench")
        self.runner.run(self.index_.open(0))
        self.at = 0

    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None:
        entries: list[WorkspaceEvent | Vector] = [*events]
        entries += [Vector(e.id, "bench", quantised(v)) for e, v in zip(events, vectors, strict=True)]
        logged = [KnowledgeEntry((self.at + i, 0), entry) for i, entry in enumerate(entries, start=1)]
        self.runner.run(self.index_.apply("t", (self.at, 0), logged))
        self.at += len(entries)

    def finish(self) -> None: ...

    def search(self, text: str, vector: Sequence[float] | None) -> list[str]:
        asked = Query(text, limit=TOP)
        hits = self.runner.run(self.index_.search("t", asked, quantised(vector) if vector else None))
        return [hit.event.id for hit in hits]

    def pids(self) -> list[int]:
        return self.server.pids()

    def disk_bytes(self) -> int:
        return int(self.server.rows("SELECT pg_database_size(current_database())")[0][0])

    def close(self) -> None:
        self.runner.run(self.index_.close())
        self.runner.close()
        self.server.__exit__()


class PostgresHnsw(Postgres):
    """The same with the index of vectors that a tenant with many of them gets."""

    exhaustive = tables._EXHAUSTIVE


class RedisSearch:
    """Redis' search module, where `REDIS_URL` has one: the same terms, its own BM25, all vectors looked at."""

    def __init__(self, folder: str) -> None:
        redis = import_module("redis")
        self.db = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost"), protocol=2)
        if not any(b"search" in module.values() for module in self.db.module_list()):
            raise SystemExit("the server at REDIS_URL has no search module")
        self.db.flushall()
        vector = ("VECTOR", "FLAT", "6", "TYPE", "FLOAT32", "DIM", DIMENSIONS, "DISTANCE_METRIC", "COSINE")
        fields = ("title", "TEXT", "NOSTEM", "WEIGHT", "2", "body", "TEXT", "NOSTEM", "tenant", "TAG", "v", *vector)
        self.db.execute_command("FT.CREATE", "i", "ON", "HASH", "STOPWORDS", "0", "SCHEMA", *fields)

    def index(self, events: Sequence[WorkspaceEvent], vectors: Sequence[Sequence[float]]) -> None:
        pipe = self.db.pipeline(transaction=False)
        for event, vector in zip(events, vectors, strict=True):
            title, body = (" ".join(stemmed(terms(text))) for text in (event.title, event.text))
            own = {"tenant": "t", "title": title, "body": body, "v": array("f", vector).tobytes()}
            pipe.hset(f"e:{event.id}", mapping={**own, "text": event.embedding_text})
        pipe.execute()

    def finish(self) -> None:
        told = self.db.execute_command("FT.INFO", "i")
        assert int(told[told.index(b"indexing") + 1]) == 0, "it indexes as it writes"

    def search(self, text: str, vector: Sequence[float] | None) -> list[str]:
        any_of = "|".join(f"{term}*" if len(term) == 1 and not term.isascii() else term for term in asked_terms(text))
        rankings = [self._found(f"@tenant:{{t}} ({any_of})", "SCORER", "BM25")] if any_of else []
        if vector:
            near = ("PARAMS", "2", "q", array("f", vector).tobytes(), "SORTBY", "d")
            rankings.append(self._found("(@tenant:{t})=>[KNN 50 @v $q AS d]", *near))
        ids = {id: n for n, id in enumerate(dict.fromkeys(id for ranking in rankings for id in ranking))}
        names = list(ids)
        return [names[n] for n in fuse(*([ids[id] for id in ranking] for ranking in rankings))][:TOP]

    def _found(self, query: str, *more: Any) -> list[str]:
        found = self.db.execute_command("FT.SEARCH", "i", query, *more, "NOCONTENT", "LIMIT", 0, 50, "DIALECT", 2)
        return [id.decode().removeprefix("e:") for id in found[1:]]

    def pids(self) -> list[int]:
        return [self.db.info("server")["process_id"]]

    def disk_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self.db.close()


CONTENDERS: dict[str, Any] = {
    "sqlite": Sqlite, "trigram": Trigram, "qdrant": Qdrant, "lancedb": LanceDb, "postgres": Postgres,
    "postgres-hnsw": PostgresHnsw, "redis": RedisSearch,
}  # fmt: skip


def filling(count: int) -> list[WorkspaceEvent]:
    """Events about nothing: words of syllables and letters at random, as often as words of a language are."""
    chance = random.Random(1)  # noqa: S311
    syllables = [chr(0xAC00 + chance.randrange(11172)) for _ in range(600)]
    words = ["".join(chance.choices(syllables, k=chance.choice([2, 2, 3, 4]))) for _ in range(8000)]
    words += ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randrange(3, 9))) for _ in range(4000)]
    chance.shuffle(words)
    text = chance.choices(words, [1 / (rank + 1) ** 0.8 for rank in range(len(words))], k=100_000)
    starts = [chance.randrange(len(text) - 50) for _ in range(count)]
    titles = [" ".join(text[a : a + 6]) for a in starts]
    bodies = [" ".join(text[a + 6 : a + 46]) for a in starts]
    own = enumerate(zip(titles, bodies, strict=True))
    return [WorkspaceEvent(f"f{n}", "t", "mail.received", ("mail",), "u", 0, title, body) for n, (title, body) in own]


def measure(name: str, count: int) -> dict[str, Any]:
    labelled = [parse(line.encode()) for line in (FIXTURES / "events.jsonl").read_text("utf-8").splitlines()]
    questions = [json.loads(line) for line in (FIXTURES / "queries.jsonl").read_text("utf-8").splitlines()]
    events = filling(count - len(labelled))
    chance = random.Random(2)  # noqa: S311
    vectors = [[chance.gauss(0, 1 / 16) for _ in range(DIMENSIONS)] for _ in range(min(len(events), 2000))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        contender: Contender = CONTENDERS[name](folder)
        cpu = Cpu(contender)
        start = cpu.seconds()
        for at in range(0, len(events), BATCH):
            some = events[at : at + BATCH]
            contender.index(some, [vectors[(at + i) % len(vectors)] for i in range(len(some))])
        contender.index(labelled, [embedding(event.embedding_text) for event in labelled])
        contender.finish()
        took = cpu.seconds() - start
        result: dict[str, Any] = {"name": name, "index_s": round(took, 1)}
        ordinary = [" ".join(chance.sample(event.embedding_text.split(), 4)) for event in events[:100]]
        for mode in ("text", "hybrid"):
            found = asked(contender, cpu, questions, ordinary, is_hybrid=mode == "hybrid")
            result |= {f"{mode}_{key}": value for key, value in found.items()}
        used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        result["memory_mb"] = cpu.server_megabytes() if cpu.has_server else used
        sizes = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
        result["disk_mb"] = (contender.disk_bytes() if isinstance(contender, Serving) else sum(sizes)) >> 20
        if isinstance(contender, Serving):
            contender.close()
    return result


class Cpu:
    """Time of the processor, of this process and the contender's server."""

    def __init__(self, contender: Contender) -> None:
        self._server = contender if isinstance(contender, Serving) else None

    @property
    def has_server(self) -> bool:
        return self._server is not None

    def seconds(self) -> float:
        spent = [Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0] for pid in self._pids()]
        return time.process_time() + sum(map(int, spent)) / 1e9

    def server_megabytes(self) -> int:
        """What is shared is counted once."""
        rows = [
            row for pid in self._pids() for row in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
        ]
        return sum(int(row.split()[1]) for row in rows if row.startswith("Pss:")) // 1024

    def _pids(self) -> list[int]:
        return self._server.pids() if self._server is not None else []


def asked(
    contender: Contender, cpu: Cpu, questions: Sequence[dict[str, Any]], ordinary: Sequence[str], *, is_hybrid: bool
) -> dict[str, Any]:
    """`ordinary` questions are of words that many events hold: they take the time."""
    times: list[float] = []

    def timed(text: str) -> list[str]:
        vector = embedding(text) if is_hybrid else None
        start = cpu.seconds()
        found = contender.search(text, vector)
        times.append((cpu.seconds() - start) * 1000)
        return found

    recalls = defaultdict[str, list[float]](list)
    for question in questions:
        found, wanted = timed(question["query"]), question["relevant"]
        recalls[question["kind"]].append(len({*wanted} & {*found}) / min(len(wanted), TOP))
    for text in ordinary:
        timed(text)
    times.sort()
    per_kind = {kind: round(sum(some) / len(some), 2) for kind, some in recalls.items()}
    whole = [recall for kind, some in recalls.items() if kind != "meaning" for recall in some]
    p50, p99 = (round(times[int(len(times) * share)], 1) for share in (0.5, 0.99))
    return {"p50_ms": p50, "p99_ms": p99, "recall": round(sum(whole) / len(whole), 2), "kinds": per_kind}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CONTENDERS), metavar="contender")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="one contender, in this process")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure(options.names[0], options.events), ensure_ascii=False))
        return
    columns = ["contender", "index CPU s", "memory MB", "disk MB", "text p50 / p99 CPU ms", "hybrid p50 / p99 CPU ms"]
    print(f"| {' | '.join([*columns, 'recall@5 text / hybrid'])} |\n|{'---|' * 7}", flush=True)
    for name in options.names:
        command = [sys.executable, "-m", "tests.bench.knowledge", name, "--events", str(options.events), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {name} | {(done.stderr.strip().splitlines() or ['failed'])[-1]} |")
            continue
        r = json.loads(done.stdout)
        print(
            f"| {name} | {r['index_s']} | {r['memory_mb']} | {r['disk_mb']} | {r['text_p50_ms']} / {r['text_p99_ms']}"
            f" | {r['hybrid_p50_ms']} / {r['hybrid_p99_ms']} | {r['text_recall']} / {r['hybrid_recall']} |"
        )
        print(f"<!-- {r['text_kinds']} {r['hybrid_kinds']} -->", flush=True)


if __name__ == "__main__":
    main()
