"""Two runs for tests of faults: one waits for an approval, the other is in the middle of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.e2e.mail import mail_turn
from tests.harness.follow import Follower, of_type
from tests.harness.frames import Frame, StreamReader, answer, check
from tests.harness.process import ServeProcess
from tests.harness.service import headers

TEXT = "분기 보고서를 정리했습니다. 매출은 12% 늘었고, 비용은 그대로입니다. 자세한 표는 첨부를 보세요."
DONE = "메일을 보냈습니다."
APPROVER = "user2"


@dataclass
class TwoRuns:
    """The two runs and their streams. `model.release()` continues the answer; `finish` completes both runs."""

    node: ServeProcess
    model: ScriptedModelServer
    waiting: Follower
    writing: Follower
    approval: StreamReader
    report: StreamReader
    hitl: Frame

    async def approve(self, node: ServeProcess | None = None) -> int:
        """Approve the waiting run; returns the HTTP status."""
        response = await (node or self.node).decide("approve", self.hitl["requestId"], as_=headers(APPROVER))
        return int(response.status_code)

    async def expect_heartbeats(self, count: int = 2) -> None:
        """Wait until each stream has received `count` more heartbeats; no event may arrive."""
        for stream in (self.report, self.approval):
            before = stream.comments
            while stream.comments < before + count:
                frame = await stream.any()
                assert frame.id is None, f"unexpected event: {frame.raw}"

    async def finish(self, seconds: float = 10) -> None:
        """Complete both runs. Their answers must be complete, and the model must not have been requested again."""
        async with asyncio.timeout(seconds):
            await self.writing.collect(self.report)
            await self.node.ready()
            self.model.play(ScriptedTurn(text=DONE))
            assert await self.approve() == 200
            await self.waiting.collect(self.approval)
        self.check_both_completed()
        assert len(self.model.requests) == 3

    def check_both_completed(self) -> None:
        for follower, text in ((self.waiting, DONE), (self.writing, TEXT)):
            check(follower.seen)
            assert answer(follower.seen) == text


@asynccontextmanager
async def start_two_runs(node: ServeProcess, model: ScriptedModelServer) -> AsyncIterator[TwoRuns]:
    waiting, writing = Follower("메일", APPROVER), Follower("보고서")
    async with AsyncExitStack() as streams:
        model.play(mail_turn())
        approval = await streams.enter_async_context(node.stream("메일", headers=headers(APPROVER)))
        hitl = await waiting.collect(approval, of_type("hitl"))
        model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=10))
        report = await streams.enter_async_context(node.stream("보고서"))
        while len(answer(writing.seen)) < 40:
            await writing.collect(report, of_type("content"))
        yield TwoRuns(node, model, waiting, writing, approval, report, hitl)
