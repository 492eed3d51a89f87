"""The tables of the embedded index: SQLite's FTS5 for text and sqlite-vec for vectors, a set for each tenant.

A query names only the tables of its tenant, so that no filter can be forgotten. A *space* is the vectors of one model
for one tenant. The vectors of all models are indexed, because processes that share the file may use different ones.
`apsw` contains its own SQLite: Python's is often built without extensions. Everything here blocks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import apsw
import sqlite_vec

from app.knowledge.ranking import CANDIDATES, MIN_RELEVANCE, discriminative_terms, fuse
from app.knowledge.text import excerpt, query_terms, terms
from app.ports.knowledge import START, Hit, KnowledgeEntry, LogPosition, MissingVector, Query, Vector, WorkspaceEvent

_FORMAT = 2
_BUSY_MS = 5000
_END_OF_TIME = 1 << 62

_COLUMNS = "id, at, topics, body"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stamp (stamp TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tenant (n INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, at_ms INTEGER NOT NULL,
  at_sequence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS space (m INTEGER PRIMARY KEY, n INTEGER NOT NULL, model TEXT NOT NULL,
  dimensions INTEGER NOT NULL DEFAULT 0, UNIQUE (n, model));
CREATE TABLE IF NOT EXISTS waiting (m INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (m, row)) WITHOUT ROWID;
"""
_TABLES = """
CREATE TABLE event_{n} (row INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, ms INTEGER NOT NULL, at REAL NOT NULL,
  topics TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX event_{n}_ms ON event_{n} (ms);
CREATE VIRTUAL TABLE text_{n} USING fts5 (title, body, content='', contentless_delete=1,
  tokenize='porter unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE terms_{n} USING fts5vocab (text_{n}, row);
"""


