"""The embedded index: what is found by words and by vectors, whose, and what becomes of the file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from unicodedata import normalize

import pytest

from app.demo.embeddings import embedding
from app.errors import ConfigurationError
from app.knowledge.embeddings import quantised
from app.knowledge.events import parse
from app.knowledge.sqlite import SqliteIndex
from app.knowledge.text import excerpt, query_terms, terms
from app.workspace import START, Logged, Query, Vector, WorkspaceEvent

FIXTURES = Path(__file__).parents[3] / "fixtures" / "knowledge"
MODEL = "hashing"


def event(number: int, title: str, text: str = "", type: str = "mail.received", at: float = 0) -> WorkspaceEvent:
    return WorkspaceEvent(f"e{number}", "t1", type, tuple(type.split(".")), "u1", at or number, title, text)


@pytest.fixture
async def index() -> AsyncIterator[SqliteIndex]:
    index = SqliteIndex(None, MODEL)
    await index.open(0)
    yield index
    await index.close()


async def put(index: SqliteIndex, *entries: WorkspaceEvent | Vector, tenant: str = "t1") -> None:
    after = await index.position(tenant)
    logged = [Logged((after[0] + n, 0), entry) for n, entry in enumerate(entries, start=1)]
    await index.apply(tenant, after, logged)


async def ids(
    index: SqliteIndex, text: str, vector: bytes | None = None, tenant: str = "t1", **more: object
) -> list[str]:
    query = Query(text, **more)  # type: ignore[arg-type]
    return [hit.event.id for hit in await index.search(tenant, query, vector)]


# --- words ------------------------------------------------------------------------------------------------------------


def test_terms_are_pairs_of_syllables_and_words() -> None:
    assert list(terms("견적서PR 42를, e-mail")) == ["견적", "적서", "서", "pr", "42", "를", "e", "mail"]
    assert query_terms("견적서 견적 팀") == ["견적", "적서", "팀"]


def test_an_excerpt_is_about_what_was_asked() -> None:
    text = "가" * 500 + "견적서" + "나" * 500
    found = excerpt(text, ["견적"], 200)
    assert "견적서" in found
    assert found.startswith("…")
    assert found.endswith("…")
    assert excerpt("짧은 글", ["견적"], 200) == "짧은 글"
    assert excerpt(text, ["없음"], 10) == "가" * 10 + "…"


@pytest.mark.parametrize(
    "asked",
    ["견적", "견적서를 보내준 사람", "서버견적서", "팀", "reviewing budgets", "ＰＲ 482", normalize("NFD", "견적")],
)
async def test_korean_and_english_are_found_however_they_are_spelled(index: SqliteIndex, asked: str) -> None:
    await put(index, event(1, "서버 견적서", "재무팀 PR 482 the budget was reviewed"), event(2, "점심 메뉴", "비빔밥"))
    assert (await ids(index, asked))[:1] == ["e1"]


async def test_signs_of_a_query_language_are_only_text(index: SqliteIndex) -> None:
    await put(index, event(1, "견적서"))
    for asked in ['"', "견적 AND OR NOT", "title:견적", "견적*", "NEAR(견적", "'; DROP TABLE event_1; --", "…", "\x00"]:
        await ids(index, asked)
    assert await ids(index, "견적") == ["e1"]


async def test_a_common_term_does_not_hide_the_telling_one(index: SqliteIndex) -> None:
    await put(index, *(event(n, "메일 안내", "공지") for n in range(700)), event(900, "메일 안내", "견적"))
    assert await ids(index, "견적 메일") == ["e900"]
    assert len(await ids(index, "메일")) == 5


async def test_search_keeps_to_types_and_times(index: SqliteIndex) -> None:
    await put(
        index,
        event(1, "견적서", type="mail.received", at=100),
        event(2, "견적서", type="approval.requested", at=200),
        event(3, "견적서", type="mail.sent", at=300),
    )
    assert set(await ids(index, "견적", types=("MAIL",))) == {"e1", "e3"}
    assert set(await ids(index, "견적", types=("approval", "sent"))) == {"e2", "e3"}
    assert set(await ids(index, "견적", since=200.0)) == {"e2", "e3"}
    assert await ids(index, "견적", since=200.0, types=("mail",)) == ["e3"]
    assert await ids(index, "견적", types=("mai",)) == []


async def test_a_tenant_finds_only_its_own(index: SqliteIndex) -> None:
    vector = quantised(embedding("견적서"))
    await put(index, event(1, "견적서"), Vector("e1", MODEL, vector))
    await put(index, event(1, "회의록"), Vector("e1", MODEL, vector), tenant="t2")
    for tenant in ("t2", "t3", "T1", "t1 OR 1=1", ""):
        assert [hit.event.title for hit in await index.search(tenant, Query("견적서"), vector)] in ([], ["회의록"])
    assert await ids(index, "견적서", tenant="t2") == []


async def test_every_labelled_question_without_a_leap_of_meaning_finds_its_event(index: SqliteIndex) -> None:
    await put(index, *(parse(line.encode()) for line in (FIXTURES / "events.jsonl").read_text("utf-8").splitlines()))
    questions = [json.loads(line) for line in (FIXTURES / "queries.jsonl").read_text("utf-8").splitlines()]
    missed = [
        question["query"]
        for question in questions
        if question["kind"] != "meaning" and not {*question["relevant"]} & {*await ids(index, question["query"])}
    ]
    assert missed == []


# --- vectors ----------------------------------------------------------------------------------------------------------


async def test_vectors_find_what_words_do_not(index: SqliteIndex) -> None:
    near, far = bytes([100, 10, 5, 0]), bytes([0, 5, 10, 100])
    await put(index, event(1, "알파"), event(2, "베타"), Vector("e1", MODEL, near), Vector("e2", MODEL, far))
    assert await ids(index, "감마") == []
    assert await ids(index, "감마", near) == ["e1", "e2"]
    assert await ids(index, "감마", far, since=2.0) == ["e2"]
    assert await ids(index, "감마", b"\x01") == []


async def test_events_wait_for_vectors_of_the_model_in_use_the_newest_first(index: SqliteIndex) -> None:
    await put(index, event(1, "하나", "본문"), event(2, "둘"), event(3, "셋"), Vector("e2", "other", b"\x01\x02"))
    await put(index, event(1, "남의 것"), tenant="t2")
    waiting = await index.unembedded(10)
    assert [(item.tenant_id, item.event_id) for item in waiting] == [
        ("t1", "e3"),
        ("t1", "e2"),
        ("t1", "e1"),
        ("t2", "e1"),
    ]
    assert waiting[2].wording == "하나\n본문"
    await put(index, Vector("e3", MODEL, b"\x01\x02"), Vector("e2", MODEL, b""), Vector("gone", MODEL, b"\x01\x02"))
    assert [item.event_id for item in await index.unembedded(1)] == ["e1"]
    await put(index, Vector("e1", MODEL, b"\x01\x02\x03"))  # other dimensions: not taken, and not asked for again
    assert await index.unembedded(10) == [item for item in waiting if item.tenant_id == "t2"]
    assert await ids(index, "", b"\x01\x02") == ["e3"]


# --- the log's index --------------------------------------------------------------------------------------------------


async def test_what_is_in_already_changes_nothing(index: SqliteIndex) -> None:
    entries = [Logged((5, 0), event(1, "견적서")), Logged((5, 1), event(2, "회의록"))]
    await index.apply("t1", START, entries)
    await index.apply("t1", START, entries)
    assert await index.position("t1") == (5, 1)
    await index.apply("t1", (5, 1), [Logged((6, 0), event(1, "견적서 again"))])
    assert [hit.event.title for hit in await index.search("t1", Query("견적"), None)] == ["견적서"]


async def test_what_the_log_dropped_is_dropped(index: SqliteIndex) -> None:
    vector = b"\x01\x02"
    await put(index, event(1, "견적서"), event(2, "견적서"), Vector("e1", MODEL, vector), Vector("e2", MODEL, vector))
    await index.forget_before("t1", (2, 0))
    assert await ids(index, "견적", vector) == ["e2"]
    await index.forget_before("t1", None)
    assert await ids(index, "견적", vector) == []
    await index.forget_before("unknown", None)


async def test_a_file_keeps_what_is_in_it_for_its_generation_and_model(tmp_path: Path) -> None:
    path = str(tmp_path / "index.db")

    async def reopened(generation: int, model: str | None) -> list[str]:
        index = SqliteIndex(path, model)
        await index.open(generation)
        found = await ids(index, "견적", b"\x01\x02")
        if not found:
            await put(index, event(1, "견적서"), Vector("e1", model or "", b"\x01\x02"))
        await index.close()
        return found

    assert await reopened(1, MODEL) == []
    assert await reopened(1, MODEL) == ["e1"]
    assert await reopened(2, MODEL) == []
    assert await reopened(2, None) == []
    assert await reopened(2, None) == ["e1"]


async def test_processes_share_a_file_and_nothing_is_lost_when_one_empties_it(tmp_path: Path) -> None:
    path = str(tmp_path / "index.db")
    one, other = SqliteIndex(path, MODEL), SqliteIndex(path, MODEL)
    await one.open(1)
    await other.open(1)
    await put(one, event(1, "견적서"))
    assert await ids(other, "견적") == ["e1"]
    await other.open(2)
    await one.apply("t1", (1, 0), [Logged((2, 0), event(2, "견적서"))])
    assert await one.position("t1") == START, "what came before it is not there: the log is read again"
    await one.close()
    await other.close()


async def test_a_file_that_is_no_index_is_named_with_the_remedy(tmp_path: Path) -> None:
    broken = tmp_path / "index.db"
    broken.write_bytes(b"not a database" * 1000)
    for path in (str(broken), str(tmp_path / "missing" / "index.db")):
        index = SqliteIndex(path, MODEL)
        with pytest.raises(ConfigurationError, match=r"AURA_KNOWLEDGE_PATH: .* may be deleted"):
            await index.open(0)
        await index.close()
