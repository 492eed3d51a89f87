"""Both indexes and the whole service: what each person finds, and that limits count only what is theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.knowledge.events import parse
from app.ports.knowledge import EVERYBODY, KnowledgeEntry, KnowledgeIndex, Query, Searcher, Vector, WorkspaceEvent
from app.redis import keys
from app.settings import Settings
from tests.harness.knowledge import MODEL, OpenIndex, Publish, mail, until_counted, until_subscribed
from tests.harness.service import Aura, headers, running
from tests.harness.tools import calling

MakeSettings = Callable[..., Settings]
FIXTURES = Path(__file__).parents[3] / "fixtures" / "knowledge"
SEARCH = ("search_workspace", {"query": "견적서"})
NEAR, FAR = bytes([100, 10, 5, 0]), bytes([0, 5, 10, 100])


def event(number: int, *audience: str, text: str = "견적서", at: float = 0) -> WorkspaceEvent:
    return WorkspaceEvent(f"e{number}", "t1", "mail", ("mail",), "u", at or number, text, "", audience)


@pytest.fixture
async def index(open_index: OpenIndex) -> KnowledgeIndex:
    return await open_index()


async def put(index: KnowledgeIndex, *entries: WorkspaceEvent | Vector) -> None:
    after = await index.position("t1")
    logged = [KnowledgeEntry((after[0] + n, 0), entry) for n, entry in enumerate(entries, start=1)]
    await index.apply("t1", after, logged)


async def found(index: KnowledgeIndex, user: str, text: str, vector: bytes | None = None, **more: Any) -> list[str]:
    hits = await index.search("t1", Query(text, **more), vector, Searcher("t1", user).names)
    return sorted(hit.event.id for hit in hits)


# --- the indexes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", [None, NEAR])
async def test_each_person_finds_their_own_events_and_those_of_all(index: KnowledgeIndex, vector: bytes | None) -> None:
    events = [event(1, "ceo"), event(2, "ceo", "kim"), event(3, EVERYBODY), event(4)]
    await put(index, *events, *(Vector(each.id, MODEL, NEAR) for each in events))
    assert await found(index, "ceo", "견적", vector) == ["e1", "e2", "e3"]
    assert await found(index, "KIM", "견적", vector) == ["e2", "e3"]
    for stranger in ("mallory", "", "*", "%", "ceo'--", "{ceo}", '{"ceo"}', "ce", "ceo kim", "e1"):
        assert await found(index, stranger, "견적", vector) == ["e3"]
    assert len(await index.search("t1", Query("견적"), vector, None)) == 4, "the older rule"
    assert await index.search("t1", Query("견적"), vector, frozenset()) == []


async def test_events_of_others_use_up_no_limit(index: KnowledgeIndex) -> None:
    """Neither by words nor by vectors: the filter is in the query and not after it."""
    events = [event(n, "ceo", text="견적서 견적서 견적") for n in range(1, 201)]
    await put(index, *events, *(Vector(each.id, MODEL, NEAR) for each in events))
    await put(index, event(900, "kim", text="견적 회의록 자료"), Vector("e900", MODEL, FAR))
    assert await found(index, "kim", "견적", limit=5) == ["e900"]
    assert await found(index, "kim", "없는말", NEAR, limit=5) == ["e900"]
    assert await found(index, "kim", "견적", NEAR, since=300.0, types=("mail",)) == ["e900"]
    assert await found(index, "kim", "견적", NEAR, since=901.0) == []
    assert len(await found(index, "ceo", "견적", NEAR, limit=5)) == 5


async def test_a_word_of_others_does_not_change_what_is_found(index: KnowledgeIndex) -> None:
    """A rare term makes common ones superfluous. If it is only in events of others, that would show that it exists."""
    await put(index, *(event(n, EVERYBODY, text="메일 안내") for n in range(1, 701)))
    before = await found(index, "kim", "메일 코드네임")
    await put(index, event(900, "ceo", text="코드네임"))
    assert len(before) == 5
    assert await found(index, "kim", "메일 코드네임") == before
    assert await found(index, "ceo", "메일 코드네임") == ["e900"]


async def test_a_deleted_event_is_found_by_nobody_and_its_row_is_not_inherited(index: KnowledgeIndex) -> None:
    await put(index, event(1, "kim"), event(2, "kim"))
    await index.delete_before("t1", None)
    assert await found(index, "kim", "견적") == []
    await put(index, event(3, "ceo"), event(4, "ceo"))
    assert await found(index, "kim", "견적") == []
    assert await found(index, "ceo", "견적") == ["e3", "e4"]


async def test_an_event_that_comes_again_keeps_its_first_audience(index: KnowledgeIndex) -> None:
    await put(index, event(1, "ceo"))
    await put(index, event(1, EVERYBODY))
    assert await found(index, "kim", "견적") == []


async def test_each_person_of_the_demo_finds_what_the_labelled_queries_say(index: KnowledgeIndex) -> None:
    events = [parse(line.encode()) for line in (FIXTURES / "events.jsonl").read_text("utf-8").splitlines()]
    await put(index, *events)
    queries = [json.loads(line) for line in (FIXTURES / "queries.jsonl").read_text("utf-8").splitlines()]
    by_id, missed = {each.id: each for each in events}, []
    for query in queries:
        names = Searcher("tenant1", query["as"], f"{query['as']}@dwp.test").names
        hits = [hit.event.id for hit in await index.search("t1", Query(query["query"]), None, names)]
        assert all(names & {*by_id[id].audience} for id in hits)
        if query["kind"] != "meaning" and not {*query["relevant"]} & {*hits}:
            missed.append(query["query"])
    assert missed == []
    assert [hit.event.id for hit in await index.search("t1", Query("인수 협상"), None, Searcher("t", "ceo").names)] == [
        "evt-049"
    ]
    demo = Searcher("t", "demo", "demo@dwp.test").names
    for words in ("인수 협상 자료", "42억원", "acquisition"):
        assert "evt-049" not in [hit.event.id for hit in await index.search("t1", Query(words), None, demo)]


# --- the service ------------------------------------------------------------------------------------------------------


async def found_by_prompt(aura: Aura, model: ScriptedModelServer, **claims: Any) -> list[str]:
    model.play(calling(SEARCH), ScriptedTurn(text="네."))
    async with aura.stream("견적서", headers=headers(**claims)) as stream:
        await stream.rest()
    result = json.loads(model.requests[-1]["messages"][-1]["content"])
    assert "Records that this user may see" in result["notice"]
    assert "may exist" in result["notice"]
    return sorted(item["id"] for item in result["items"])


async def test_a_prompt_of_another_employee_does_not_find_the_mail_of_the_ceo(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, publish: Publish
) -> None:
    async with running(settings(openai_embedding_model="aura-hashing")) as aura:
        await until_subscribed(redis_client)
        publish(mail(1, userId="ceo", to=["ceo@dwp.test"]))
        publish(mail(2, userId="ceo", to="Kim <Kim@dwp.test>"))
        publish(mail(3, userId="ceo", visibility="tenant"), "dwp:events:chat")
        publish(mail(1, visibility="tenant"), "dwp:events:all")  # comes second: it widens nothing
        await until_counted(aura, accepted=3, repeated=1)
        assert await found_by_prompt(aura, model, user="ceo") == ["evt-1", "evt-2", "evt-3"]
        assert await found_by_prompt(aura, model, user="7", email="kim@DWP.test") == ["evt-2", "evt-3"]
        assert await found_by_prompt(aura, model, user="7") == ["evt-3"]
        assert await found_by_prompt(aura, model, user="root", role="admin") == ["evt-3"]
        assert await found_by_prompt(aura, model, user="ceo", tenant="tenant2") == []


async def test_the_older_rule_can_be_restored(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, publish: Publish
) -> None:
    async with running(settings(aura_knowledge_audience="tenant")) as aura:
        await until_subscribed(redis_client)
        publish(mail(1, userId="ceo"))
        await until_counted(aura, accepted=1)
        assert await found_by_prompt(aura, model, user="mallory") == ["evt-1"]
        assert await found_by_prompt(aura, model, user="mallory", tenant="tenant2") == []


async def test_an_event_of_an_older_release_belongs_to_its_user(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    for number, user in enumerate(("Kim", ""), start=1):
        stored = [f"evt-{number}", "mail.received", ["mail"], user, 1.0, "견적서", "to: lee"]
        redis_client.xadd(keys.knowledge_log("tenant1"), {"e": json.dumps(stored)})
        redis_client.zadd(keys.knowledge_seen("tenant1"), {f"evt-{number}": 1e13})
    async with running(settings()) as aura:
        assert await found_by_prompt(aura, model, user="kim") == ["evt-1"]
        assert await found_by_prompt(aura, model, user="lee") == []


async def test_only_the_configured_channels_are_received(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, publish: Publish
) -> None:
    channels = frozenset({"dwp:events:chat", "tenant:tenant1"})
    async with running(settings(aura_event_channels=channels)) as aura:
        await until_subscribed(redis_client, channels=channels)
        assert publish(mail(1), "dwp:events:mail") == 0
        assert [publish(mail(number), channel) for number, channel in enumerate(sorted(channels), start=2)] == [1, 1]
        await until_counted(aura, accepted=2)
        assert await found_by_prompt(aura, model, user="user1") == ["evt-2", "evt-3"]
