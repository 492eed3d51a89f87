"""Embeddings: made once for all replicas, again until they succeed, never in anybody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from app.dev.demo.embeddings import DIMENSIONS
from app.dev.demo.model import ScriptedModelServer
from app.errors import ModelError
from app.knowledge import vectors
from app.knowledge.embeddings import OpenAIEmbeddings, quantised
from app.ports.knowledge import Query
from app.settings import Settings
from tests.harness.knowledge import Publish, counted, listening, mail
from tests.harness.service import Aura, running
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
MODEL = "aura-hashing"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_LEAST_PAUSE_SECONDS", 0.02)


def embedded(model: ScriptedModelServer) -> list[str]:
    return [text for body in model.embedding_requests for text in body["input"]]


def stored_vectors(client: redis.Redis) -> int:
    """How many vectors the logs hold."""
    logs: list[Any] = [client.xrange(key) for key in client.keys("aura:{know*:log")]
    return len([fields for entries in logs for _, fields in entries if "v" in fields])


@pytest.fixture
def raw_client(redis_client: redis.Redis, redis_server: Any) -> redis.Redis:
    """Vectors are no text."""
    return redis.Redis.from_url(redis_server.url, decode_responses=True, encoding_errors="replace")


async def search(aura: Aura, text: str) -> tuple[list[str], bool]:
    assert aura.service.knowledge is not None
    found = await aura.service.knowledge.search("tenant1", Query(text))
    return [hit.event.id for hit in found.hits], found.used_vectors


async def test_vectors_are_made_once_for_all_replicas_and_found_by_all(
    settings: MakeSettings, model: ScriptedModelServer, raw_client: redis.Redis, publish: Publish
) -> None:
    with_vectors = settings(openai_embedding_model=MODEL)
    async with running(with_vectors) as one, running(with_vectors) as other:
        await listening(raw_client, nodes=2)
        for number in range(1, 4):
            publish(mail(number))
        await eventually(lambda: stored_vectors(raw_client) == 3)
        assert sorted(text.split("\n")[0] for text in embedded(model)) == [f"서버 견적서 {n}호" for n in (1, 2, 3)]
        for node in (one, other):
            found, used_vectors = await search(node, "xx견적xx 2호")
            assert found[0] == "evt-2"
            assert used_vectors
    made = len(model.embedding_requests)
    async with running(with_vectors) as again:
        assert (await search(again, "견적서 3호"))[0][0] == "evt-3"
    assert len(model.embedding_requests) == made + 1, "only the question: the vectors were there"


async def test_when_the_one_that_makes_vectors_is_gone_another_does(
    settings: MakeSettings,
    model: ScriptedModelServer,
    raw_client: redis.Redis,
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vectors, "_LEASE_SECONDS", 0.1)
    raw_client.set("aura:knowledge:leader", "node-that-died", px=300)
    async with running(settings(openai_embedding_model=MODEL)) as aura:
        await listening(raw_client)
        publish(mail())
        await counted(aura, accepted=1)
        await eventually(lambda: stored_vectors(raw_client) == 1)


async def test_while_the_endpoint_fails_words_find_and_nothing_is_lost(
    settings: MakeSettings, model: ScriptedModelServer, raw_client: redis.Redis, publish: Publish
) -> None:
    model.embeddings_status = 503
    async with running(settings(openai_embedding_model=MODEL)) as aura:
        await listening(raw_client)
        publish(mail())
        await counted(aura, accepted=1)
        await eventually(lambda: len(model.embedding_requests) > 2)
        assert await search(aura, "견적서") == (["evt-1"], False)
        asked = len([body for body in model.embedding_requests if body["input"] == ["견적서"]])
        assert await search(aura, "견적서") == (["evt-1"], False)
        assert len([body for body in model.embedding_requests if body["input"] == ["견적서"]]) == asked == 1, (
            "it is spared"
        )
        model.embeddings_status = 200
        await eventually(lambda: stored_vectors(raw_client) == 1)


async def test_a_text_that_is_refused_does_not_hold_up_the_others(
    settings: MakeSettings, model: ScriptedModelServer, raw_client: redis.Redis, publish: Publish
) -> None:
    model.refused_embedding_text = "견적서 2호"
    async with running(settings(openai_embedding_model=MODEL)) as aura:
        await listening(raw_client)
        for number in range(1, 4):
            publish(mail(number))
        await counted(aura, accepted=3)
        await eventually(lambda: stored_vectors(raw_client) == 3)
        asked = len(model.embedding_requests)
        assert set((await search(aura, "견적서"))[0]) == {"evt-1", "evt-2", "evt-3"}
        assert len(model.embedding_requests) == asked + 1


async def test_shorter_vectors_are_asked_for_where_that_is_set(
    settings: MakeSettings, model: ScriptedModelServer, raw_client: redis.Redis, publish: Publish
) -> None:
    async with running(settings(openai_embedding_model=MODEL, aura_knowledge_dimensions=32)) as aura:
        await listening(raw_client)
        publish(mail())
        await eventually(lambda: stored_vectors(raw_client) == 1)
        assert {body["dimensions"] for body in model.embedding_requests} == {32}
        assert await search(aura, "견적서") == (["evt-1"], True)


async def test_processes_of_two_models_that_share_a_file_both_find_by_meaning(
    settings: MakeSettings,
    model: ScriptedModelServer,
    raw_client: redis.Redis,
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Nothing is asked for again because the other one has come or gone."""
    monkeypatch.setattr(vectors, "_LEASE_SECONDS", 0.1)
    shared = {"openai_embedding_model": MODEL, "aura_knowledge_path": str(tmp_path / "index.db")}
    long, short = settings(**shared), settings(**shared, aura_knowledge_dimensions=32)
    async with running(long) as one, running(short) as other:
        await listening(raw_client, nodes=2)
        publish(mail())
        await eventually(lambda: stored_vectors(raw_client) == 2)
        assert {body.get("dimensions") for body in model.embedding_requests} == {None, 32}
        for node in (one, other):
            assert await search(node, "xx견적xx") == (["evt-1"], True)
    asked = len(model.embedding_requests)
    for again in (long, short):
        async with running(again) as node:
            assert await search(node, "xx견적xx") == (["evt-1"], True)
    assert len(model.embedding_requests) == asked + 2, "only the questions"


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "refused"), (401, "unavailable"), (404, "unavailable"), (429, "unavailable")]
)
async def test_only_what_is_wrong_with_a_text_is_final(model: ScriptedModelServer, status: int, kind: str) -> None:
    model.embeddings_status = status
    embeddings = OpenAIEmbeddings(MODEL, api_key="k", base_url=model.base_url)
    with pytest.raises(ModelError, match=str(status)) as failed:
        await embeddings.embed(["글"])
    assert failed.value.kind == kind
    await embeddings.close()


