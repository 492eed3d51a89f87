"""Two runs that something happens to: one waits for a person, one is in the middle of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.e2e.mail import asks_for_mail
from tests.harness.follow import Follower, of_type
from tests.harness.frames import Frame, StreamReader, answer, check
from tests.harness.process import ServeProcess
from tests.harness.service import headers

TEXT = "분기 보고서를 정리했습니다. 매출은 12% 늘었고, 비용은 그대로입니다. 자세한 표는 첨부를 보세요."
DONE = "메일을 보냈습니다."
APPROVER = "user2"


@dataclass
class TwoRuns:
    """The model's answer goes on with `model.release()`; `finish` does what is left."""

    node: ServeProcess
    model: ScriptedModelServer
    waiting: Follower
    writing: Follower
    approval: StreamReader
    report: StreamReader
    hitl: Frame

    async def approve(self, node: ServeProcess | None = None) -> int:
        """The status of the answer."""
        response = await (node or self.node).decide("approve", self.hitl["requestId"], as_=headers(APPROVER))
        return int(response.status_code)

    async def heartbeats(self, count: int = 2) -> None:
        """Each of the streams gets so many more, and nothing else."""
        for stream in (self.report, self.approval):
            before = stream.comments
            while stream.comments < before + count:
                told = await stream.any()
                assert told.id is None, f"it was thought that nothing gets in: {told.raw}"

    async def finish(self, seconds: float = 10) -> None:
        """Both go on to their whole answers, each part of them once; nothing was asked twice."""
        async with asyncio.timeout(seconds):
            await self.writing.collect(self.report)
            await self.node.ready()
            self.model.play(ScriptedTurn(text=DONE))
            assert await self.approve() == 200
            await self.waiting.collect(self.approval)
        self.both_whole()
        assert len(self.model.requests) == 3

    def both_whole(self) -> None:
        for follower, text in ((self.waiting, DONE), (self.writing, TEXT)):
            check(follower.seen)
            assert answer(follower.seen) == text


@asynccontextmanager
async def two_runs(node: ServeProcess, model: ScriptedModelServer) -> AsyncIterator[TwoRuns]:
    waiting, writing = Follower("메일", APPROVER), Follower("보고서")
    async with AsyncExitStack() as streams:
        model.play(asks_for_mail())
        approval = await streams.enter_async_context(node.stream("메일", headers=headers(APPROVER)))
        hitl = await waiting.collect(approval, of_type("hitl"))
        model.play(ScriptedTurn(text=TEXT, chunk_chars=4, hang_after=10))
        report = await streams.enter_async_context(node.stream("보고서"))
        while len(answer(writing.seen)) < 40:
            await writing.collect(report, of_type("content"))
        yield TwoRuns(node, model, waiting, writing, approval, report, hitl)
