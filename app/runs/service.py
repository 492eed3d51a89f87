"""Runs: start, find, decide, and the loop that carries a run from effect to effect.

    perform(effect) → fact → advance() → commit(events + checkpoint) → the next effect

Nothing is seen before it is committed. A run lives in a task of its own: a client that leaves changes nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

import structlog
from structlog.contextvars import bind_contextvars

from app.errors import RunDamaged, RunExists, RunLost, ServiceBusy, StorageUnavailable
from app.ports.clock import Clock
from app.ports.decisions import DecisionBus, RequestStatus
from app.ports.identity import Principal
from app.ports.journal import Journal, RunLock
from app.ports.nodes import Claim, Nodes
from app.ports.tasks import TaskReporter
from app.runs.admission import AdmissionQueue
from app.runs.creation import RunFactory, StartRun
from app.runs.effects import Effects
from app.runs.waiting import Run, WaitingRun, WaitingRuns
from statemachine.checkpoint import Checkpoint
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable
from statemachine.frames import DONE_BODY, Shape, encode
from statemachine.messages import (
    AwaitDecision,
    CancelRequested,
    Continue,
    Effect,
    Fact,
    InternalErrorOccurred,
    RunRecovered,
    Step,
    Stop,
)
from statemachine.states import State
from statemachine.workflow import advance, advance_all

_PAUSE_SECONDS = 0.5
_DRAWS = 8
_DOORS = 64
"""Parked runs that are read again at once. When thousands are decided in a second the others wait here, and not in
Redis' queue, where they would make requests and the lease run into their time limits."""

_IS_DRAINING = "this replica is shutting down; ask again"

T = TypeVar("T")

log = structlog.get_logger(__name__)


