"""Wires the workspace's knowledge: its log in Redis, its index, and the vectors where a model makes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.bootstrap.connection import connect
from app.clock import SystemClock
from app.knowledge.embeddings import OpenAIEmbeddings
from app.knowledge.service import Knowledge
from app.knowledge.sqlite.index import SqliteIndex
from app.knowledge.vectors import Vectors
from app.ports.clock import Clock
from app.ports.knowledge import KnowledgeIndex
from app.redis.knowledge import RedisKnowledgeLog
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from app.settings import Settings


def make_knowledge(settings: Settings, connection: Connection, pubsub: PubSub, node_id: str, clock: Clock) -> Knowledge:
    """Build the workspace's knowledge. Nothing connects and no file is opened before it is started or searched."""
    events = RedisKnowledgeLog(
        connection,
        pubsub,
        node_id,
        clock,
        channels=settings.aura_event_channels,
        retention_seconds=settings.aura_knowledge_retention_days * 86_400,
        max_events=settings.aura_knowledge_max_events,
        max_bytes=int(settings.aura_knowledge_max_megabytes * 1024 * 1024),
    )
    key, model = settings.openai_api_key, settings.openai_embedding_model
    if key is None or model is None:
        return Knowledge(events, _index(settings, None), audience=settings.aura_knowledge_audience)
    embeddings = OpenAIEmbeddings(
        model,
        api_key=key.get_secret_value(),
        base_url=settings.model_servers[0].base_url,
        dimensions=settings.aura_knowledge_dimensions,
    )
    index = _index(settings, embeddings.model)
    vectors = Vectors(embeddings, events, index, clock)
    return Knowledge(events, index, vectors, audience=settings.aura_knowledge_audience)


def _index(settings: Settings, model: str | None) -> KnowledgeIndex:
    if settings.aura_knowledge_url is None:
        return SqliteIndex(settings.aura_knowledge_path, model)
    from app.knowledge.postgres.index import PostgresIndex  # noqa: PLC0415 - a driver of 10 MB that others do without

    return PostgresIndex(settings.aura_knowledge_url.get_secret_value(), model, settings.aura_knowledge_audience)


@asynccontextmanager
async def own_knowledge(settings: Settings) -> AsyncIterator[Knowledge]:
    """The same parts for a command that searches but does not receive events."""
    clock = SystemClock()
    node_id, connection, pubsub = connect(settings)
    knowledge = make_knowledge(settings, connection, pubsub, node_id, clock)
    try:
        yield knowledge
    finally:
        await knowledge.stop()
        await connection.close()