class Database:
    """One connection, for one thread. `model` is the label of the model that queries are embedded with."""

    def __init__(self, path: str, model: str | None) -> None:
        """An empty `path` is a temporary file that is deleted with the connection."""
        self._model = model
        if path:
            _create_private(path)
        self._db = apsw.Connection(path)
        self._db.set_busy_timeout(_BUSY_MS)
        self._db.enable_load_extension(True)
        self._db.load_extension(sqlite_vec.loadable_path())
        self._db.enable_load_extension(False)
        # The index can be rebuilt from the log, so a power failure may lose its newest writes.
        self._db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -32768")
        self._db.execute(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def open_generation(self, generation: int) -> None:
        """Empties the index unless it was built in this generation and in this format."""
        stamp = json.dumps([_FORMAT, generation])
        with self._write():
            if self._rows("SELECT stamp FROM stamp") == [(stamp,)]:
                return
            for (m,) in self._rows("SELECT m FROM space UNION SELECT n FROM tenant"):  # format 1 named them by tenant
                self._db.execute(f"DROP TABLE IF EXISTS vector_{m}")
            for (n,) in self._rows("SELECT n FROM tenant"):
                self._db.execute(f"DROP TABLE terms_{n}; DROP TABLE text_{n}; DROP TABLE event_{n}")
            # Dropped, not emptied: a process of another format then fails on a missing column and cannot write here.
            self._db.execute("DROP TABLE tenant; DROP TABLE space; DROP TABLE waiting; DROP TABLE stamp")
            self._db.execute(_SCHEMA)
            self._db.execute("INSERT INTO stamp VALUES (?)", (stamp,))

    def position(self, tenant_id: str) -> LogPosition:
        rows = self._rows("SELECT at_ms, at_sequence FROM tenant WHERE id = ?", tenant_id)
        return (rows[0][0], rows[0][1]) if rows else START

    # --- indexing -----------------------------------------------------------------------------------------------------

    def apply(self, tenant_id: str, after: LogPosition, entries: Sequence[KnowledgeEntry]) -> None:
        # The slow part comes before the write lock, for which another process may be waiting.
        prepared = [(logged, _text_columns(logged.entry)) for logged in entries]
        with self._write():
            n, position = self._tenant(tenant_id)
            if position < after:
                return
            for logged, columns in prepared:
                if logged.position <= position:
                    continue  # another process has indexed it
                position = logged.position
                if isinstance(logged.entry, Vector):
                    self._put_vector(n, logged.entry)
                else:
                    self._put_event(n, logged.entry, position[0], columns)
            self._db.execute("UPDATE tenant SET at_ms = ?, at_sequence = ? WHERE n = ?", (*position, n))

    def delete_before(self, tenant_id: str, first: LogPosition | None) -> None:
        ms = first[0] if first else _END_OF_TIME
        with self._read():
            n = self._tenant_number(tenant_id)
            if n is None or not self._rows(f"SELECT 1 FROM event_{n} WHERE ms < ? LIMIT 1", ms):
                return  # each search calls this, and hardly any has something to delete
        with self._write():
            n = self._tenant_number(tenant_id)
            if n is None:
                return
            old = self._rows(f"SELECT row FROM event_{n} WHERE ms < ?", ms)
            self._db.executemany(f"DELETE FROM text_{n} WHERE rowid = ?", old)
            for m, dimensions in self._rows("SELECT m, dimensions FROM space WHERE n = ?", n):
                self._db.executemany(f"DELETE FROM waiting WHERE m = {m} AND row = ?", old)
                if dimensions:
                    self._db.executemany(f"DELETE FROM vector_{m} WHERE rowid = ?", old)
            self._db.execute(f"DELETE FROM event_{n} WHERE ms < ?", (ms,))

    def _tenant(self, tenant_id: str) -> tuple[int, LogPosition]:
        n = self._tenant_number(tenant_id)
        if n is not None:
            return n, self.position(tenant_id)
        self._db.execute("INSERT INTO tenant (id, at_ms, at_sequence) VALUES (?, ?, ?)", (tenant_id, *START))
        n = self._db.last_insert_rowid()
        self._db.execute(_TABLES.format(n=n))
        return n, START

    def _put_event(self, n: int, event: WorkspaceEvent, ms: int, columns: tuple[str, str]) -> None:
        body = json.dumps([event.type, event.user_id, event.title, event.text], ensure_ascii=False)
        topics = f" {' '.join(event.topics)} "
        row = self._rows(
            f"INSERT INTO event_{n} (id, ms, at, topics, body) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO NOTHING RETURNING row",
            *(event.id, ms, event.at, topics, body),
        )
        if row:
            self._db.execute(f"INSERT INTO text_{n} (rowid, title, body) VALUES (?, ?, ?)", (row[0][0], *columns))
            self._db.execute("INSERT INTO waiting SELECT m, ? FROM space WHERE n = ?", (row[0][0], n))

    def _put_vector(self, n: int, vector: Vector) -> None:
        m, dimensions = self._find_space(n, vector.model) or self._add_space(n, vector.model)
        row = self._rows(
            f"DELETE FROM waiting WHERE m = ? AND row = (SELECT row FROM event_{n} WHERE id = ?) RETURNING row",
            *(m, vector.event_id),
        )
        if not row or not vector.values:
            return
        if not dimensions:
            dimensions = len(vector.values)
            self._db.execute(
                f"CREATE VIRTUAL TABLE vector_{m} USING vec0 (embedding int8[{dimensions}] distance_metric=cosine)"
            )
            self._db.execute("UPDATE space SET dimensions = ? WHERE m = ?", (dimensions, m))
        if dimensions == len(vector.values):  # otherwise the server has replaced the model under the same name
            self._db.execute(
                f"INSERT INTO vector_{m} (rowid, embedding) VALUES (?, vec_int8(?))", (row[0][0], vector.values)
            )

    def _add_space(self, n: int, model: str) -> tuple[int, int]:
        ((m, dimensions),) = self._rows("INSERT INTO space (n, model) VALUES (?, ?) RETURNING m, dimensions", n, model)
        self._db.execute(f"INSERT INTO waiting SELECT ?, row FROM event_{n}", (m,))
        return m, dimensions

    # --- searching ----------------------------------------------------------------------------------------------------

    def search(self, tenant_id: str, query: Query, vector: bytes | None) -> list[Hit]:
        with self._read():
            n = self._tenant_number(tenant_id)
            if n is None:
                return []
            searched = query_terms(query.text)
            by_text = self._by_text(n, query, searched)
            by_vector = self._by_vector(n, query, vector) if vector else []
            best = fuse(by_text, by_vector)[: query.limit]
            rows = [self._rows(f"SELECT {_COLUMNS} FROM event_{n} WHERE row = ?", row)[0] for row in best]
        events = [_event(tenant_id, columns) for columns in rows]
        return [Hit(event, excerpt(event.text, searched)) for event in events]

    def list_missing_vectors(self, limit: int) -> list[MissingVector]:
        found: list[MissingVector] = []
        with self._read():
            for n, tenant_id in self._rows("SELECT n, id FROM tenant"):
                m, _ = self._find_space(n, self._model) or (0, 0)
                source = f"waiting WHERE m = {m}" if m else f"event_{n}"
                newest = f"SELECT row FROM {source} ORDER BY row DESC LIMIT ?"
                rows = self._rows(
                    f"SELECT {_COLUMNS} FROM event_{n} WHERE row IN ({newest}) ORDER BY row DESC", limit - len(found)
                )
                events = [_event(tenant_id, row) for row in rows]
                found += [MissingVector(tenant_id, event.id, event.embedding_text) for event in events]
                if len(found) == limit:
                    break
        return found

    def _by_text(self, n: int, query: Query, searched: Sequence[str]) -> list[int]:
        chosen = self._discriminative(n, searched)
        if not chosen:
            return []
        # A single syllable is searched as a prefix: it is the start of a pair or a term of its own.
        match = " OR ".join(f'"{term}"{"*" if len(term) == 1 and not term.isascii() else ""}' for term in chosen)
        where, values = _conditions(query)
        ranked = self._rows(
            f"SELECT text_{n}.rowid, bm25(text_{n}, 2.0, 1.0) AS score FROM text_{n}"
            f" JOIN event_{n} AS event ON event.row = text_{n}.rowid"
            f" WHERE text_{n} MATCH ?{where} ORDER BY score LIMIT {CANDIDATES}",
            *(match, *values),
        )
        # bm25() is negative: the best score is the smallest.
        return [row for row, score in ranked if score <= ranked[0][1] * MIN_RELEVANCE]

    def _discriminative(self, n: int, searched: Sequence[str]) -> list[str]:
        marks = ", ".join("?" * len(searched))
        found = dict(self._rows(f"SELECT term, doc FROM terms_{n} WHERE term IN ({marks})", *searched))
        return discriminative_terms(searched, found, self._rows(f"SELECT count(*) FROM event_{n}")[0][0])

    def _by_vector(self, n: int, query: Query, vector: bytes) -> list[int]:
        m, dimensions = self._find_space(n, self._model) or (0, 0)
        if dimensions != len(vector):
            return []
        where, values = _conditions(query)
        selection = f" AND rowid IN (SELECT row FROM event_{n} AS event WHERE 1{where})" if where else ""
        ranked = self._rows(
            f"SELECT rowid FROM vector_{m} WHERE embedding MATCH vec_int8(?) AND k = {CANDIDATES}{selection}"
            " ORDER BY distance",
            *(vector, *values),
        )
        return [row for (row,) in ranked]

    # --- the connection -----------------------------------------------------------------------------------------------

    def _tenant_number(self, tenant_id: str) -> int | None:
        rows = self._rows("SELECT n FROM tenant WHERE id = ?", tenant_id)
        return rows[0][0] if rows else None

    def _find_space(self, n: int, model: str | None) -> tuple[int, int] | None:
        """Returns the number and the dimensions of a space; 0 dimensions if it has no vector yet."""
        rows = self._rows("SELECT m, dimensions FROM space WHERE n = ? AND model = ?", n, model)
        return (rows[0][0], rows[0][1]) if rows else None

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return list(self._db.execute(statement, values))

    def _read(self) -> _Transaction:
        """A transaction that reads one snapshot: another process may delete rows or reuse a tenant's number."""
        return _Transaction(self._db, "BEGIN")

    def _write(self) -> _Transaction:
        """A transaction that holds the write lock from its start."""
        return _Transaction(self._db, "BEGIN IMMEDIATE")


class _Transaction:
    """Commits at its end, or rolls back after an error."""

    def __init__(self, db: apsw.Connection, begin: str) -> None:
        self._db = db
        self._begin = begin

    def __enter__(self) -> None:
        self._db.execute(self._begin)

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _create_private(path: str) -> None:
    """Create the file where it does not exist, for this user alone: it holds the texts of mails.

    SQLite gives its further files the same permissions. What cannot be created here fails when it is opened.
    """
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _text_columns(entry: WorkspaceEvent | Vector) -> tuple[str, str]:
    if isinstance(entry, Vector):
        return "", ""
    return " ".join(terms(entry.title)), " ".join(terms(f"{entry.text}\n{entry.type}"))


def _event(tenant_id: str, columns: tuple[Any, ...]) -> WorkspaceEvent:
    id, at, topics, body = columns
    event_type, user_id, title, text = json.loads(body)
    return WorkspaceEvent(id, tenant_id, event_type, tuple(topics.split()), user_id, at, title, text)


def _conditions(query: Query) -> tuple[str, list[Any]]:
    """Returns SQL conditions on `event` that follow others, and their values."""
    conditions, values = "", list[Any]()
    if query.since is not None:
        conditions += " AND event.at >= ?"
        values.append(query.since)
    if query.types:
        conditions += f" AND ({' OR '.join(['instr(event.topics, ?)'] * len(query.types))})"
        values += [f" {kind.strip().lower()} " for kind in query.types]
    return conditions, values
