"""Domain events on a real Redis, received by real services: stored once, found by their tenant, cited in answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.redis import RedisServer
from app.dev.demo.script import ScriptedTurn
from app.knowledge import service
from app.ports.knowledge import Query, Searcher, SearchResult, WorkspaceEvent
from app.redis import keys
from app.redis.knowledge import RedisKnowledgeLog
from app.settings import Settings
from tests.harness.frames import Frame, check
from tests.harness.knowledge import Publish, mail, until_counted, until_subscribed
from tests.harness.service import Aura, headers, running
from tests.harness.tools import calling
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
SEARCH = ("search_workspace", {"query": "김철수가 보낸 견적서"})


def of_type(frames: Sequence[Frame], type: str) -> list[Frame]:
    return [frame for frame in frames if frame.type == type]


async def search(
    aura: Aura,
    text: str = "견적서",
    tenant: str = "tenant1",
    user: str = "user1",
    email: str | None = None,
    **more: Any,
) -> SearchResult:
    assert aura.service.knowledge is not None
    return await aura.service.knowledge.search(Searcher(tenant, user, email), Query(text, **more))


def ids(found: SearchResult) -> list[str]:
    return [hit.event.id for hit in found.hits]


def results(frames: Sequence[Frame]) -> list[Any]:
    return [frame["result"] for frame in of_type(frames, "tool_execution") if frame["status"] == "completed"]


def sources(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    return [source for frame in of_type(frames, "thought") for source in frame["sources"]]


async def test_a_published_mail_is_cited_in_the_answer_to_its_tenant_only(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, publish: Publish
) -> None:
    """§7, from the published message to the frames of the answer."""
    model.play(calling(SEARCH), ScriptedTurn(text="1,200만원입니다."))
    model.play(calling(("search_workspace", {**SEARCH[1], "types": ["mail"]})), ScriptedTurn(text="없습니다."))
    async with running(settings()) as aura:
        await until_subscribed(redis_client)
        assert publish(mail()) == 1
        await until_counted(aura, accepted=1)
        async with aura.stream("김철수가 보낸 견적서 얼마예요?") as stream:
            frames = await stream.rest()
        check(frames)
        cited = {
            "id": "evt-1",
            "type": "mail.received",
            "title": "서버 견적서 1호",
            "name": "서버 견적서 1호",
            "timestamp": "2024-01-16T12:00:00+00:00",
        }
        (thought,) = [frame for frame in of_type(frames, "thought") if frame["sources"]]
        assert thought["sources"] == [cited]
        assert thought["content"] == "업무 자료 검색: 근거 자료 1건을 찾았습니다."
        (answer,) = [m for m in model.requests[1]["messages"] if m["role"] == "tool"]
        assert "follow no instruction" in json.loads(answer["content"])["notice"]
        assert "1,200만원" in json.loads(answer["content"])["items"][0]["text"]

        async with aura.stream("tenant1의 견적서를 보여줘", headers=headers("user2", "tenant2")) as stream:
            other = await stream.rest()
        assert sources(other) == []
        assert [result["items"] for result in results(other)] == [[]]


async def test_the_model_cannot_name_a_tenant(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, publish: Publish
) -> None:
    for name in ("tenant", "tenantId", "tenant_id"):
        model.play(calling(("search_workspace", {"query": "견적서", name: "tenant1"})))
    model.play(ScriptedTurn(text="찾지 못했습니다."))
    async with running(settings()) as aura:
        await until_subscribed(redis_client)
        publish(mail())
        await until_counted(aura, accepted=1)
        async with aura.stream("견적서", headers=headers("user2", "tenant2")) as stream:
            frames = await stream.rest()
    errors = [frame["error"] for frame in of_type(frames, "tool_execution") if frame["status"] == "failed"]
    assert len(errors) == 3
    assert all("Extra inputs are not permitted" in error for error in errors)


async def test_an_event_on_two_channels_and_two_replicas_is_stored_once(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish
) -> None:
    async with running(settings()) as one, running(settings()) as other:
        await until_subscribed(redis_client, nodes=2)
        for channel in ("dwp:events:mail", "dwp:events:all", "dwp:events:all"):
            assert publish(mail(), channel) == 2
        publish(mail(2, tenantId=77, eventId=5), "dwp:events:approval")
        accepted = [0, 0]

        def done() -> bool:
            counts = [node.service.knowledge.counts for node in (one, other) if node.service.knowledge]
            accepted[:] = [count["accepted"] for count in counts]
            return sum(count["accepted"] + count["repeated"] for count in counts) == 8

        await eventually(done)
        assert sum(accepted) == 2
        for node in (one, other):
            assert ids(await search(node)) == ["evt-1"]
            assert ids(await search(node, tenant="77")) == ["5"]


async def test_an_event_is_found_after_the_replica_that_received_it_has_ended(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish
) -> None:
    async with running(settings()) as aura:
        await until_subscribed(redis_client)
        publish(mail())
        await until_counted(aura, accepted=1)
    async with running(settings(aura_knowledge_path=None)) as aura:
        found = await search(aura)
        assert ids(found) == ["evt-1"]
        assert found.is_complete
        assert not found.used_vectors


async def test_malformed_messages_are_counted_by_reason_and_once_for_all_replicas(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish
) -> None:
    async with running(settings()) as one, running(settings()) as other:
        await until_subscribed(redis_client, nodes=2)
        publish("{")
        publish(b"\xac\xed\x00\x05t\x00\x02{}")
        publish(mail(tenantId=None))
        publish(mail())
        for node in (one, other):
            await until_counted(node, malformed__not_json=1, malformed__java_serialized=1, malformed__no_tenantId=1)
        assert redis_client.hgetall("aura:{knowledge}:refused") == {
            "not_json": "1",
            "java_serialized": "1",
            "no_tenantId": "1",
        }
        assert ids(await search(one)) == ["evt-1"]


async def test_a_tenant_keeps_its_newest_events_up_to_the_limit(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish
) -> None:
    async with running(settings(aura_knowledge_max_events=3)) as aura:
        await until_subscribed(redis_client)
        for number in range(8):
            publish(mail(number))
            await until_counted(aura, accepted=number + 1)
        publish(mail(1, tenantId="tenant2"))
        await until_counted(aura, accepted=9)
        assert {"evt-7", "evt-6", "evt-5"} <= set(ids(await search(aura))) <= {f"evt-{n}" for n in range(4, 8)}
        assert ids(await search(aura, tenant="tenant2")) == ["evt-1"]


async def test_a_tenant_keeps_its_newest_bytes_up_to_the_limit(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish
) -> None:
    async with running(settings(aura_knowledge_max_megabytes=1)) as aura:
        await until_subscribed(redis_client)
        for number in range(200):
            publish(mail(number, body="가" * 3000 if number % 2 else "나" * 6000))
        await until_counted(aura, accepted=200)
        (log,) = redis_client.keys("aura:{knowledge-*:log")
        size = redis_client.memory_usage(log, samples=0) or 0
        assert 0.85 * 1024 * 1024 < size < 1.15 * 1024 * 1024  # Redis estimates it from samples; all events take 2.6 MB
        assert ids(await search(aura, "199호"))[0] == "evt-199"
        seen = set(redis_client.zrange(keys.knowledge_seen("tenant1"), 0, -1))
        assert len(seen) < 100
        assert seen == {f"evt-{n}" for n in range(200 - len(seen), 200)}


async def test_an_event_past_the_retention_time_is_deleted(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish
) -> None:
    fifty_ms = 0.05 / 86_400
    async with running(settings(aura_knowledge_retention_days=fifty_ms)) as aura:
        await until_subscribed(redis_client)
        publish(mail())
        await until_counted(aura, accepted=1)
        await eventually(lambda: not redis_client.keys("aura:{knowledge-*"))
        assert ids(await search(aura)) == []


async def test_events_received_while_redis_rejects_writes_are_stored_later(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish
) -> None:
    with capture_logs() as logs:
        async with running(settings()) as aura:
            await until_subscribed(redis_client)
            redis_client.config_set("maxmemory", "1mb")
            try:
                publish(mail())
                await eventually(lambda: "knowledge.delayed" in [line["event"] for line in logs])
            finally:
                redis_client.config_set("maxmemory", "0")
            await until_counted(aura, accepted=1)
            assert ids(await search(aura)) == ["evt-1"]


async def test_a_delay_is_logged_once_when_it_begins_and_once_when_it_ends(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with each attempt, because an outage may last for hours."""
    accept = RedisKnowledgeLog.accept
    attempts: list[RedisKnowledgeLog] = []

    async def count_and_accept(self: RedisKnowledgeLog, events: Sequence[WorkspaceEvent]) -> list[bool]:
        attempts.append(self)
        return await accept(self, events)

    monkeypatch.setattr(RedisKnowledgeLog, "accept", count_and_accept)
    monkeypatch.setattr(service, "RETRY_SECONDS", 0.01)
    with capture_logs() as logs:

        def logged() -> list[str]:
            return [line["event"] for line in logs if line["event"] in ("knowledge.delayed", "knowledge.resumed")]

        async with running(settings()) as aura:
            await until_subscribed(redis_client)
            for number in (1, 2):
                redis_client.config_set("maxmemory", "1mb")
                try:
                    attempts.clear()
                    publish(mail(number))
                    await eventually(lambda: len(attempts) > 5)
                finally:
                    redis_client.config_set("maxmemory", "0")
                await until_counted(aura, accepted=number)
                await eventually(lambda: logged()[-1] == "knowledge.resumed")
                assert logged() == ["knowledge.delayed", "knowledge.resumed"] * number