async def test_a_server_that_is_not_there_is_no_end(unused_tcp_port: int) -> None:
    embeddings = OpenAIEmbeddings(MODEL, api_key="k", base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
    with pytest.raises(ModelError) as failed:
        await embeddings.embed(["글"])
    assert failed.value.kind == "unavailable"
    await embeddings.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>login</html>",
        b'{"data": []}',
        b'{"data": [{"index": 0, "embedding": []}]}',
        b'{"data": [{"index": 0, "embedding": [NaN, 1]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 1, "embedding": [1, 2]}]}',
    ],
)
async def test_an_answer_that_is_none_is_no_end(answer: bytes) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n".encode() + answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        embeddings = OpenAIEmbeddings(
            MODEL, api_key="k", base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        )
        with pytest.raises(ModelError) as failed:
            await embeddings.embed(["글"])
        assert failed.value.kind == "unavailable"
        await embeddings.close()


async def test_vectors_come_in_the_order_of_the_texts(model: ScriptedModelServer) -> None:
    embeddings = OpenAIEmbeddings(MODEL, api_key="k", base_url=model.base_url)
    one, other, empty = await embeddings.embed(["견적서", "회의록", ""])
    assert len(one) == len(empty) == DIMENSIONS
    assert [one, other] == [*await embeddings.embed(["견적서"]), *await embeddings.embed(["회의록"])]
    await embeddings.close()


def test_quantising_keeps_the_direction() -> None:
    assert quantised([0.5, -0.25, 0.0]) == bytes([127, 256 - 64, 0])
    assert quantised([0.0, 0.0]) == bytes(2)
