"""`aura knowledge`: what an operator sees of the workspace's events."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import redis

from app.dev.demo.model import ScriptedModelServer
from app.settings import Settings
from tests.harness.knowledge import Knowing, Publish, counted, in_thread, listening, mail
from tests.harness.service import running
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]


async def test_stats_and_search_show_what_was_heard(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish, knowing: Knowing
) -> None:
    async with running(settings()) as aura:
        await listening(redis_client)
        for number in (1, 2):
            publish(mail(number, subject=f"견적서 {number}호 \x1b[31m"))
        publish(mail(3, tenantId=7, eventType="approval.requested"))
        publish("{")
        await counted(aura, accepted=3, malformed__not_json=1)
    told = await in_thread(knowing, "stats")
    rows = [line.split() for line in told.splitlines()]
    assert [row[:3] for row in rows] == [
        ["tenant", "events", "vectors"],
        ["tenant1", "2", "0"],
        ["7", "1", "0"],
        ["malformed:", "1", "not_json"],
    ]
    found = await in_thread(knowing, "search", "견적서 2호", "--tenant", "tenant1", "--type", "mail")
    assert found.startswith("evt-2  mail.received  2024-01-16 12:00Z  견적서 2호 [31m\n  한빛정보")
    assert found.endswith("2 found by words\n")
    assert "0 found" in await in_thread(knowing, "search", "견적서", "--tenant", "tenant1", "--since", "2024-01-17")
    assert "0 found" in await in_thread(knowing, "search", "견적서", "--tenant", "tenant2")


async def test_rebuild_reaches_running_processes_and_the_file(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish, knowing: Knowing, tmp_path: Path
) -> None:
    async with running(settings()) as aura:
        await listening(redis_client)
        publish(mail())
        await counted(aura, accepted=1)
        knowledge = aura.service.knowledge
        assert knowledge is not None
        await eventually(lambda: knowledge._generation == 0)
        told = await in_thread(knowing, "rebuild", AURA_KNOWLEDGE_PATH=str(tmp_path / "index.db"))
        assert told == "1 running process(es) were notified; 1 entries indexed here\n"
        await eventually(lambda: knowledge._generation == 1)
    assert (tmp_path / "index.db").stat().st_size > 0


async def test_search_by_meaning_where_a_model_is_set(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, knowing: Knowing
) -> None:
    embedding = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": model.base_url, "OPENAI_EMBEDDING_MODEL": "aura-hashing"}
    assert "0 found by words and meaning" in await in_thread(knowing, "search", "x", "--tenant", "t", **embedding)


def test_without_redis_the_command_says_so_in_one_line(knowing: Knowing, unused_tcp_port: int) -> None:
    result = knowing("stats", REDIS_URL=f"redis://127.0.0.1:{unused_tcp_port}", AURA_REDIS_TIMEOUT_SECONDS="0.2")
    assert result.exit_code == 2
    assert result.output.startswith("aura: ")
    assert json.dumps(result.output).count("\\n") == 1
