"""Embeddings: made once for all replicas, retried until they succeed, without delaying searches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from app.dev.demo.embeddings import DIMENSIONS
from app.dev.demo.http import HttpServer, Request, Response
from app.dev.demo.model import ScriptedModelServer
from app.errors import ModelError
from app.knowledge import vectors
from app.knowledge.embeddings import OpenAIEmbeddings, quantise
from app.ports.knowledge import Query, Searcher
from app.settings import Settings
from tests.harness.knowledge import Publish, mail, until_counted, until_subscribed
from tests.harness.service import Aura, running
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
MODEL = "aura-hashing"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MIN_PAUSE_SECONDS", 0.02)


def embedded_texts(model: ScriptedModelServer) -> list[str]:
    return [text for body in model.embedding_requests for text in body["input"]]


def stored_vectors(client: redis.Redis) -> int:
    """Returns the number of vectors in all logs."""
    logs: list[Any] = [client.xrange(key) for key in client.keys("aura:{know*:log")]
    return len([fields for entries in logs for _, fields in entries if "v" in fields])


@pytest.fixture
def raw_client(redis_client: redis.Redis, redis_server: Any) -> redis.Redis:
    """A client that can read vectors, which are not UTF-8."""
    return redis.Redis.from_url(redis_server.url, decode_responses=True, encoding_errors="replace")


async def search(aura: Aura, text: str) -> tuple[list[str], bool]:
    assert aura.service.knowledge is not None
    found = await aura.service.knowledge.search(Searcher("tenant1", "user1"), Query(text))
    return [hit.event.id for hit in found.hits], found.used_vectors


async def test_vectors_are_made_once_and_used_by_all_replicas(
    settings: MakeSettings, model: ScriptedModelServer, raw_client: redis.Redis, publish: Publish
) -> None:
    with_vectors = settings(openai_embedding_model=MODEL)
    async with running(with_vectors) as one, running(with_vectors) as other:
        await until_subscribed(raw_client, nodes=2)
        for number in range(1, 4):
            publish(mail(number))
        await eventually(lambda: stored_vectors(raw_client) == 3)
        assert sorted(text.split("\n")[0] for text in embedded_texts(model)) == [
            f"서버 견적서 {n}호" for n in (1, 2, 3)
        ]
        for node in (one, other):
            found, used_vectors = await search(node, "xx견적xx 2호")
            assert found[0] == "evt-2"
            assert used_vectors
    requests = len(model.embedding_requests)
    async with running(with_vectors) as again:
        assert (await search(again, "견적서 3호"))[0][0] == "evt-3"
    assert len(model.embedding_requests) == requests + 1, "only the query: the events have vectors already"


async def test_another_process_makes_vectors_after_the_leader_has_ended(
    settings: MakeSettings,
    model: ScriptedModelServer,
    raw_client: redis.Redis,
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vectors, "LEASE_SECONDS", 0.1)
    raw_client.set("aura:knowledge:leader", "node-that-died", px=300)
    async with running(settings(openai_embedding_model=MODEL)) as aura:
        await until_subscribed(raw_client)
        publish(mail())
        await until_counted(aura, accepted=1)
        await eventually(lambda: stored_vectors(raw_client) == 1)


async def test_words_are_searched_while_the_endpoint_fails_and_vectors_are_made_later(
    settings: MakeSettings, model: ScriptedModelServer, raw_client: redis.Redis, publish: Publish
) -> None:
    model.embeddings_status = 503
    async with running(settings(openai_embedding_model=MODEL)) as aura:
        await until_subscribed(raw_client)
        publish(mail())
        await until_counted(aura, accepted=1)
        await eventually(lambda: len(model.embedding_requests) > 2)
        assert await search(aura, "견적서") == (["evt-1"], False)
        requests = len([body for body in model.embedding_requests if body["input"] == ["견적서"]])
        assert await search(aura, "견적서") == (["evt-1"], False)
        assert len([body for body in model.embedding_requests if body["input"] == ["견적서"]]) == requests == 1, (
            "not requested again"
        )
        model.embeddings_status = 200
        await eventually(lambda: stored_vectors(raw_client) == 1)


async def test_a_refused_text_does_not_block_other_texts(
    settings: MakeSettings, model: ScriptedModelServer, raw_client: redis.Redis, publish: Publish
) -> None:
    model.refused_embedding_text = "견적서 2호"
    async with running(settings(openai_embedding_model=MODEL)) as aura:
        await until_subscribed(raw_client)
        for number in range(1, 4):
            publish(mail(number))
        await until_counted(aura, accepted=3)
        await eventually(lambda: stored_vectors(raw_client) == 3)
        requests = len(model.embedding_requests)
        assert set((await search(aura, "견적서"))[0]) == {"evt-1", "evt-2", "evt-3"}
        assert len(model.embedding_requests) == requests + 1


async def test_the_configured_dimensions_are_requested(
    settings: MakeSettings, model: ScriptedModelServer, raw_client: redis.Redis, publish: Publish
) -> None:
    async with running(settings(openai_embedding_model=MODEL, aura_knowledge_dimensions=32)) as aura:
        await until_subscribed(raw_client)
        publish(mail())
        await eventually(lambda: stored_vectors(raw_client) == 1)
        assert {body["dimensions"] for body in model.embedding_requests} == {32}
        assert await search(aura, "견적서") == (["evt-1"], True)


async def test_processes_with_two_models_that_share_a_file_both_use_vectors(
    settings: MakeSettings,
    model: ScriptedModelServer,
    raw_client: redis.Redis,
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """No vector is requested again when a process with the other model starts or ends."""
    monkeypatch.setattr(vectors, "LEASE_SECONDS", 0.1)
    shared = {"openai_embedding_model": MODEL, "aura_knowledge_path": str(tmp_path / "index.db")}
    long, short = settings(**shared), settings(**shared, aura_knowledge_dimensions=32)
    async with running(long) as one, running(short) as other:
        await until_subscribed(raw_client, nodes=2)
        publish(mail())
        await eventually(lambda: stored_vectors(raw_client) == 2)
        assert {body.get("dimensions") for body in model.embedding_requests} == {None, 32}
        for node in (one, other):
            assert await search(node, "xx견적xx") == (["evt-1"], True)
    requests = len(model.embedding_requests)
    for again in (long, short):
        async with running(again) as node:
            assert await search(node, "xx견적xx") == (["evt-1"], True)
    assert len(model.embedding_requests) == requests + 2, "only the queries"


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "refused"), (401, "unavailable"), (404, "unavailable"), (429, "unavailable")]
)
async def test_only_an_error_about_the_text_is_final(model: ScriptedModelServer, status: int, kind: str) -> None:
    model.embeddings_status = status
    embeddings = OpenAIEmbeddings(MODEL, api_key="k", base_url=model.base_url)
    with pytest.raises(ModelError, match=str(status)) as raised:
        await embeddings.embed(["글"])
    assert raised.value.kind == kind
    await embeddings.close()


async def test_the_query_of_the_base_url_follows_the_path() -> None:
    targets: list[str] = []

    async def handle(request: Request, response: Response) -> None:
        targets.append(f"{request.path} {request.query}")
        await response.json(200, {"data": [{"index": 0, "embedding": [1, 2]}]})

    server = await HttpServer(handle).start()
    embeddings = OpenAIEmbeddings(MODEL, api_key="k", base_url=f"{server.origin}/v1?api-version=2024-10-21")
    await embeddings.embed(["글"])
    await embeddings.close()
    await server.stop()
    assert targets == ["/v1/embeddings {'api-version': '2024-10-21'}"]


async def test_an_unreachable_server_is_not_a_final_error(unused_tcp_port: int) -> None:
    embeddings = OpenAIEmbeddings(MODEL, api_key="k", base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
    with pytest.raises(ModelError) as raised:
        await embeddings.embed(["글"])
    assert raised.value.kind == "unavailable"
    await embeddings.close()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>login</html>",
        b'{"data": []}',
        b'{"data": [{"index": 0, "embedding": []}]}',
        b'{"data": [{"index": 0, "embedding": [NaN, 1]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 1, "embedding": [1, 2]}]}',
    ],
)
async def test_a_response_without_valid_embeddings_is_not_a_final_error(body: bytes) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        embeddings = OpenAIEmbeddings(
            MODEL, api_key="k", base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        )
        with pytest.raises(ModelError) as raised:
            await embeddings.embed(["글"])
        assert raised.value.kind == "unavailable"
        await embeddings.close()


async def test_vectors_have_the_order_of_the_texts(model: ScriptedModelServer) -> None:
    embeddings = OpenAIEmbeddings(MODEL, api_key="k", base_url=model.base_url)
    one, other, empty = await embeddings.embed(["견적서", "회의록", ""])
    assert len(one) == len(empty) == DIMENSIONS
    assert [one, other] == [*await embeddings.embed(["견적서"]), *await embeddings.embed(["회의록"])]
    await embeddings.close()


def test_quantising_keeps_the_direction() -> None:
    assert quantise([0.5, -0.25, 0.0]) == bytes([127, 256 - 64, 0])
    assert quantise([0.0, 0.0]) == bytes(2)
