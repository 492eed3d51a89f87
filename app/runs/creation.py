"""What a run begins with: the request for it, its thread's history, its first step."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from app.errors import ThreadBusy
from app.ports.clock import Clock
from app.ports.identity import Principal
from app.ports.journal import Journal
from statemachine.checkpoint import JsonObject, Limits, RunRequest, digest
from statemachine.messages import Step
from statemachine.prompt import conversation, history
from statemachine.sessions import new_session_id
from statemachine.workflow import begin


@dataclass(frozen=True, slots=True)
class StartRun:
    """A checked request for a run (§1.1, §1.2)."""

    prompt: str
    context: JsonObject
    trace_id: str
    thread_id: str | None = None
    agent_id: str | None = None
    source: str | None = None
    caller_type: str | None = None
    idempotency_key: str | None = None

    @property
    def digest(self) -> str:
        """What makes two requests ask for the same."""
        return digest([self.prompt, self.context])


class RunFactory:
    """Makes first steps. `thread_tokens` is how much of its thread's earlier turns a run sees."""

    def __init__(self, journal: Journal, clock: Clock, limits: Limits, *, thread_tokens: int) -> None:
        self._journal = journal
        self._clock = clock
        self._limits = limits
        self._thread_tokens = thread_tokens

    async def first_step(self, principal: Principal, start_run: StartRun) -> Step | str:
        """Of a run with a session id of its own; or the session that this request opened before.

        Raises `ThreadBusy`, `StorageUnavailable`.
        """
        now = self._clock.now()
        session_id = new_session_id(principal.user_id, int(now), secrets.token_hex(2))
        request = RunRequest(
            session_id=session_id,
            thread_id=start_run.thread_id or start_run.agent_id or session_id,
            user_id=principal.user_id,
            tenant_id=principal.tenant_id,
            trace_id=start_run.trace_id,
            prompt=start_run.prompt,
            context=start_run.context,
            agent_id=start_run.agent_id,
            source=start_run.source,
            caller_type=start_run.caller_type,
        )
        try:
            earlier = await self._history(principal, start_run.thread_id)
        except ThreadBusy:
            first = await self._opened_before(principal, start_run)
            if first is None:
                raise
            return first
        return begin(request, conversation(start_run.prompt, start_run.context, earlier), self._limits, now)

    async def _history(self, principal: Principal, thread_id: str | None) -> list[JsonObject]:
        """The thread's earlier turns. Raises `ThreadBusy` while one of them waits for a person."""
        if thread_id is None:
            return []
        turns = await self._journal.load_thread(principal.tenant_id, principal.user_id, thread_id)
        for turn in turns:
            if turn.open_approval is not None:
                raise ThreadBusy(turn.open_approval.request_id, turn.session_id)
        return history([turn for turn in turns if turn.state.is_final], self._thread_tokens)

    async def _opened_before(self, principal: Principal, start_run: StartRun) -> str | None:
        """A repeated request is no second prompt: it attaches to its run, which may be the one that waits (§3)."""
        if start_run.idempotency_key is None:
            return None
        owner = (principal.tenant_id, principal.user_id)
        return await self._journal.find_by_idempotency_key(*owner, start_run.idempotency_key, start_run.digest)
