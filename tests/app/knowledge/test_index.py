"""Both indexes, through the port: what text and vectors find, for which tenant, and how processes share an index."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from unicodedata import normalize

import pytest

from app.dev.demo.embeddings import embedding
from app.knowledge.embeddings import quantise
from app.knowledge.events import parse
from app.ports.knowledge import START, KnowledgeEntry, KnowledgeIndex, Query, Vector, WorkspaceEvent
from tests.harness.knowledge import MODEL, OpenIndex

FIXTURES = Path(__file__).parents[3] / "fixtures" / "knowledge"


def event(number: int, title: str, text: str = "", type: str = "mail.received", at: float = 0) -> WorkspaceEvent:
    return WorkspaceEvent(f"e{number}", "t1", type, tuple(type.split(".")), "u1", at or number, title, text)


@pytest.fixture
async def index(open_index: OpenIndex) -> KnowledgeIndex:
    return await open_index()


async def put(index: KnowledgeIndex, *entries: WorkspaceEvent | Vector, tenant: str = "t1") -> None:
    after = await index.position(tenant)
    logged = [KnowledgeEntry((after[0] + n, 0), entry) for n, entry in enumerate(entries, start=1)]
    await index.apply(tenant, after, logged)


async def ids(
    index: KnowledgeIndex, text: str, vector: bytes | None = None, tenant: str = "t1", **more: object
) -> list[str]:
    """Returns what is found with these names, or with those of everybody."""
    names = more.pop("names", None)
    query = Query(text, **more)  # type: ignore[arg-type]
    return [hit.event.id for hit in await index.search(tenant, query, vector, names)]  # type: ignore[arg-type]


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    ["견적", "견적서를 보내준 사람", "서버견적서", "팀", "reviewing budgets", "ＰＲ 482", normalize("NFD", "견적")],
)
async def test_korean_and_english_are_found_in_each_spelling(index: KnowledgeIndex, query: str) -> None:
    await put(index, event(1, "서버 견적서", "재무팀 PR 482 the budget was reviewed"), event(2, "점심 메뉴", "비빔밥"))
    assert (await ids(index, query))[:1] == ["e1"]


async def test_the_syntax_of_query_languages_is_plain_text(index: KnowledgeIndex) -> None:
    await put(index, event(1, "견적서"))
    for query in ['"', "견적 AND OR NOT", "title:견적", "견적*", "NEAR(견적", "'; DROP TABLE event_1; --", "…", "\x00"]:
        await ids(index, query)
    assert await ids(index, "견적") == ["e1"]


async def test_a_common_term_does_not_hide_the_discriminative_one(index: KnowledgeIndex) -> None:
    await put(index, *(event(n, "메일 안내", "공지") for n in range(700)), event(900, "메일 안내", "견적"))
    assert await ids(index, "견적 메일") == ["e900"]
    assert len(await ids(index, "메일")) == 5


async def test_search_filters_by_type_and_time(index: KnowledgeIndex) -> None:
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


async def test_a_tenant_finds_only_its_own_events(index: KnowledgeIndex) -> None:
    vector = quantise(embedding("견적서"))
    await put(index, event(1, "견적서"), Vector("e1", MODEL, vector))
    await put(index, event(1, "회의록"), Vector("e1", MODEL, vector), tenant="t2")
    for tenant in ("t2", "t3", "T1", "t1 OR 1=1", ""):
        found = await index.search(tenant, Query("견적서"), vector, None)
        assert [hit.event.title for hit in found] in ([], ["회의록"])
    assert await ids(index, "견적서", tenant="t2") == []


async def test_each_labelled_query_that_shares_words_with_an_event_finds_it(index: KnowledgeIndex) -> None:
    await put(index, *(parse(line.encode()) for line in (FIXTURES / "events.jsonl").read_text("utf-8").splitlines()))
    queries = [json.loads(line) for line in (FIXTURES / "queries.jsonl").read_text("utf-8").splitlines()]
    missed = [
        query["query"]
        for query in queries
        if query["kind"] != "meaning" and not {*query["relevant"]} & {*await ids(index, query["query"])}
    ]
    assert missed == []


# --- vectors ----------------------------------------------------------------------------------------------------------


async def test_vectors_find_events_that_share_no_word_with_the_query(index: KnowledgeIndex) -> None:
    near, far = bytes([100, 10, 5, 0]), bytes([0, 5, 10, 100])
    await put(index, event(1, "알파"), event(2, "베타"), Vector("e1", MODEL, near), Vector("e2", MODEL, far))
    assert await ids(index, "감마") == []
    assert await ids(index, "감마", near) == ["e1", "e2"]
    assert await ids(index, "감마", far, since=2.0) == ["e2"]
    assert await ids(index, "감마", b"\x01") == []


async def test_events_without_a_vector_of_the_model_are_listed_newest_first(index: KnowledgeIndex) -> None:
    await put(index, event(1, "하나", "본문"), event(2, "둘"), event(3, "셋"), Vector("e2", "other", b"\x01\x02"))
    await put(index, event(1, "남의 것"), tenant="t2")
    missing = await index.list_missing_vectors(10)
    assert [(item.tenant_id, item.event_id) for item in missing] == [
        ("t1", "e3"),
        ("t1", "e2"),
        ("t1", "e1"),
        ("t2", "e1"),
    ]
    assert missing[2].embedding_text == "하나\n본문"
    await put(index, Vector("e3", MODEL, b"\x01\x02"), Vector("e2", MODEL, b""), Vector("gone", MODEL, b"\x01\x02"))
    assert [item.event_id for item in await index.list_missing_vectors(1)] == ["e1"]
    await put(index, Vector("e1", MODEL, b"\x01\x02\x03"))  # other dimensions: not indexed, and not listed again
    assert await index.list_missing_vectors(10) == [item for item in missing if item.tenant_id == "t2"]
    assert await ids(index, "", b"\x01\x02") == ["e3"]


# --- following the log ------------------------------------------------------------------------------------------------


async def test_entries_that_are_indexed_already_change_nothing(index: KnowledgeIndex) -> None:
    entries = [KnowledgeEntry((5, 0), event(1, "견적서")), KnowledgeEntry((5, 1), event(2, "회의록"))]
    await index.apply("t1", START, entries)
    await index.apply("t1", START, entries)
    assert await index.position("t1") == (5, 1)
    await index.apply("t1", (5, 1), [KnowledgeEntry((6, 0), event(1, "견적서 again"))])
    assert [hit.event.title for hit in await index.search("t1", Query("견적"), None, None)] == ["견적서"]


async def test_events_that_the_log_has_deleted_are_deleted(index: KnowledgeIndex) -> None:
    vector = b"\x01\x02"
    await put(index, event(1, "견적서"), event(2, "견적서"), Vector("e1", MODEL, vector), Vector("e2", MODEL, vector))
    await index.delete_before("t1", (2, 0))
    assert await ids(index, "견적", vector) == ["e2"]
    await index.delete_before("t1", None)
    assert await ids(index, "견적", vector) == []
    await index.delete_before("unknown", None)


async def test_an_index_keeps_its_events_within_a_generation(open_index: OpenIndex) -> None:
    async def reopen(generation: int, model: str | None) -> list[str]:
        index = await open_index(generation, model)
        found = await ids(index, "견적", b"\x01\x02")
        if not found:
            await put(index, event(1, "견적서"), Vector("e1", model or "", b"\x01\x02"))
        await index.close()
        return found

    for generation, model in ((1, MODEL), (2, MODEL), (3, None)):
        assert await reopen(generation, model) == []
        assert await reopen(generation, model) == ["e1"]


async def test_no_event_is_lost_when_one_of_the_processes_empties_the_index(open_index: OpenIndex) -> None:
    one, other = await open_index(1), await open_index(1)
    await put(one, event(1, "견적서"))
    assert await ids(other, "견적") == ["e1"]
    await other.open(2)
    await one.apply("t1", (1, 0), [KnowledgeEntry((2, 0), event(2, "견적서"))])
    assert await one.position("t1") == START, "the entries before are missing, so the log has to be read again"
    await one.apply(
        "t1", START, [KnowledgeEntry((1, 0), event(1, "견적서")), KnowledgeEntry((2, 0), event(2, "견적서"))]
    )
    assert set(await ids(other, "견적")) == {"e1", "e2"}


async def test_entries_that_several_processes_index_are_indexed_once(open_index: OpenIndex) -> None:
    """Processes that open the index at the same time empty it once."""
    processes = await asyncio.gather(*(open_index(3) for _ in range(4)))
    batches = [
        [KnowledgeEntry((n, 0), event(n, f"견적서 {n}호", "견적")) for n in range(at, at + 5)] for at in range(1, 41, 5)
    ]

    async def catch_up(index: KnowledgeIndex) -> None:
        while (after := await index.position("t1")) < (40, 0):
            await index.apply("t1", after, batches[after[0] // 5])

    await asyncio.gather(*map(catch_up, processes), *(process.open(3) for process in processes))
    found = await processes[0].search("t1", Query("견적", limit=50), None, None)
    assert sorted(hit.event.at for hit in found) == list(range(1, 41))
    assert len(await processes[1].list_missing_vectors(100)) == 40