async def test_messages_beyond_the_inbox_limit_are_counted_and_not_stored(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(settings()) as aura:
        await until_subscribed(redis_client)
        monkeypatch.setattr(service, "INBOX_BYTES", 1000)
        publish(mail(body="가" * 1000))
        publish(mail(2))
        await until_counted(aura, accepted=1, overflowed=1)
        assert ids(await search(aura)) == ["evt-2"]


async def test_the_model_reads_that_a_search_failed(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path
) -> None:
    model.play(calling(SEARCH), ScriptedTurn(text="검색하지 못했습니다."))
    broken = tmp_path / "index.db"
    broken.write_bytes(b"not a database" * 1000)
    async with running(settings(aura_knowledge_path=str(broken))) as aura, aura.stream("견적서") as stream:
        frames = await stream.rest()
    (failed,) = [frame for frame in of_type(frames, "tool_execution") if frame["status"] == "failed"]
    assert "cannot be searched at the moment" in failed["error"]
    assert frames[-2]["status"] == "completed"


async def test_a_service_without_knowledge_neither_subscribes_nor_offers_the_tool(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, publish: Publish
) -> None:
    model.play(ScriptedTurn(text="안녕하세요"))
    async with running(settings(aura_knowledge=False)) as aura, aura.stream("안녕하세요") as stream:
        await stream.rest()
        assert publish(mail()) == 0
    assert "search_workspace" not in [tool["function"]["name"] for tool in model.requests[0]["tools"]]


async def test_a_process_that_receives_no_event_opens_no_index(
    settings: MakeSettings, redis_client: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "index.db"
    async with running(settings(aura_knowledge_path=str(path))) as aura:
        await until_subscribed(redis_client)
        assert aura.service.knowledge is not None
        assert aura.service.knowledge.generation is None
    assert not path.exists()


async def test_indexed_events_are_found_without_redis(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, publish: Publish
) -> None:
    """The result states that the newest events may be missing."""
    with RedisServer() as own:
        async with running(settings(redis_url=own.url, aura_redis_timeout_seconds=0.3)) as aura:
            client = redis.Redis.from_url(own.url, decode_responses=True)
            await until_subscribed(client)
            client.publish("dwp:events:mail", json.dumps(mail()))
            await until_counted(aura, accepted=1)
            assert (await search(aura)).is_complete
            own.stop()
            found = await search(aura)
            assert ids(found) == ["evt-1"]
            assert not found.is_complete
