"""A client that reads one run over several connections, as a browser does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2

from tests.harness.frames import Frame, StreamReader
from tests.harness.service import Client, headers

CONNECTION_ERRORS = (httpx2.HTTPError, AssertionError)


@dataclass
class Follower:
    """Collects the frames of one run over any number of connections; it resumes with `Last-Event-ID`."""

    prompt: str
    user: str = "user1"
    seen: list[Frame] = field(default_factory=list)
    idempotency_key: str | None = None
    """The `Idempotency-Key` with which the prompt is repeated where the first response was lost."""

    @property
    def session_id(self) -> str:
        return str(self.seen[0]["sessionId"])

    @property
    def is_done(self) -> bool:
        return bool(self.seen) and self.seen[-1].is_done

    async def read(
        self, node: Client, until: Callable[[Frame], bool] = lambda frame: frame.is_done, *, resume: bool = True
    ) -> Frame:
        """Open a stream of a node and read up to the first frame for which `until` is true.

        Raises the error of a broken connection, or `StopAsyncIteration` at the end of the stream.
        """
        extra = {"Last-Event-ID": str(self.seen[-1].id)} if self.seen and resume else {}
        if self.idempotency_key is not None:
            extra["Idempotency-Key"] = self.idempotency_key
        async with node.stream(self.prompt, headers=headers(self.user, **extra)) as stream:
            return await self.collect(stream, until)

    async def collect(
        self, stream: StreamReader, until: Callable[[Frame], bool] = lambda frame: frame.is_done
    ) -> Frame:
        while True:
            frame = await stream.next()
            self.seen.append(frame)
            if until(frame):
                return frame


def of_type(*types: str) -> Callable[[Frame], bool]:
    return lambda frame: frame.type in types
