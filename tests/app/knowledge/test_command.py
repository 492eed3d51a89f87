"""`aura knowledge`: the commands for operators."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import redis

from app.dev.demo.model import ScriptedModelServer
from app.settings import Settings
from tests.harness.knowledge import KnowledgeCommand, Publish, mail, run_in_thread, until_counted, until_subscribed
from tests.harness.service import running
from tests.harness.waiting import eventually

MakeSettings = Callable[..., Settings]
AS_USER1 = ("--tenant", "tenant1", "--user", "user1")


async def test_stats_and_search_print_received_events(
    settings: MakeSettings, redis_client: redis.Redis, publish: Publish, knowledge_command: KnowledgeCommand
) -> None:
    async with running(settings()) as aura:
        await until_subscribed(redis_client)
        for number in (1, 2):
            publish(mail(number, subject=f"견적서 {number}호 \x1b[31m"))
        publish(mail(3, tenantId=7, eventType="approval.requested"))
        publish("{")
        await until_counted(aura, accepted=3, malformed__not_json=1)
    output = await run_in_thread(knowledge_command, "stats")
    rows = [line.split() for line in output.splitlines()]
    assert [row[:3] for row in rows] == [
        ["tenant", "events", "vectors"],
        ["tenant1", "2", "0"],
        ["7", "1", "0"],
        ["malformed:", "1", "not_json"],
    ]
    found = await run_in_thread(knowledge_command, "search", "견적서 2호", *AS_USER1, "--type", "mail")
    assert found.startswith("evt-2  mail.received  2024-01-16 12:00Z  견적서 2호 [31m\n  한빛정보")
    assert found.endswith("2 found by words\n")
    assert "0 found" in await run_in_thread(knowledge_command, "search", "견적서", *AS_USER1, "--since", "2024-01-17")
    for other in (("--tenant", "tenant2", "--user", "user1"), ("--tenant", "tenant1", "--user", "user2")):
        assert "0 found" in await run_in_thread(knowledge_command, "search", "견적서", *other)


async def test_rebuild_reaches_running_processes_and_the_file(
    settings: MakeSettings,
    redis_client: redis.Redis,
    publish: Publish,
    knowledge_command: KnowledgeCommand,
    tmp_path: Path,
) -> None:
    async with running(settings()) as aura:
        await until_subscribed(redis_client)
        publish(mail())
        await until_counted(aura, accepted=1)
        knowledge = aura.service.knowledge
        assert knowledge is not None
        await eventually(lambda: knowledge.generation == 0)
        output = await run_in_thread(knowledge_command, "rebuild", AURA_KNOWLEDGE_PATH=str(tmp_path / "index.db"))
        assert output == "1 running process(es) were notified; 1 entries indexed here\n"
        await eventually(lambda: knowledge.generation == 1)
    assert (tmp_path / "index.db").stat().st_size > 0


async def test_search_uses_vectors_if_a_model_is_configured(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, knowledge_command: KnowledgeCommand
) -> None:
    embedding = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": model.base_url, "OPENAI_EMBEDDING_MODEL": "aura-hashing"}
    assert "0 found by words and meaning" in await run_in_thread(
        knowledge_command, "search", "x", *AS_USER1, **embedding
    )


def test_without_redis_the_command_prints_one_line(knowledge_command: KnowledgeCommand, unused_tcp_port: int) -> None:
    result = knowledge_command(
        "stats", REDIS_URL=f"redis://127.0.0.1:{unused_tcp_port}", AURA_REDIS_TIMEOUT_SECONDS="0.2"
    )
    assert result.exit_code == 2
    assert result.output.startswith("aura: ")
    assert json.dumps(result.output).count("\\n") == 1
