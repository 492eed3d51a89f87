"""Runs for the suite, written as the engine writes them: each step and its frames come from the core."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

from app.ports.journal import Idempotency, Journal, LogEntry, RunLock, Tail
from statemachine.checkpoint import Approval, Checkpoint, Limits, RunRequest
from statemachine.decisions import Decision, Verdict
from statemachine.frames import DONE_BODY, encode
from statemachine.messages import (
    AnswerArrived,
    AnswerFinished,
    AwaitDecision,
    CancelRequested,
    Fact,
    RequestedCall,
    Stop,
    ToolsRequested,
)
from statemachine.prompt import conversation
from statemachine.sessions import new_session_id
from statemachine.stored import digest
from statemachine.workflow import advance, begin

TENANT, USER = "tenant1", "kim"
ARGUMENTS = {"to": "lee@example.com", "subject": "회의"}
_WAIT_SECONDS = 30.0


class StoredRun:
    """One run: its current step, and what the log must contain after it has been written."""

    def __init__(
        self,
        *,
        user_id: str = USER,
        tenant_id: str = TENANT,
        prompt: str = "메일을 보내주세요",
        thread_id: str | None = None,
        session_id: str | None = None,
        created_at: float | None = None,
    ) -> None:
        now = time.time() if created_at is None else created_at
        self.session_id = session_id or new_session_id(user_id, int(now), secrets.token_hex(2))
        self.prompt_digest = digest(prompt)
        self.thread_id = thread_id
        request = RunRequest(
            session_id=self.session_id,
            thread_id=thread_id or self.session_id,
            user_id=user_id,
            tenant_id=tenant_id,
            trace_id="trace-1",
            prompt=prompt,
        )
        step = begin(request, conversation(prompt, {}), Limits(), now, seed=secrets.token_hex(8))
        self.checkpoint: Checkpoint = step.checkpoint
        self.bodies = frames(step.events, self.session_id, now)
        self.written: list[bytes] = []
        """The bodies of all steps that were written."""

    # --- steps --------------------------------------------------------------------------------------------------------

    def apply(self, fact: Fact) -> None:
        """Make the next step: `bodies` and `checkpoint` are to be committed. The methods below make one of a kind."""
        now = time.time()
        step = advance(self.checkpoint, fact, now)
        self.checkpoint, self.bodies = step.checkpoint, frames(step.events, self.session_id, now)
        if isinstance(step.effect, Stop):
            self.bodies.append(DONE_BODY)

    def answer(self, text: str = "네.") -> None:
        self.apply(AnswerArrived(text))

    def request_approval(self, call_id: str = "c1") -> None:
        """Request the approval of a mail."""
        call = RequestedCall(
            id=call_id,
            name="send_email",
            arguments=ARGUMENTS,
            raw_arguments="{}",
            title="이메일 발송",
            question="이메일을 발송하시겠습니까?",
            needs_approval=True,
        )
        self.apply(ToolsRequested((call,)))

    def finish(self) -> None:
        self.apply(AnswerFinished("네.", "네."))

    def cancel(self, cancelled_by: str) -> None:
        self.apply(CancelRequested(cancelled_by))

    @property
    def approval(self) -> Approval:
        assert self.checkpoint.open_approval is not None
        return self.checkpoint.open_approval

    @property
    def wait(self) -> AwaitDecision:
        """What the run waits for."""
        assert self.checkpoint.deadline_at is not None
        return AwaitDecision(self.approval, self.checkpoint.deadline_at)

    def decision(self, verdict: Verdict = "approved", by: str = "boss", *, at: float | None = None) -> Decision:
        decided_at = round(time.time() if at is None else at, 3)
        return Decision(verdict, self.approval.request_id, decided_at, decided_by=by)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def create(self, journal: Journal, idempotency: Idempotency | None = None) -> RunLock:
        """Create the run. Raises `AssertionError` where an idempotency key has created another one."""
        created = await self.try_to_create(journal, idempotency)
        assert isinstance(created, RunLock)
        return created

    async def try_to_create(self, journal: Journal, idempotency: Idempotency | None = None) -> RunLock | str:
        created = await journal.create(
            self.checkpoint,
            self.bodies,
            prompt_digest=self.prompt_digest,
            idempotency=idempotency,
            thread_id=self.thread_id,
        )
        if isinstance(created, RunLock):
            self.written += self.bodies
        return created

    async def commit(self, journal: Journal, lock: RunLock, *, at: float | None = None) -> None:
        """Write the current step."""
        await journal.commit(lock, self.bodies, self.checkpoint, time.time() if at is None else at)
        self.written += self.bodies

    async def write_text(self, journal: Journal, lock: RunLock, *numbers: int) -> None:
        """Write one commit of events without a checkpoint, as for streamed text."""
        bodies = [text_frame(number) for number in numbers]
        await journal.commit(lock, bodies, None, time.time())
        self.written += bodies


def frames(events: Sequence[object], session_id: str, now: float) -> list[bytes]:
    return [body for event in events for body in encode(event, session_id, int(now))]  # type: ignore[arg-type]


def text_frame(number: int) -> bytes:
    return b'event: content\ndata: {"type":"content","content":"%d"}\n\n' % number


def copy_of(lock: RunLock) -> RunLock:
    """The same right once more, as a process has it that repeats a write."""
    return replace(lock)


# --- reading ----------------------------------------------------------------------------------------------------------


async def read(journal: Journal, session_id: str, after: int = 0) -> list[LogEntry]:
    """Read what is in the log now."""
    tail = journal.tail(session_id, after, lambda: None)
    try:
        return await read_on(tail)
    finally:
        tail.close()


async def read_on(tail: Tail) -> list[LogEntry]:
    """Read on until there is nothing more, or the end marker has come."""
    found: list[LogEntry] = []
    while not found or found[-1].body != DONE_BODY:
        entries = await next_entries(tail)
        if not entries:
            break
        found += entries
    return found


async def next_entries(tail: Tail) -> list[LogEntry]:
    buffered = tail.buffered()
    return await tail.fetch() if buffered is None else buffered


async def bodies_of(journal: Journal, session_id: str) -> list[bytes]:
    return [entry.body for entry in await read(journal, session_id)]


class Follower:
    """A reader that reads whenever it is notified, as a stream does, and keeps what it gets."""

    def __init__(self, journal: Journal, session_id: str, after: int = 0) -> None:
        self.entries: list[LogEntry] = []
        self._news = asyncio.Event()
        self._news.set()
        self.tail = journal.tail(session_id, after, self._news.set)

    @property
    def bodies(self) -> list[bytes]:
        return [entry.body for entry in self.entries]

    async def until(self, count: int) -> list[bytes]:
        """Read until there are so many entries, woken by the callback alone."""
        async with asyncio.timeout(_WAIT_SECONDS):
            while len(self.entries) < count:
                await self._news.wait()
                self._news.clear()
                while entries := await next_entries(self.tail):
                    self.entries += entries
                    if self.entries[-1].body == DONE_BODY:
                        break
        return self.bodies
