"""The whole answer in the last `content` frame, for a reader that began after the first one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

from app.errors import StorageUnavailable
from app.ports.journal import RunReader
from app.web.results import AnswerReader
from statemachine.events import Content
from statemachine.frames import encode

BODIES = [
    body for part in ("안녕", "하세요") for body in encode(Content(content=part, chunk=part == "안녕"), "s", 1, "both")
]


class _Journal:
    """Its storage is unavailable once, in the middle of the log."""

    def __init__(self) -> None:
        self.reads = 0

    async def read_bodies(self, _: str) -> AsyncIterator[bytes]:
        self.reads += 1
        yield BODIES[0]
        if self.reads == 1:
            raise StorageUnavailable("Redis is away for a moment")
        yield BODIES[1]


async def test_an_answer_is_read_again_after_storage_was_unavailable() -> None:
    journal = _Journal()
    reader = AnswerReader(cast("RunReader", journal), "s", from_start=False)
    assert reader.complete(BODIES[1]) is None
    await reader.fetch()
    assert journal.reads == 2
    completed = reader.complete(BODIES[1])
    assert completed is not None
    assert '"안녕하세요"'.encode() in completed
