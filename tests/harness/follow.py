"""A client that goes on reading wherever the run is: what it has in the end is what a browser has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2

from tests.harness.frames import Frame, StreamReader
from tests.harness.service import Client, headers

CONNECTION_ERRORS = (httpx2.HTTPError, AssertionError)


@dataclass
class Follower:
    """Frames of one run, whatever happens to the connections. Comes back with `Last-Event-ID`, never without."""

    prompt: str
    user: str = "user1"
    seen: list[Frame] = field(default_factory=list)
    idempotency_key: str | None = None
    """The `Idempotency-Key` under which it asks again where nothing was answered."""

    @property
    def session_id(self) -> str:
        return str(self.seen[0]["sessionId"])

    @property
    def is_done(self) -> bool:
        return bool(self.seen) and self.seen[-1].is_done

    async def read(
        self, node: Client, until: Callable[[Frame], bool] = lambda frame: frame.is_done, *, resume: bool = True
    ) -> Frame:
        """From one node, up to a frame. Raises what broke the connection, or `StopAsyncIteration`."""
        more = {"Last-Event-ID": str(self.seen[-1].id)} if self.seen and resume else {}
        if self.idempotency_key is not None:
            more["Idempotency-Key"] = self.idempotency_key
        async with node.stream(self.prompt, headers=headers(self.user, **more)) as stream:
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