class RunService:
    """All runs of this process."""

    def __init__(
        self,
        *,
        journal: Journal,
        decisions: DecisionBus,
        nodes: Nodes,
        effects: Effects,
        clock: Clock,
        admission: AdmissionQueue,
        opening: RunFactory,
        shape: Shape,
        most_runs: int,
        drain_seconds: float,
        task_reporter: TaskReporter | None = None,
        log_content: bool = False,
    ) -> None:
        self._journal = journal
        self._decisions = decisions
        self._nodes = nodes
        self._effects = effects
        self._clock = clock
        self._admission = admission
        self._opening = opening
        self._shape = shape
        self._most_runs = most_runs
        self._drain_seconds = drain_seconds
        self._task_reporter = task_reporter
        self._log_content = log_content
        self._runs: dict[str, Run] = {}
        self._waiting = WaitingRuns(clock, self._call)
        self._doors = asyncio.Semaphore(_DOORS)
        self._not_ours: set[str] = set()  # runs of a newer release
        self._being_opened: set[asyncio.Task[str]] = set()
        self._being_adopted: dict[str, str | None] = {}  # with who cancelled them meanwhile
        self.is_draining = False
        nodes.on_orphan = self._adopt
        nodes.on_lost = self._let_all_go
        nodes.on_cancel = self._cancel_here
        decisions.on_news = self._call

    def watch_deadlines(self) -> None:
        """Those of waiting runs, from here on until it drains."""
        self._waiting.start()

    def carries(self, session_id: str) -> bool:
        """Whether this process writes the run."""
        return session_id in self._runs or session_id in self._waiting

    # --- from outside -------------------------------------------------------------------------------------------------

    async def start(self, principal: Principal, start_run: StartRun) -> str:
        """Open a run, or find the one that its idempotency key opened; its session id.

        Raises `ServiceBusy`, `TooManyRuns`, `FieldInvalid`, `StorageUnavailable`: then nothing was begun.
        """
        if self.is_draining:
            raise ServiceBusy(_IS_DRAINING)
        if self._is_full:
            raise ServiceBusy(f"{self._most_runs} runs are under way here; ask again")
        if not self.has_lease:
            raise StorageUnavailable("this node has no lease at the moment")
        # A caller who leaves in this moment has asked all the same: nobody but him may end it (§3).
        opening = asyncio.create_task(self._draw(principal, start_run))
        self._being_opened.add(opening)
        opening.add_done_callback(self._is_opened)
        return await asyncio.shield(opening)

    def _is_opened(self, opening: asyncio.Task[str]) -> None:
        self._being_opened.discard(opening)
        if not opening.cancelled():
            opening.exception()  # its caller may have left

    async def _draw(self, principal: Principal, start_run: StartRun) -> str:
        await self._admission.acquire()
        if self.is_draining:
            raise ServiceBusy(_IS_DRAINING)
        for _ in range(_DRAWS):
            try:
                return await self._open(principal, start_run)
            except RunExists:
                continue
        raise ServiceBusy("no free session id this second; ask again")

    async def _open(self, principal: Principal, start_run: StartRun) -> str:
        step = await self._opening.first_step(principal, start_run)
        if isinstance(step, str):
            return step
        session_id, now = step.checkpoint.session_id, step.checkpoint.created_at
        try:
            opened = await self._journal.create(
                step.checkpoint,
                self._bodies(step, session_id, now),
                prompt_digest=start_run.digest,
                idempotency_key=start_run.idempotency_key,
                thread_id=start_run.thread_id,
                ticket=self._task_reporter.create_ticket(session_id, principal)
                if self._task_reporter is not None
                else None,
            )
        except StorageUnavailable:
            # It may exist all the same. A caller with an idempotency key comes back for it, so it goes on; any other
            # would make a second one, so it ends. Both once Redis is back, and only if it does exist.
            doubtful = Run(RunLock(session_id, 1, now), step.checkpoint)
            fact = None if start_run.idempotency_key is not None else CancelRequested("aura")
            self._spawn(doubtful, step.effect, "run.doubtful", fact, confirm=True)
            raise
        if isinstance(opened, str):
            return opened
        self._spawn(Run(opened, step.checkpoint), step.effect, "run.started")
        return session_id

    @property
    def _is_full(self) -> bool:
        return len(self._runs) + len(self._waiting) + len(self._being_opened) >= self._most_runs

    @property
    def has_lease(self) -> bool:
        """Whether this process may start a run: its lease holds."""
        return self._nodes.has_lease

    async def cancel(self, session_id: str, cancelled_by: str) -> bool:
        """Ask for the end of a run on whichever node it is. False: it has ended already, or is unknown."""
        asked = await self._nodes.request_cancel(session_id, cancelled_by)
        if asked:
            self._cancel_here(session_id, cancelled_by)
        return asked

    def _cancel_here(self, session_id: str, cancelled_by: str) -> None:
        parked = self._waiting.take(session_id)
        if parked is not None:
            parked.lock.cancelled_by = cancelled_by
            self._return(parked)
            return
        if session_id in self._being_adopted:
            self._being_adopted[session_id] = cancelled_by
        run = self._runs.get(session_id)
        if run is not None and run.lock.cancelled_by is None:
            run.lock.cancelled_by = cancelled_by
            if run.saved is not None:  # else it is just being read, and looks for itself when it is
                run.interrupt()

    async def drain(self) -> None:
        """No new runs; those under way reach a committed step, or stop where their last one left them (§2.3)."""
        self.is_draining = True
        if self._being_opened:
            await asyncio.wait(self._being_opened, timeout=self._drain_seconds)
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        tasks.append(asyncio.create_task(self._give_up(self._waiting.close())))
        for run in list(self._runs.values()):
            run.leave(at_next_step=not run.is_waiting)
        await asyncio.wait(tasks, timeout=self._drain_seconds)
        for task in tasks:
            task.cancel()  # even in a commit: whoever goes on with the run reads what became of it
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _give_up(self, locks: Sequence[RunLock]) -> None:
        """Others need not wait for the rest of them."""
        with suppress(StorageUnavailable):
            await self._nodes.hand_over(locks)
        for lock in locks:
            self._forget(lock.session_id)

    def _forget(self, session_id: str) -> None:
        """What is kept here of a run that is carried here no more."""
        self._decisions.unwatch(session_id)
        self._journal.release(session_id)
        if self._task_reporter is not None:
            self._task_reporter.forget(session_id)

    # --- ownership ----------------------------------------------------------------------------------------------------

    async def _adopt(self, session_id: str, claim: Claim) -> None:
        """Go on with a run whose node is gone. One saved by a newer release is left for a newer node."""
        if self.is_draining or self._is_full:
            return
        if self.carries(session_id):  # this process is only just letting go of it; it is offered again
            return
        self._being_adopted[session_id] = None
        try:
            await self._journal.load(session_id)
            lock = await claim()
            checkpoint = await self._journal.load(session_id) if lock is not None else None
            if lock is None or checkpoint is None:
                return
            streamed = await self._journal.load_streamed_text(session_id) if checkpoint.state is State.CONTENT else ""
            lock.cancelled_by = lock.cancelled_by or self._being_adopted.get(session_id)
        except (CheckpointTooNew, CheckpointUnreadable) as error:
            self._pass_over(session_id, error)
            return
        finally:
            self._being_adopted.pop(session_id, None)
        self._journal.adopt(session_id)
        self._spawn(Run(lock, checkpoint), None, "run.recovered", RunRecovered(streamed))

    def _pass_over(self, session_id: str, error: Exception) -> None:
        if session_id not in self._not_ours:  # it is offered again and again
            self._not_ours.add(session_id)
            log.warning("run.left", session_id=session_id, cause=str(error))

    def _let_all_go(self) -> None:
        for lock in self._waiting.take_all():
            self._forget(lock.session_id)
        for run in list(self._runs.values()):
            run.leave()

    # --- waiting for a person -----------------------------------------------------------------------------------------

    async def _park(self, run: Run, effect: AwaitDecision) -> bool:
        """Keep nothing of a run that waits but its lock and its deadline. False: there is something to look at."""
        session_id, request_id = run.lock.session_id, effect.approval.request_id
        await _patiently(lambda: self._decisions.watch(session_id, request_id))
        until = min(effect.deadline_at, run.checkpoint.run_deadline_at)
        if self._decisions.has_news(session_id) or self._clock.now() >= until:
            return False
        del self._runs[session_id]
        self._waiting.put(run.lock, request_id, until)
        return True

    def _call(self, session_id: str) -> None:
        """There is news of a run, or its deadline has come. One that is under way looks for itself."""
        parked = self._waiting.take(session_id)
        if parked is not None:
            self._return(parked)

    def _return(self, parked: WaitingRun) -> None:
        """A run that was parked goes on as one that was taken over does: from what is stored."""
        self._spawn(Run(parked.lock, None, parked.request_id), None, None)

    async def _read(self, run: Run) -> Fact:
        """Read a run that was parked again; what has become of it. Raises `RunLost`: it is gone, or another's."""
        session_id = run.lock.session_id
        async with self._doors:
            run.saved = await _patiently(lambda: self._decisions.saved(session_id))
        if run.saved is None:
            raise RunLost(session_id, "its data is gone from Redis")
        approval = run.saved.open_approval
        if approval is not None and approval.request_id == run.waited_for:
            return RunRecovered()
        # Somebody else has gone on with it, or storage has lost its last writes: a write finds out.
        try:
            with run.committing():
                await self._journal.commit(run.lock, (), None, self._clock.now())
        except RunDamaged as error:
            return _broke(error)
        return _broke(RunDamaged(session_id))

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _spawn(
        self, run: Run, effect: Effect | None, word: str | None, fact: Fact | None = None, *, confirm: bool = False
    ) -> None:
        self._runs[run.lock.session_id] = run
        # In a context of its own: the request's would keep its connection in memory for as long as the run lasts.
        carrying = self._carry(run, effect, word, fact, confirm=confirm)
        run.task = asyncio.create_task(carrying, context=contextvars.Context())

    def _tell(self, checkpoint: Checkpoint) -> None:
        if self._task_reporter is not None:
            self._task_reporter.report_progress(checkpoint)

    async def _carry(
        self, run: Run, effect: Effect | None, word: str | None, fact: Fact | None, *, confirm: bool
    ) -> None:
        """A run's task in this process, until it has ended or is parked, or somebody else goes on with it."""
        session_id = run.lock.session_id
        bind_contextvars(sessionId=session_id)
        try:
            try:
                await self._live(run, effect, word, fact, confirm=confirm)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if run.is_leaving or run.lock.cancelled_by is None or task is None:
                    raise
                task.uncancel()
                await self._cancel_run(run, run.lock.cancelled_by)
                log.info("run.ended", state=run.checkpoint.state.value)
        except RunLost as error:
            log.warning("run.lost", cause=error.cause)
        except (CheckpointTooNew, CheckpointUnreadable) as error:  # it was, when it was parked
            self._pass_over(session_id, error)
            with suppress(StorageUnavailable):
                await self._nodes.hand_over([run.lock])
        except asyncio.CancelledError:
            log.info("run.left")
            if self.is_draining:
                with suppress(StorageUnavailable):
                    await self._nodes.hand_over([run.lock])
        except Exception:
            log.exception("run.broke")  # not even its end could be told; whoever takes the run over tries again
        finally:
            if self._runs.get(session_id) is run:  # else it is parked, or was taken over by this very process
                del self._runs[session_id]
                self._forget(session_id)

    async def _live(
        self, run: Run, effect: Effect | None, word: str | None, fact: Fact | None, *, confirm: bool
    ) -> None:
        """From effect to effect, up to the run's end or to where it waits."""
        run.begin()
        if run.saved is None:
            fact = await self._read(run)
        self._introduce(run.checkpoint, word)
        if confirm:
            await self._confirm(run)
        run.heed()
        if fact is not None:
            effect = await self._step(run, advance(run.checkpoint, fact, self._clock.now()))
        while effect is not None and not isinstance(effect, Stop):
            if isinstance(effect, AwaitDecision) and await self._park(run, effect):
                return
            effect = await self._carry_out(run, effect)
        log.info("run.ended", state=run.checkpoint.state.value)

    def _introduce(self, checkpoint: Checkpoint, word: str | None) -> None:
        """To the logs and to the board."""
        request = checkpoint.request
        bind_contextvars(
            traceId=request.trace_id,
            tenant=request.tenant_id,
            source=request.source,
            caller=request.caller_type,
        )
        if word is not None:
            log.info(word, **({"prompt": request.prompt} if self._log_content else {}))
        self._tell(checkpoint)

    async def _confirm(self, run: Run) -> None:
        """Find out whether a run whose creation was not answered exists; where it does not, it never will.

        Raises `RunLost`. A request that was not answered may still be on its way to Redis.
        """
        session_id = run.lock.session_id
        with run.committing():
            try:
                await self._journal.commit(run.lock, (), run.checkpoint, self._clock.now())
            except RunLost:
                if await self._journal.prevent_creation(session_id):
                    raise
                await self._journal.commit(run.lock, (), run.checkpoint, self._clock.now())
        self._journal.adopt(session_id)

    async def _carry_out(self, run: Run, effect: Effect) -> Effect:
        """One effect, step by step, until one asks for another. What breaks ends the run, told in its stream."""
        try:
            async with aclosing(self._effects.perform(run.checkpoint, effect)) as moments:  # type: ignore[type-var]
                async for facts in moments:
                    following = await self._step(run, advance_all(run.checkpoint, facts, self._clock.now()))
                    if not isinstance(following, Continue):
                        return following
            if isinstance(effect, AwaitDecision):
                return effect
            raise RuntimeError(f"{type(effect).__name__} came to no end")
        except StorageUnavailable as error:
            log.warning("run.paused", cause=error.cause)
            await asyncio.sleep(_PAUSE_SECONDS)
            return effect
        except RunLost:
            raise
        except Exception as error:  # whatever it is, the run must not hang
            log.exception("run.broke")
            broke = InternalErrorOccurred(f"내부 서버 오류가 발생했습니다. ({type(error).__name__})")
            return await self._step(run, advance(run.checkpoint, broke, self._clock.now()))

    async def _step(self, run: Run, step: Step) -> Effect:
        """Commit a step, then it counts. An approval is ready to be decided before anyone sees it (§5)."""
        if step.checkpoint is not run.checkpoint or step.events:
            try:
                with run.committing():
                    await self._prepare(run.checkpoint, step)
                    now = self._clock.now()
                    saved = None if step.checkpoint is run.checkpoint else step.checkpoint
                    bodies = self._bodies(step, run.lock.session_id, now)
                    await self._journal.commit(run.lock, bodies, saved, now)
            except RunDamaged as error:
                log.warning("run.damaged", cause=error.cause)
                return await self._step(run, advance(run.checkpoint, _broke(error), self._clock.now()))
            if step.checkpoint is not run.checkpoint:
                run.saved = step.checkpoint
                self._tell(run.checkpoint)
        if isinstance(step.effect, Stop):
            return step.effect
        if run.lock.cancelled_by is not None and not run.is_leaving:
            return await self._cancel_run(run, run.lock.cancelled_by)
        if run.is_leaving and not isinstance(step.effect, Continue):
            raise asyncio.CancelledError
        return step.effect

    async def _cancel_run(self, run: Run, cancelled_by: str) -> Effect:
        return await self._step(run, advance(run.checkpoint, CancelRequested(cancelled_by), self._clock.now()))

    async def _prepare(self, before: Checkpoint, step: Step) -> None:
        """What must be true before a step is seen: an approval can be decided, or can no longer be."""
        match step.effect:
            case AwaitDecision(approval=approval, deadline_at=deadline_at) if step.events:
                task_id = self._task_reporter.task_id(before.session_id) if self._task_reporter is not None else None
                opened = step.checkpoint
                await _patiently(lambda: self._decisions.open_request(opened, approval, deadline_at, task_id=task_id))
            case Stop() if before.open_approval and step.checkpoint.state in (State.FAILED, State.CANCELLED):
                request_id = before.open_approval.request_id
                await _patiently(lambda: self._decisions.close_request(request_id, RequestStatus.CANCELLED))

    def _bodies(self, step: Step, session_id: str, now: float) -> list[bytes]:
        """The frames of a step; the end marker goes into the log with the end, as one write."""
        bodies = [body for event in step.events for body in encode(event, session_id, int(now), self._shape)]
        return [*bodies, DONE_BODY] if isinstance(step.effect, Stop) else bodies


def _broke(error: RunDamaged) -> InternalErrorOccurred:
    return InternalErrorOccurred(error.message, error.error_type, error.code)


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """While Redis is away a run pauses where it is."""
    while True:
        try:
            return await attempt()
        except StorageUnavailable as error:
            log.warning("run.paused", cause=error.cause)
            await asyncio.sleep(_PAUSE_SECONDS)
