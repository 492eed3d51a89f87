"""The fixture `waiting_run`: starts a run that waits for an approval, and what tests do with such a run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.ports.clock import Clock
from app.settings import Settings
from tests.harness.frames import DONE, Frame, StreamReader, answer, check, types
from tests.harness.service import Aura, headers, running
from tests.harness.stored import checkpoint, read_json
from tests.harness.tools import NoteTool, calling, risky

MakeSettings = Callable[..., Settings]
ARGUMENTS = {"to": "김", "text": "안녕하세요", "copies": 1}
FINAL_ANSWER = ScriptedTurn(text="보냈습니다.")


@dataclass
class WaitingRun:
    """A run that waits for an approval, with its stream, its `hitl` frame and its tool."""

    aura: Aura
    stream: StreamReader
    hitl: Frame
    tool: NoteTool
    redis: redis.Redis

    @property
    def request_id(self) -> str:
        return str(self.hitl["requestId"])

    @property
    def session_id(self) -> str:
        return str(self.hitl["sessionId"])

    def stored_request(self) -> dict[str, Any]:
        request: dict[str, Any] = read_json(self.redis, f"hitl:request:{self.request_id}")
        return request

    def checkpoint(self) -> dict[str, Any]:
        return checkpoint(self.redis, self.session_id)

    def publish_signal(self, signal: Any) -> int:
        raw = signal if isinstance(signal, str | bytes) else json.dumps(signal)
        return int(self.redis.publish(f"hitl:channel:{self.session_id}", raw))

    def store_signal(self, signal: dict[str, Any]) -> None:
        self.redis.set(f"hitl:signal:{self.session_id}", json.dumps(signal), ex=300)

    def update_request(self, **changes: Any) -> None:
        self.redis.set(
            f"hitl:request:{self.request_id}", json.dumps({**self.stored_request(), **changes}), keepttl=True
        )

    async def expect_completed(self) -> list[Frame]:
        """Read the stream to its end; the run must have completed and executed its tool once."""
        frames = await self.stream.rest()
        check(frames)
        assert frames[-2]["status"] == "completed"
        assert answer(frames) == FINAL_ANSWER.text
        assert len(self.tool.ran) == 1
        return frames

    async def expect_rejected(self, reason: str) -> list[Frame]:
        """Read the stream to its end; the run must have been rejected with this reason, without executing its tool."""
        frames = await self.stream.rest()
        check(frames)
        assert types(frames)[-3:] == ["error", "end", DONE]
        assert (frames[-3]["errorType"], frames[-3]["message"]) == ("RejectionError", reason)
        assert frames[-2]["status"] == "rejected"
        assert [frame["status"] for frame in frames if frame.type == "tool_execution"] == ["pending", "rejected"]
        assert self.tool.ran == []
        return frames


StartWaitingRun = Callable[..., Any]


@pytest.fixture
def waiting_run(settings: MakeSettings, model: ScriptedModelServer, redis_client: redis.Redis) -> StartWaitingRun:
    @asynccontextmanager
    async def start(
        *then: ScriptedTurn,
        arguments: dict[str, Any] = ARGUMENTS,
        sent: dict[str, str] | None = None,
        clock: Clock | None = None,
        **overrides: Any,
    ) -> AsyncIterator[WaitingRun]:
        tool = risky()
        model.play(calling((tool.name, arguments)), *then)
        async with (
            running(settings(**overrides), clock=clock, tools=[tool]) as aura,
            aura.stream("메모를 보내주세요", headers=sent or headers()) as stream,
        ):
            hitl = await stream.until("hitl")
            yield WaitingRun(aura, stream, hitl, tool, redis_client)

    return start
