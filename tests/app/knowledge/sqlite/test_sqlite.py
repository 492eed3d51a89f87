"""The embedded index's file."""

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

Open = Callable[..., Database]
NEAR, FAR = bytes([100, 10, 5]), bytes([5, 10, 100])


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """The file as one more process has it: `(generation=0, model=MODEL)`."""
    made: list[Database] = []

    def one_more(generation: int = 0, model: str | None = MODEL) -> Database:
        made.append(Database(str(tmp_path / "index.db"), model))
        made[-1].keep_only(generation)
        return made[-1]

    yield one_more
    for one in made:
        one.close()


def event(number: int, tenant: str = "t1") -> WorkspaceEvent:
    return WorkspaceEvent(f"e{number}", tenant, "mail", ("mail",), "u1", number, f"견적서 {tenant}", "")


def logged(*entries: WorkspaceEvent | Vector, after: int = 0) -> list[KnowledgeEntry]:
    return [KnowledgeEntry((at, 0), entry) for at, entry in enumerate(entries, start=after + 1)]


def found(index: Database, text: str = "견적", vector: bytes | None = None) -> list[str]:
    return [hit.event.id for hit in index.search("t1", Query(text), vector)]


# --- shared by processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emptied", [False, True])
def test_a_search_sees_nothing_of_what_another_process_does_meanwhile(
    opened: Open, monkeypatch: pytest.MonkeyPatch, emptied: bool
) -> None:
    """Not that a row has gone, and least of all that its number is another tenant's now."""
    one, other = opened(1), opened(1)
    one.apply("t1", START, logged(event(1), event(2), event(3)))

    def ranked(*rankings: Sequence[int]) -> list[int]:
        if emptied:
            other.keep_only(2)
            other.apply("t2", START, logged(*(event(n, "t2") for n in (1, 2, 3))))
        else:
            other.delete_before("t1", None)
        return fuse(*rankings)

    monkeypatch.setattr(database, "fuse", ranked)
    hits: list[Hit] = one.search("t1", Query("견적"), None)
    assert [(hit.event.id, hit.event.title) for hit in hits] == [(f"e{n}", "견적서 t1") for n in (1, 2, 3)]
    assert found(one) == []


def test_models_that_share_the_file_have_their_vectors_side_by_side(opened: Open) -> None:
    """Nor does a process without a model, as a command may be, drop anything."""
    one, other = opened(), opened(model="other")
    one.apply("t1", START, logged(event(1), event(2), Vector("e1", MODEL, NEAR), Vector("e1", "other", FAR)))
    other.apply("t1", (4, 0), logged(Vector("e2", MODEL, FAR), Vector("e2", "other", NEAR), after=4))
    opened(model=None)
    for process in (one, other, opened(), opened(model="other")):
        assert process.position("t1") == (6, 0)
        assert process.list_missing_vectors(10) == []
    assert found(one, "없는말", NEAR) == ["e1", "e2"]
    assert found(other, "없는말", NEAR) == ["e2", "e1"]
    assert [item.event_id for item in opened(model="third").list_missing_vectors(10)] == ["e2", "e1"]

    one.apply("t1", (6, 0), logged(event(3), Vector("e3", MODEL, b""), after=6))  # its model refuses it
    assert ([item.event_id for item in other.list_missing_vectors(10)], one.list_missing_vectors(10)) == (["e3"], [])
    one.delete_before("t1", None)
    assert (found(one, "없는말", NEAR), found(other, "없는말", NEAR), other.list_missing_vectors(10)) == ([], [], [])


def test_a_file_of_an_older_format_is_made_anew_and_its_processes_keep_off(opened: Open, tmp_path: Path) -> None:
    with apsw.Connection(str(tmp_path / "index.db")) as older:
        for statement in (
            "CREATE TABLE stamp (stamp TEXT NOT NULL)",
            "CREATE TABLE tenant (n INTEGER PRIMARY KEY, id TEXT, ms INTEGER, sequence INTEGER, dimensions INTEGER)",
            "INSERT INTO tenant VALUES (1, 't1', 5, 0, 3)",
            *(f"CREATE TABLE {kind}_1 (row INTEGER PRIMARY KEY)" for kind in ("event", "text", "terms", "vector")),
        ):
            older.execute(statement)
    one = opened()
    assert one.position("t1") == START
    one.apply("t1", START, logged(event(1), Vector("e1", MODEL, NEAR)))
    assert found(one, "없는말", NEAR) == ["e1"]
    for asked in ("SELECT ms, sequence FROM tenant", "SELECT n FROM tenant WHERE dimensions"):
        with pytest.raises(apsw.SQLError, match="no such column"):
            older.execute(asked)


# --- what an operator reads -------------------------------------------------------------------------------------------


async def test_a_file_that_is_no_index_is_named_with_the_remedy(tmp_path: Path) -> None:
    broken = tmp_path / "index.db"
    broken.write_bytes(b"not a database" * 1000)
    for path in (str(broken), str(tmp_path / "missing" / "index.db")):
        index = SqliteIndex(path, MODEL)
        with pytest.raises(ConfigurationError, match=r"AURA_KNOWLEDGE_PATH: .* may be deleted"):
            await index.open(0)
        await index.close()
