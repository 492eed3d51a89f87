"""Compares search engines for the workspace's index on the same events and the same labelled queries.

Not a test. Some engines are not dependencies: `pip install qdrant-client lancedb` first, then

    python -m tests.bench.knowledge [--events 100000] [sqlite trigram qdrant lancedb postgres postgres-hnsw redis]

Each engine is measured in a process of its own; README shows the table. Labelled events and queries have the vectors of
`app/dev/demo/embeddings.py`, which hashes words; the other events have random ones. So the recall shows that hybrid
search works, not how good a real embedding model is. Times are processor times of all threads and of the server's
processes, so that other load of the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.dev.demo.embeddings import DIMENSIONS, embedding
from app.knowledge.events import parse
from app.ports.knowledge import EVERYBODY, WorkspaceEvent
from tests.bench.search_engines import ENGINES, LIMIT, SearchEngine, SearchServer

FIXTURES = Path(__file__).parents[2] / "fixtures" / "knowledge"
BATCH = 500


def make_events(count: int) -> list[WorkspaceEvent]:
    """Returns events of random words, which are as frequent as the words of a natural language (Zipf's law)."""
    chance = random.Random(1)  # noqa: S311
    syllables = [chr(0xAC00 + chance.randrange(11172)) for _ in range(600)]
    words = ["".join(chance.choices(syllables, k=chance.choice([2, 2, 3, 4]))) for _ in range(8000)]
    words += ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randrange(3, 9))) for _ in range(4000)]
    chance.shuffle(words)
    text = chance.choices(words, [1 / (rank + 1) ** 0.8 for rank in range(len(words))], k=100_000)
    starts = [chance.randrange(len(text) - 50) for _ in range(count)]
    titles = [" ".join(text[a : a + 6]) for a in starts]
    bodies = [" ".join(text[a + 6 : a + 46]) for a in starts]
    texts = enumerate(zip(titles, bodies, strict=True))
    return [
        WorkspaceEvent(f"f{n}", "t", "mail.received", ("mail",), "u", 0, title, body, (EVERYBODY,))
        for n, (title, body) in texts
    ]


def measure(name: str, count: int) -> dict[str, Any]:
    """Builds the index of one search engine, searches it, and returns its row of the table."""
    parsed = [parse(line.encode()) for line in (FIXTURES / "events.jsonl").read_text("utf-8").splitlines()]
    labelled = [replace(event, audience=(EVERYBODY,)) for event in parsed]
    queries = [json.loads(line) for line in (FIXTURES / "queries.jsonl").read_text("utf-8").splitlines()]
    events = make_events(count - len(labelled))
    chance = random.Random(2)  # noqa: S311
    vectors = [[chance.gauss(0, 1 / 16) for _ in range(DIMENSIONS)] for _ in range(min(len(events), 2000))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        engine: SearchEngine = ENGINES[name](folder)
        cpu = ProcessorTime(engine)
        start = cpu.seconds()
        for at in range(0, len(events), BATCH):
            batch = events[at : at + BATCH]
            engine.index(batch, [vectors[(at + i) % len(vectors)] for i in range(len(batch))])
        engine.index(labelled, [embedding(event.embedding_text) for event in labelled])
        engine.finish()
        seconds = cpu.seconds() - start
        result: dict[str, Any] = {"name": name, "index_s": round(seconds, 1)}
        common = [" ".join(chance.sample(event.embedding_text.split(), 4)) for event in events[:100]]
        for mode in ("text", "hybrid"):
            figures = search_all(engine, cpu, queries, common, is_hybrid=mode == "hybrid")
            result |= {f"{mode}_{key}": value for key, value in figures.items()}
        used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        result["memory_mb"] = cpu.server_megabytes() if cpu.has_server else used
        sizes = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
        result["disk_mb"] = (engine.disk_bytes() if isinstance(engine, SearchServer) else sum(sizes)) >> 20
        if isinstance(engine, SearchServer):
            engine.close()
    return result


class ProcessorTime:
    """The processor time and memory of this process and of the search engine's server processes."""

    def __init__(self, engine: SearchEngine) -> None:
        self._server = engine if isinstance(engine, SearchServer) else None

    @property
    def has_server(self) -> bool:
        return self._server is not None

    def seconds(self) -> float:
        spent = [Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0] for pid in self._pids()]
        return time.process_time() + sum(map(int, spent)) / 1e9

    def server_megabytes(self) -> int:
        """Returns the memory of the server processes (MiB); shared pages are counted once."""
        rows = [
            row for pid in self._pids() for row in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
        ]
        return sum(int(row.split()[1]) for row in rows if row.startswith("Pss:")) // 1024

    def _pids(self) -> list[int]:
        return self._server.pids() if self._server is not None else []


def search_all(
    engine: SearchEngine,
    cpu: ProcessorTime,
    queries: Sequence[dict[str, Any]],
    common: Sequence[str],
    *,
    is_hybrid: bool,
) -> dict[str, Any]:
    """Returns the times and the recall of all searches.

    The `common` queries consist of words that many events contain. They take the most time and have no recall.
    """
    times: list[float] = []

    def timed(text: str) -> list[str]:
        vector = embedding(text) if is_hybrid else None
        start = cpu.seconds()
        found = engine.search(text, vector)
        times.append((cpu.seconds() - start) * 1000)
        return found

    recalls = defaultdict[str, list[float]](list)
    for query in queries:
        found, relevant = timed(query["query"]), query["relevant"]
        recalls[query["kind"]].append(len({*relevant} & {*found}) / min(len(relevant), LIMIT))
    for text in common:
        timed(text)
    times.sort()
    per_kind = {kind: round(sum(group) / len(group), 2) for kind, group in recalls.items()}
    by_words = [recall for kind, group in recalls.items() if kind != "meaning" for recall in group]
    p50, p99 = (round(times[int(len(times) * share)], 1) for share in (0.5, 0.99))
    return {"p50_ms": p50, "p99_ms": p99, "recall": round(sum(by_words) / len(by_words), 2), "kinds": per_kind}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ENGINES), metavar="engine")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="measure one engine, in this process")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure(options.names[0], options.events), ensure_ascii=False))
        return
    columns = ["engine", "index CPU s", "memory MB", "disk MB", "text p50 / p99 CPU ms", "hybrid p50 / p99 CPU ms"]
    print(f"| {' | '.join([*columns, 'recall@5 text / hybrid'])} |\n|{'---|' * 7}", flush=True)
    for name in options.names:
        command = [sys.executable, "-m", "tests.bench.knowledge", name, "--events", str(options.events), "--json"]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        if completed.returncode:
            print(f"| {name} | {(completed.stderr.strip().splitlines() or ['failed'])[-1]} |")
            continue
        row = json.loads(completed.stdout)
        print(
            f"| {name} | {row['index_s']} | {row['memory_mb']} | {row['disk_mb']}"
            f" | {row['text_p50_ms']} / {row['text_p99_ms']}"
            f" | {row['hybrid_p50_ms']} / {row['hybrid_p99_ms']} | {row['text_recall']} / {row['hybrid_recall']} |"
        )
        print(f"<!-- {row['text_kinds']} {row['hybrid_kinds']} -->", flush=True)


if __name__ == "__main__":
    main()
