"""A crash at every journal write, before and after it: another node continues, and clients see one coherent run.

The client stays on the first node's HTTP server all the time: it reads the log, which any node may write.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.dev.demo.smtp import SmtpSink
from app.settings import Settings
from tests.harness.frames import Frame, answer, check, types
from tests.harness.service import FIXTURES, Aura, headers, running

SCENARIOS = {
    "answer": "안녕하세요",
    "safe tool": "지금 몇 시인가요?",
    "risky tool": "메일을 보내주세요",
}
MAX_WRITES = 25


class CrashingJournal:
    """Replaces the writes of a service's journal: its node crashes at the write number `at`, before or after it."""

    def __init__(self, aura: Aura, at: int, *, after: bool) -> None:
        journal = aura.service.stores.journal
        self.inner_commit, self.inner_create = journal.commit, journal.create
        self.aura, self.at, self.after = aura, at, after
        self.writes = 0
        journal.commit = self.commit  # type: ignore[method-assign, assignment]
        journal.create = self.create  # type: ignore[method-assign]

    async def commit(self, *args: Any) -> None:
        self.writes += 1
        if self.writes == self.at and not self.after:
            self.crash()
        await self.inner_commit(*args)
        if self.writes == self.at and self.after:
            self.crash()

    async def create(self, *args: Any, **kwargs: Any) -> Any:
        """Write number 0, in the request's own task."""
        if self.at or self.after:
            created = await self.inner_create(*args, **kwargs)
            if self.at:
                return created
        self.die()
        raise ConnectionAbortedError

    def crash(self) -> None:
        self.die()
        raise asyncio.CancelledError

    def die(self) -> None:
        """Simulate a killed process: its memory is gone and its lease ends."""
        self.aura.service.runs.release_all()
        self.stopped = asyncio.create_task(self.aura.service.stores.nodes.stop())


async def _run(first: Aura, second: Aura, prompt: str) -> list[Frame]:
    """One run, each request approved on the other node."""
    async with first.stream(prompt) as stream:
        while True:
            frame = await stream.next()
            if frame.type == "hitl":
                assert (await second.decide("approve", frame["requestId"])).status_code == 200
            if frame.is_done:
                return await stream.rest()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.slow
async def test_a_crash_at_any_write_loses_and_repeats_nothing(
    settings: Callable[..., Settings], scenario: str, after: bool
) -> None:
    async with ScriptedModelServer(pace=0) as model, SmtpSink() as sink:
        model.load(FIXTURES / "model_turns")
        made = settings(
            openai_base_url=model.base_url,
            smtp_host=sink.host,
            smtp_port=sink.port,
            smtp_from="aura@dwp.test",
            smtp_tls="none",
            github_token="test-token-123",
        )
        prompt = SCENARIOS[scenario]
        async with running(made) as second:
            async with running(made) as first:
                undisturbed = await _run(first, second, prompt)
            sent_before = len(sink.messages)
            for at in range(1, MAX_WRITES):
                async with running(made) as first:
                    journal = CrashingJournal(first, at, after=after)
                    async with asyncio.timeout(30):
                        frames = await _run(first, second, prompt)
                _compare(frames, undisturbed)
                asked_again = sum(1 for frame in frames if frame.type == "hitl" and frame.data.get("outcomeUnknown"))
                sent = len(sink.messages) - sent_before
                assert sent <= (1 if scenario == "risky tool" else 0) + asked_again
                sent_before = len(sink.messages)
                if journal.writes < at:
                    return  # the run ended before: every write has had its crash
    pytest.fail(f"a run of {prompt} makes more than {MAX_WRITES} writes")


async def test_crash_before_the_creation_leaves_nothing(settings: Callable[..., Settings], redis_client: Any) -> None:
    async with running(settings()) as first:
        CrashingJournal(first, 0, after=False)
        async with first.stream("안녕하세요") as stream:
            await stream.rest()
        assert stream.response.status_code == 500
    assert not redis_client.keys("checkpoint:*")


async def test_crash_after_the_creation_is_a_run_that_another_node_finds(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    """Its client got no answer. With the same key it attaches to the run, and the prompt is not executed twice."""
    keyed = headers(**{"Idempotency-Key": "key-1"})
    model.play(ScriptedTurn(text="안녕하세요!"))
    async with running(settings()) as second:
        async with running(settings()) as first:
            CrashingJournal(first, 0, after=True)
            async with first.stream("인사", headers=keyed) as lost:
                await lost.rest()
            assert lost.response.status_code == 500
        async with asyncio.timeout(20), second.stream("인사", headers=keyed) as stream:
            frames = await stream.rest()
    check(frames)
    assert answer(frames) == "안녕하세요!"
    assert len(model.requests) == 1


def _timeless(text: str) -> str:
    """Mask times and message ids: the clock advances while a run recovers, and each run sends its own mail."""
    return re.sub(r"\d\d:\d\d:\d\d|aura\.[0-9a-f]+@", "…", text)


def _compare(frames: list[Frame], undisturbed: list[Frame]) -> None:
    check(frames)
    assert _timeless(answer(frames)) == _timeless(answer(undisturbed))
    assert frames[-2]["status"] == "completed"
    outcomes = Counter(
        frame["toolCallId"]
        for frame in frames
        if frame.type == "tool_execution" and frame["status"] in ("completed", "failed", "rejected")
    )
    assert all(times == 1 for times in outcomes.values())
    path = [(f["metadata"]["from"], f["metadata"]["to"]) for f in frames if f.type == "timeline_step_update"]
    assert all(earlier[1] == later[0] for earlier, later in pairwise(path))
    assert Counter(types(frames))["start"] == 1
