"""The file of the embedded index: processes that share it, older formats, and errors for operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apsw
import pytest

from app.errors import ConfigurationError
from app.knowledge.ranking import fuse
from app.knowledge.sqlite import database
from app.knowledge.sqlite.database import Database
from app.knowledge.sqlite.index import SqliteIndex
from app.ports.knowledge import START, Hit, KnowledgeEntry, Query, Vector, WorkspaceEvent
from tests.harness.knowledge import MODEL

OpenDatabase = Callable[..., Database]
NEAR, FAR = bytes([100, 10, 5]), bytes([5, 10, 100])


@pytest.fixture
def open_database(tmp_path: Path) -> Iterator[OpenDatabase]:
    """Opens the file as one more process does: `(generation=0, model=MODEL)`."""
    opened: list[Database] = []

    def open_one(generation: int = 0, model: str | None = MODEL) -> Database:
        opened.append(Database(str(tmp_path / "index.db"), model))
        opened[-1].open_generation(generation)
        return opened[-1]

    yield open_one
    for index in opened:
        index.close()


def event(number: int, tenant: str = "t1") -> WorkspaceEvent:
    return WorkspaceEvent(f"e{number}", tenant, "mail", ("mail",), "u1", number, f"견적서 {tenant}", "")


def logged(*entries: WorkspaceEvent | Vector, after: int = 0) -> list[KnowledgeEntry]:
    return [KnowledgeEntry((at, 0), entry) for at, entry in enumerate(entries, start=after + 1)]


def found(index: Database, text: str = "견적", vector: bytes | None = None) -> list[str]:
    return [hit.event.id for hit in index.search("t1", Query(text), vector, None)]


# --- sharing the file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emptied", [False, True])
def test_a_search_reads_one_snapshot_while_another_process_writes(
    open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch, emptied: bool
) -> None:
    """It misses no deleted row and returns no row of another tenant that has got the same number."""
    one, other = open_database(1), open_database(1)
    one.apply("t1", START, logged(event(1), event(2), event(3)))

    def write_and_fuse(*rankings: Sequence[int]) -> list[int]:
        if emptied:
            other.open_generation(2)
            other.apply("t2", START, logged(*(event(n, "t2") for n in (1, 2, 3))))
        else:
            other.delete_before("t1", None)
        return fuse(*rankings)

    monkeypatch.setattr(database, "fuse", write_and_fuse)
    hits: list[Hit] = one.search("t1", Query("견적"), None, None)
    assert [(hit.event.id, hit.event.title) for hit in hits] == [(f"e{n}", "견적서 t1") for n in (1, 2, 3)]
    assert found(one) == []


def test_the_file_holds_the_vectors_of_several_models(open_database: OpenDatabase) -> None:
    """A process without a model, such as a command, deletes no vectors."""
    one, other = open_database(), open_database(model="other")
    one.apply("t1", START, logged(event(1), event(2), Vector("e1", MODEL, NEAR), Vector("e1", "other", FAR)))
    other.apply("t1", (4, 0), logged(Vector("e2", MODEL, FAR), Vector("e2", "other", NEAR), after=4))
    open_database(model=None)
    for process in (one, other, open_database(), open_database(model="other")):
        assert process.position("t1") == (6, 0)
        assert process.list_missing_vectors(10) == []
    assert found(one, "없는말", NEAR) == ["e1", "e2"]
    assert found(other, "없는말", NEAR) == ["e2", "e1"]
    assert [item.event_id for item in open_database(model="third").list_missing_vectors(10)] == ["e2", "e1"]

    one.apply("t1", (6, 0), logged(event(3), Vector("e3", MODEL, b""), after=6))  # its model refuses it
    assert ([item.event_id for item in other.list_missing_vectors(10)], one.list_missing_vectors(10)) == (["e3"], [])
    one.delete_before("t1", None)
    assert (found(one, "없는말", NEAR), found(other, "없는말", NEAR), other.list_missing_vectors(10)) == ([], [], [])


def test_a_file_of_an_older_format_is_rebuilt_and_older_processes_cannot_write(
    open_database: OpenDatabase, tmp_path: Path
) -> None:
    with apsw.Connection(str(tmp_path / "index.db")) as older:
        for statement in (
            "CREATE TABLE stamp (stamp TEXT NOT NULL)",
            "CREATE TABLE tenant (n INTEGER PRIMARY KEY, id TEXT, ms INTEGER, sequence INTEGER, dimensions INTEGER)",
            "INSERT INTO tenant VALUES (1, 't1', 5, 0, 3)",
            *(f"CREATE TABLE {kind}_1 (row INTEGER PRIMARY KEY)" for kind in ("event", "text", "terms", "vector")),
        ):
            older.execute(statement)
    one = open_database()
    assert one.position("t1") == START
    one.apply("t1", START, logged(event(1), Vector("e1", MODEL, NEAR)))
    assert found(one, "없는말", NEAR) == ["e1"]
    unknown = ("SELECT ms, sequence FROM tenant", "SELECT n FROM tenant WHERE dimensions", "SELECT at_ms FROM tenant")
    for statement in unknown:
        with pytest.raises(apsw.SQLError, match="no such column"):
            older.execute(statement)


# --- errors for operators ---------------------------------------------------------------------------------------------


async def test_a_file_that_cannot_be_used_is_named_with_the_remedy(tmp_path: Path) -> None:
    broken = tmp_path / "index.db"
    broken.write_bytes(b"not a database" * 1000)
    for path in (str(broken), str(tmp_path / "missing" / "index.db")):
        index = SqliteIndex(path, MODEL)
        with pytest.raises(ConfigurationError, match=r"AURA_KNOWLEDGE_PATH: .* may be deleted"):
            await index.open(0)
        await index.close()
