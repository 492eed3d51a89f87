"""Tools for tests, which run a function of the test and record their calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.ports.tools import ToolContext
from app.testing.model import calling

__all__ = ["NoteArguments", "NoteTool", "Work", "calling", "risky"]


class NoteArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: str = Field(min_length=1)
    text: str = ""
    copies: int = Field(default=1, ge=1, le=10)


Work = Callable[[NoteArguments], Awaitable[Any]]


class NoteTool:
    """Write a note to somebody."""

    arguments: type[BaseModel] = NoteArguments

    def __init__(
        self,
        name: str = "write_note",
        work: Work | None = None,
        *,
        needs_approval: bool = False,
        idempotent: bool = False,
        timeout_seconds: float | None = None,
    ) -> None:
        self.name = name
        self.title = f"제목 {name}"
        self.needs_approval = needs_approval
        self.idempotent = idempotent
        self.timeout_seconds = timeout_seconds
        self.ran: list[dict[str, Any]] = []
        self._work = work

    def question(self, arguments: NoteArguments) -> str:
        return f"{arguments.to}에게 메모를 보내시겠습니까?"

    async def run(self, arguments: NoteArguments, context: ToolContext) -> Any:
        self.ran.append(arguments.model_dump())
        return await self._work(arguments) if self._work else {"written": arguments.text}


def risky(name: str = "send_note", work: Work | None = None) -> NoteTool:
    return NoteTool(name, work, needs_approval=True)
