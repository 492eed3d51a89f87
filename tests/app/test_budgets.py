"""The cost of a run in units that do not depend on the machine: round trips, bytes, tasks, timers, parses."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.model import reader as completion
from app.redis import scripts
from app.redis.wire.protocol import RedisProtocol
from statemachine.frames import FRAME_LIMIT_BYTES
from tests.harness.frames import answer, check
from tests.harness.raw import MakeSettings, read_stream
from tests.harness.service import Aura, headers, running
from tests.harness.tools import NoteArguments, calling, risky
from tests.harness.waiting import eventually

TEXT = "".join(f"낱말{number} " for number in range(200))
WAITING = 20
MAX_OBJECTS = {
    "WaitingRun": WAITING,
    "RunLock": WAITING,
    "_Watch": WAITING,
    "Checkpoint": 0,
    "HTTPStream": 1,
    "TCPServer": 1,
}
"""The maximum number of objects for waiting runs whose clients have disconnected; one of them may reconnect."""


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Iterator[Callable[[], int]]:
    """Count the calls of a function in the block."""
    original, calls = getattr(owner, name), 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counting)
        yield lambda: calls


async def test_a_chat_of_200_tokens_takes_few_round_trips_and_frames(
    settings: MakeSettings, model: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(settings(aura_lease_seconds=60)) as aura:
        model.play(ScriptedTurn(text=TEXT, chunk_chars=4), ScriptedTurn(text=TEXT, chunk_chars=4))
        await read_stream(aura)  # the scripts are loaded
        with (
            counted(monkeypatch, RedisProtocol, "send") as round_trips,
            counted(monkeypatch, completion, "text_of_chunk") as parses,
        ):
            _, frames = await read_stream(aura)
        check(frames)
        assert answer(frames) == TEXT
        chunks = len(TEXT) / 4
        assert chunks <= parses() <= chunks + 6  # each once: the role, the end and the usage are chunks, too
        # One for the creation, one for each released part of the text, one for the end; a slow machine has more parts.
        contents = sum(frame.type == "content" for frame in frames)
        assert round_trips() <= contents + 6
        assert all(len(frame.raw.encode()) <= FRAME_LIMIT_BYTES for frame in frames if "metadata" not in frame.data)


async def test_streamed_tokens_cost_less_than_one_round_trip_each(
    settings: MakeSettings, model: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one frame in 25 ms, though 5 tokens come in that time."""
    async with running(settings(aura_lease_seconds=60)) as aura:
        model.play(ScriptedTurn(text=TEXT[:400], chunk_chars=4, delay_ms=5))
        with counted(monkeypatch, RedisProtocol, "send") as round_trips:
            _, frames = await read_stream(aura)
        check(frames)
        tokens = 100
        assert sum(frame.type == "content" for frame in frames) <= tokens / 2
        assert round_trips() <= tokens / 2 + 10


async def _start_waiting_run(aura: Aura, number: int) -> None:
    """Start a run and disconnect when it waits for a person."""
    async with aura.stream("메모", headers=headers(f"user{number}")) as stream:
        await stream.until("hitl")


def _alive(name: str) -> int:
    return sum(type(found).__name__ == name for found in gc.get_objects())


def _tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks of the service, without those of the scripted model server."""
    return [task for task in asyncio.all_tasks() if "HttpServer" not in str(task.get_coro())]


@pytest.mark.slow
async def test_a_waiting_run_keeps_its_ids_but_no_task_timer_or_checkpoint(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis
) -> None:
    tool = risky()
    model.play(*(calling((tool.name, {"to": str(number)})) for number in range(WAITING)))
    async with running(settings(aura_lease_seconds=60), tools=[tool]) as aura:
        await aura.client.get("/health")
        gc.collect()
        tasks, before = len(_tasks()), {name: _alive(name) for name in MAX_OBJECTS}
        await asyncio.gather(*(_start_waiting_run(aura, number) for number in range(WAITING)))
        assert len(redis_client.pubsub_channels("hitl:channel:*")) == WAITING

        def exceeded() -> dict[str, int]:
            gc.collect()
            kept = {name: _alive(name) - before[name] for name in before}
            more = {name: count for name, count in kept.items() if count > MAX_OBJECTS[name]}
            return {**more, "tasks": len(_tasks())} if len(_tasks()) > tasks else more

        for _ in range(300):
            if not (more := exceeded()):
                break
            await asyncio.sleep(0.05)
        assert not more
        assert not aura.service.stores.journal.feed_count
        assert len(redis_client.client_list()) <= 8 + 1


async def test_polling_the_keys_of_waiting_runs_is_one_command_for_many(
    settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.redis.decisions._POLL_SECONDS", 0.1)
    tool = risky()
    model.play(*(calling((tool.name, {"to": str(number)})) for number in range(WAITING)))

    def polls() -> int:
        return int(redis_client.info("commandstats").get("cmdstat_mget", {}).get("calls", 0))

    async with running(settings(aura_lease_seconds=60), tools=[tool]) as aura:
        await asyncio.gather(*(_start_waiting_run(aura, number) for number in range(WAITING)))
        await eventually(lambda: aura.service.stats().waiting_runs == WAITING)
        before = polls()
        with counted(monkeypatch, RedisProtocol, "send") as round_trips:
            await eventually(lambda: polls() >= before + 3)
            assert round_trips() <= 2 * (polls() - before)  # the lease may be renewed meanwhile


@pytest.mark.parametrize(("is_bare", "most"), [(False, 2), (True, 3)], ids=["decided in the request", "bare signal"])
async def test_a_decision_costs_one_read_and_one_write_until_the_next_event(
    settings: MakeSettings,
    model: ScriptedModelServer,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    is_bare: bool,
    most: int,
) -> None:
    """Request, signal and checkpoint are one read; a bare signal is recorded in the request before it counts."""
    redis_client.script_load(scripts.SWAP.text)
    send = RedisProtocol.send
    go_on = asyncio.Event()

    async def work(_: NoteArguments) -> None:
        await go_on.wait()

    tool = risky(work=work)
    model.play(calling((tool.name, {"to": "김"})), ScriptedTurn(text="네."))
    async with running(settings(aura_lease_seconds=60), tools=[tool]) as aura, aura.stream("메모") as stream:
        hitl = await stream.until("hitl")
        await eventually(lambda: aura.service.stats().active_runs == 0)
        if not is_bare:
            key = f"hitl:request:{hitl['requestId']}"
            decided = {**json.loads(str(redis_client.get(key))), "status": "approved"}
            redis_client.set(key, json.dumps(decided), keepttl=True)
        sent: list[bytes] = []

        def record(protocol: RedisProtocol, packed: bytes) -> None:
            sent.append(packed)
            send(protocol, packed)

        monkeypatch.setattr(RedisProtocol, "send", record)
        redis_client.publish(f"hitl:channel:{hitl['sessionId']}", '{"action":"approve"}')
        await stream.next()
        # The lease and the audit trail may also be written meanwhile, off the run's path.
        name = hitl["sessionId"].encode()
        assert 1 <= sum(name in packed and b"aura:audit" not in packed for packed in sent) <= most
        go_on.set()
        await stream.rest()
