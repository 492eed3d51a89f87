"""Creation of runs: the checked request, the history of its thread, the first step and the first write."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from app.errors import FieldInvalid, RunExists, ServiceBusy, StorageUnavailable, ThreadBusy
from app.ports.agents import AgentChooser
from app.ports.identity import Principal
from app.ports.journal import Idempotency, RunIndex, RunLock
from app.runs.task import RunPorts
from statemachine.checkpoint import RunRequest
from statemachine.messages import Step
from statemachine.prompt import NO_HISTORY, History, conversation, history
from statemachine.sessions import new_session_id
from statemachine.stored import JsonObject, digest
from statemachine.workflow import begin

_SESSION_ID_ATTEMPTS = 8
_SEED_BYTES = 8
"""More than the six bytes that an approval request's id has."""


@dataclass(frozen=True, slots=True)
class StartRun:
    """A checked request for a run (CONTRACT §1.1, §1.2).

    `agent` is the name of the agent that it requests; `agent_id` is the browser's agent session.
    """

    prompt: str
    context: JsonObject
    trace_id: str
    thread_id: str | None = None
    agent: str | None = None
    agent_id: str | None = None
    source: str | None = None
    caller_type: str | None = None
    idempotency_key: str | None = None
    idempotency_seconds: int | None = None
    """How long the key counts; None: as long as the run is kept."""

    @property
    def prompt_digest(self) -> str:
        """The SHA-256 of the prompt alone, by which a stream is resumed: a browser's context differs in each call."""
        return digest(self.prompt)

    @property
    def digest(self) -> str:
        """The SHA-256 of prompt, context and requested agent: an idempotency key belongs to one of them.

        Runs begun by older releases, which had no agents, are resumed by it too.
        """
        return digest([self.prompt, self.context, *([] if self.agent is None else [self.agent])])

    @property
    def idempotency(self) -> Idempotency | None:
        """The key under which a repetition of this request finds the run, if it has one."""
        if self.idempotency_key is None:
            return None
        return Idempotency(self.idempotency_key, self.digest, self.idempotency_seconds)


@dataclass(frozen=True, slots=True)
class CreatedRun:
    """A run whose first step is stored, and the right to write it."""

    lock: RunLock
    step: Step


class CreationUncertain(StorageUnavailable):
    """Redis did not answer the creation of `run`: it may exist all the same."""

    def __init__(self, run: CreatedRun, error: StorageUnavailable) -> None:
        super().__init__(error.cause, detail=error.detail)
        self.run = run


class RunFactory:
    """Creates runs. `thread_tokens` bounds how much of its thread's earlier turns a run sees.

    `agents` chooses what a run begins with. `index` finds the runs of a thread.
    """

    def __init__(self, ports: RunPorts, agents: AgentChooser, *, index: RunIndex, thread_tokens: int) -> None:
        self._ports = ports
        self._agents = agents
        self._index = index
        self._thread_tokens = thread_tokens

    async def create(self, principal: Principal, start: StartRun) -> CreatedRun | str:
        """Create a run with a unique session id. A `str` is the session that the idempotency key created before.

        Raises `ServiceBusy`, `ThreadBusy`, `QuotaExceeded`, `FieldInvalid`, `CreationUncertain`, `StorageUnavailable`.
        """
        for _ in range(_SESSION_ID_ATTEMPTS):
            try:
                return await self._create(principal, start)
            except RunExists:
                continue
        raise ServiceBusy("no session id is free in this second; send the request again")

    async def _create(self, principal: Principal, start: StartRun) -> CreatedRun | str:
        step = await self._first_step(principal, start)
        if isinstance(step, str):
            return step
        session_id, now = step.checkpoint.session_id, step.checkpoint.created_at
        reporter = self._ports.task_reporter
        try:
            created = await self._ports.journal.create(
                step.checkpoint,
                self._ports.encode(step, session_id, now),
                prompt_digest=start.prompt_digest,
                idempotency=start.idempotency,
                thread_id=start.thread_id,
                ticket=reporter.create_ticket(session_id, principal) if reporter is not None else None,
            )
        except StorageUnavailable as error:
            raise CreationUncertain(CreatedRun(RunLock(session_id, 1, now), step), error) from error
        return created if isinstance(created, str) else CreatedRun(created, step)

    async def _first_step(self, principal: Principal, start: StartRun) -> Step | str:
        """Return the first step of a run with a new session id, or the session that this request created before.

        Raises `ThreadBusy`, `FieldInvalid`, `StorageUnavailable`.
        """
        now = self._ports.clock.now()
        session_id = new_session_id(principal.user_id, int(now), secrets.token_hex(2))
        request = RunRequest(
            session_id=session_id,
            thread_id=start.thread_id or start.agent_id or session_id,
            user_id=principal.user_id,
            tenant_id=principal.tenant_id,
            trace_id=start.trace_id,
            prompt=start.prompt,
            context=start.context,
            agent_id=start.agent_id,
            source=start.source,
            caller_type=start.caller_type,
            email=principal.email,
        )
        try:
            chosen = self._agents.choose(start.agent, start.context.get("activeApp"), principal.tenant_id)
            earlier = await self._history(principal, start.thread_id)
        except (FieldInvalid, ThreadBusy):  # what the request finds may have changed since it began a run
            existing = await self._find_existing(principal, start)
            if existing is None:
                raise
            return existing
        messages = conversation(start.prompt, start.context, earlier, chosen.instructions)
        seed = secrets.token_hex(_SEED_BYTES)
        return begin(request, messages, chosen.limits, now, earlier, seed=seed, agent=chosen.agent)

    async def _history(self, principal: Principal, thread_id: str | None) -> History:
        """Return what the run gets of its thread's earlier runs; nothing without a `thread_id`.

        Raises `ThreadBusy` while one of these runs waits for a person.
        """
        if thread_id is None:
            return NO_HISTORY
        thread = await self._index.load_thread(principal.tenant_id, principal.user_id, thread_id)
        for run in thread.newest:
            if run.open_approval is not None:
                raise ThreadBusy(run.open_approval.request_id, run.session_id)
        ended = [run for run in thread.newest if run.state.is_final]
        return history(ended, self._thread_tokens, not_loaded=thread.not_loaded)

    async def _find_existing(self, principal: Principal, start: StartRun) -> str | None:
        """Return the session that was created with the same idempotency key, or None (§3).

        Such a request is attached to that run, also while the run waits for a person. Raises `FieldInvalid` where the
        key was used for another prompt.
        """
        if start.idempotency is None:
            return None
        owner = (principal.tenant_id, principal.user_id)
        return await self._ports.journal.find_by_idempotency_key(*owner, start.idempotency)
