"""The loop of one run: perform an effect, advance the machine, commit, until the run ends or waits for a person.

    perform(effect) → fact → advance() → commit(events + checkpoint) → the next effect

Nothing is visible before it is committed. The loop runs in an asyncio task of its own, so a client that disconnects
changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from app.errors import RecordChanged, RunDamaged, RunLost, StorageUnavailable
from app.ports.audit import AuditTrail
from app.ports.clock import Clock
from app.ports.decisions import ApprovalRequests, DecisionBus, RequestStatus, Taken
from app.ports.journal import Journal, RunLock
from app.ports.nodes import Nodes
from app.ports.tasks import TaskReporter
from app.retry import growing_pause, retry_until_available
from app.runs.audit_events import decision_applied, request_opened
from app.runs.changed_records import changed_request, checkpoint_gone, empty_checkpoint, end_of_changed
from app.runs.effects import Effects
from app.runs.run_log import introduce, log_applied, log_commit
from app.runs.waiting import WaitingRun
from statemachine.checkpoint import Checkpoint
from statemachine.decisions import Decision
from statemachine.frames import DONE_BODY, Shape, encode
from statemachine.messages import (
    AwaitDecision,
    CancelRequested,
    Continue,
    Effect,
    Fact,
    InternalErrorOccurred,
    RunRecovered,
    RunResumed,
    Step,
    Stop,
)
from statemachine.states import State
from statemachine.workflow import advance, advance_all

_MAX_CONCURRENT_RELOADS = 64
"""Waiting runs that are loaded at the same time. When thousands are decided in one second, the others wait here and
not in the queue of Redis, where they would delay requests and the lease beyond their time limits."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunPorts:
    """What every run task uses: the ports, and the settings of all runs."""

    journal: Journal
    decisions: DecisionBus
    requests: ApprovalRequests
    nodes: Nodes
    effects: Effects
    audit: AuditTrail
    clock: Clock
    shape: Shape
    task_reporter: TaskReporter | None = None
    log_content: bool = False
    reload_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MAX_CONCURRENT_RELOADS))

    def encode(self, step: Step, session_id: str, now: float) -> list[bytes]:
        """Encode the frames of a step. The end marker goes into the log together with the end, as one write."""
        bodies = [body for event in step.events for body in encode(event, session_id, int(now), self.shape)]
        return [*bodies, DONE_BODY] if isinstance(step.effect, Stop) else bodies

    def report(self, checkpoint: Checkpoint) -> None:
        """Report the run's progress as a task of the Main Service, where there is one."""
        if self.task_reporter is not None:
            self.task_reporter.report_progress(checkpoint)


@dataclass(frozen=True, slots=True)
class Start:
    """How a run task begins: with an effect to perform, or with a fact to apply first.

    `must_confirm` is set where the answer to the run's creation was lost, `log_event` is logged at info.
    """

    effect: Effect | None = None
    fact: Fact | None = None
    must_confirm: bool = False
    log_event: str | None = None


class _TaskControl:
    """When the asyncio task of a run may be interrupted: never during a commit, and not before it has begun."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_releasing = False
        self._has_begun = False
        self._is_committing = False

    def begin(self) -> None:
        """The task runs; from here on it can be interrupted."""
        self._has_begun = True

    def interrupt(self) -> None:
        """Stop the current effect. During a commit, and before the task has begun, the loop itself checks afterwards
        why it should stop: a task that is cancelled before its first step would not even run its cleanup."""
        if self.task is not None and self._has_begun and not self._is_committing:
            self.task.cancel()

    @contextmanager
    def uninterruptible(self) -> Iterator[None]:
        """A write whose answer is not read would later be confused with the next write."""
        self._is_committing = True
        try:
            yield
        finally:
            self._is_committing = False


class RunTask:
    """One run that this process writes, from the moment it has an asyncio task until it ends, waits or is released.

    `waits_for` is the request id of a run that waited and is woken: its checkpoint is loaded again first.
    """

    def __init__(self, ports: RunPorts, lock: RunLock, saved: Checkpoint | None, waits_for: str | None = None) -> None:
        self.lock = lock
        self.control = _TaskControl()
        self._ports = ports
        self._saved = saved
        self._waits_for = waits_for
        self._has_news = False
        self._failures = 0  # how often in a row storage was unavailable to an effect

    @property
    def session_id(self) -> str:
        return self.lock.session_id

    @property
    def checkpoint(self) -> Checkpoint:
        """The last committed checkpoint."""
        if self._saved is None:
            raise RuntimeError("the run has not been loaded yet")
        return self._saved

    @property
    def is_waiting(self) -> bool:
        """Whether the run waits for a person, or is just loaded after it has waited."""
        return self._saved is None or self._saved.state is State.AWAITING_APPROVAL

    # --- control from outside -----------------------------------------------------------------------------------------

    def notify(self) -> None:
        """Make the run check for a decision before it waits: one may have arrived for the request that it opens."""
        self._has_news = True

    def cancel(self, cancelled_by: str) -> None:
        """Cancel the run on behalf of a user; a second request is ignored."""
        if self.lock.cancelled_by is None:
            self.lock.cancelled_by = cancelled_by
            if self._saved is not None:  # while the run is loaded, the loop checks this itself afterwards
                self.control.interrupt()

    def release(self, *, at_next_step: bool = False) -> None:
        """Stop writing the run, at once or at its next committed step. A commit is never interrupted."""
        self.control.is_releasing = True
        if not at_next_step:
            self.control.interrupt()

    def _check_interrupted(self) -> None:
        """Raise `CancelledError` where the run was interrupted while it could not be."""
        if self.control.is_releasing or (self._saved is not None and self.lock.cancelled_by is not None):
            raise asyncio.CancelledError

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run_loop(self, start: Start, on_wait: Callable[[WaitingRun], None]) -> None:
        """Perform effect after effect until the run ends or waits for a person; then `on_wait` is called.

        Raises `RunLost`, `CheckpointTooNew`, `CheckpointUnreadable`, and `CancelledError` where the run is released.
        """
        try:
            await self._run_effects(start, on_wait)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.control.is_releasing or self.lock.cancelled_by is None or task is None:
                raise
            task.uncancel()
            await self._cancel_run(self.lock.cancelled_by)
            log.info("run.ended", state=self.checkpoint.state.value)

    async def _run_effects(self, start: Start, on_wait: Callable[[WaitingRun], None]) -> None:
        self.control.begin()
        self._check_interrupted()
        effect, fact, decision = start.effect, start.fact, None
        if self._saved is None:
            fact, decision = await self._reload()
        introduce(self.checkpoint, start.log_event, log_content=self._ports.log_content)
        if not isinstance(fact, InternalErrorOccurred):  # the end that this leads to is reported with its commit
            self._ports.report(self.checkpoint)
        if start.must_confirm:
            await self._confirm()
        self._check_interrupted()
        if fact is None and isinstance(effect, Continue):
            fact = RunRecovered()  # `begin` requested nothing: now that the run exists, the core ends it
        if fact is not None:
            effect = await self._step(advance(self.checkpoint, fact, self._ports.clock.now()))
        while effect is not None and not isinstance(effect, Stop):
            if isinstance(effect, AwaitDecision) and decision is None:
                waiting = await self._wait(effect)
                if waiting is not None:
                    on_wait(waiting)
                    return
            effect = await self._perform_effect(effect, decision)
            decision = None
        log.info("run.ended", state=self.checkpoint.state.value)

    async def _confirm(self) -> None:
        """Find out whether a run exists whose creation was not answered; where it does not, prevent it for ever.

        Raises `RunLost`. A request that was not answered may still be on its way to Redis.
        """
        journal, now = self._ports.journal, self._ports.clock.now
        with self.control.uninterruptible():
            try:
                await journal.commit(self.lock, (), self.checkpoint, now())
            except RunLost:
                if await journal.prevent_creation(self.session_id):
                    raise
                await journal.commit(self.lock, (), self.checkpoint, now())
        journal.adopt(self.session_id)

    # --- waiting for a person -----------------------------------------------------------------------------------------

    async def _wait(self, effect: AwaitDecision) -> WaitingRun | None:
        """Prepare to wait without a task. Returns None where there is news, or the deadline has passed."""
        request_id = effect.approval.request_id
        await _retry(lambda: self._ports.decisions.watch(self.session_id, request_id))
        until = min(effect.deadline_at, self.checkpoint.run_deadline_at)
        if self._has_news or self._ports.clock.now() >= until:
            return None
        return WaitingRun(self.lock, request_id, until)

    async def _take(self) -> Taken:
        self._has_news = False
        return await _retry(lambda: self._ports.decisions.take(self.session_id, self._ports.effects.accept))

    async def _reload(self) -> tuple[Fact, Decision | None]:
        """Load a run that has waited, and its decision; or the end of a run whose record others have changed.

        Raises `RunLost` if it has expired or has a new owner.
        """
        try:
            async with self._ports.reload_slots:
                taken = await self._take()
            if taken.checkpoint is None:
                raise checkpoint_gone(self.session_id)
        except RecordChanged as error:
            return await self._end_without_checkpoint(error), None
        self._saved = taken.checkpoint
        approval = self._saved.open_approval
        if approval is not None and approval.request_id == self._waits_for:
            if taken.is_changed:
                return end_of_changed(self.session_id, changed_request(approval.request_id)), None
            return RunResumed(), taken.decision
        # Another node has continued the run, or storage has lost its last writes: a write finds out which.
        try:
            with self.control.uninterruptible():
                await self._ports.journal.commit(self.lock, (), None, self._ports.clock.now())
        except RunDamaged as error:
            return _internal_error(error), None
        return _internal_error(RunDamaged(self.session_id)), None

    async def _end_without_checkpoint(self, error: RecordChanged) -> Fact:
        """Continue with an empty checkpoint, and return the fact that ends it. Raises `RunLost` if it has expired."""
        self._saved = await _retry(lambda: empty_checkpoint(self._ports.journal, self.lock))
        if self._waits_for is not None:
            request_id = self._waits_for
            await _retry(lambda: self._ports.requests.close(request_id, RequestStatus.CANCELLED))
        return end_of_changed(self.session_id, error)

    # --- effects and steps --------------------------------------------------------------------------------------------

    async def _perform_effect(self, effect: Effect, decision: Decision | None) -> Effect:
        """Perform one effect until it leads to another one. An unexpected error ends the run, with an `error` event."""
        try:
            if isinstance(effect, AwaitDecision):
                return await self._apply_decision(effect, decision)
            async with aclosing(self._ports.effects.perform(self.checkpoint, effect)) as batches:  # type: ignore[type-var]
                async for facts in batches:
                    self._failures = 0
                    following = await self._step(advance_all(self.checkpoint, facts, self._ports.clock.now()))
                    if not isinstance(following, Continue):
                        return following
            raise RuntimeError(f"{type(effect).__name__} did not lead to another effect")
        except StorageUnavailable as error:
            log.warning("run.paused", cause=error.log_cause)
            self._failures += 1
            await asyncio.sleep(growing_pause(self._failures))
            return effect
        except RunLost:
            raise
        except RecordChanged as error:
            fact = end_of_changed(self.session_id, error)
        except Exception as error:  # the run must end, whatever the error is
            log.exception("run.failed_unexpectedly")
            fact = InternalErrorOccurred(f"내부 서버 오류가 발생했습니다. ({type(error).__name__})")
        return await self._step(advance(self.checkpoint, fact, self._ports.clock.now()))

    async def _apply_decision(self, effect: AwaitDecision, decision: Decision | None) -> Effect:
        """Apply the decision, or the deadline where it has passed; else the same effect is performed again."""
        if decision is None:
            taken = await self._take()
            if taken.is_changed:
                raise changed_request(effect.approval.request_id)
            decision = taken.decision
        fact = await self._ports.effects.decision_fact(self.checkpoint, effect, decision)
        if fact is None:
            return effect
        step = advance(self.checkpoint, fact, self._ports.clock.now())
        applied = decision_applied(step.checkpoint, effect.approval, fact)
        self._ports.audit.record(self.checkpoint.request.tenant_id, applied)
        log_applied(applied)
        return await self._step(step)

    async def _step(self, step: Step) -> Effect:
        """Commit a step; from then on it counts. Returns the effect to perform next.

        An approval request can be decided before any client sees it (CONTRACT §5).
        """
        is_unchanged = step.checkpoint is self._saved
        if not is_unchanged or step.events:
            try:
                with self.control.uninterruptible():
                    await self._prepare(self.checkpoint, step)
                    now = self._ports.clock.now()
                    bodies = self._ports.encode(step, self.session_id, now)
                    await self._ports.journal.commit(self.lock, bodies, None if is_unchanged else step.checkpoint, now)
            except RunDamaged as error:
                log.warning("run.damaged", cause=error.log_cause)
                return await self._step(advance(self.checkpoint, _internal_error(error), self._ports.clock.now()))
            if not is_unchanged:
                self._saved = step.checkpoint
                log_commit(step)
                self._ports.report(self.checkpoint)
        if isinstance(step.effect, Stop):
            return step.effect
        if self.lock.cancelled_by is not None and not self.control.is_releasing:
            return await self._cancel_run(self.lock.cancelled_by)
        if self.control.is_releasing and not isinstance(step.effect, Continue):
            raise asyncio.CancelledError
        return step.effect

    async def _cancel_run(self, cancelled_by: str) -> Effect:
        return await self._step(advance(self.checkpoint, CancelRequested(cancelled_by), self._ports.clock.now()))

    async def _prepare(self, before: Checkpoint, step: Step) -> None:
        """Before a step is visible, open the approval request that it waits for, or close the one that it ends."""
        decisions, reporter = self._ports.decisions, self._ports.task_reporter
        match step.effect:
            case AwaitDecision(approval=approval, deadline_at=deadline_at) if step.events:
                task_id = reporter.task_id(self.session_id) if reporter is not None else None
                opened = step.checkpoint
                await _retry(lambda: decisions.open_request(opened, approval, deadline_at, task_id=task_id))
                event = request_opened(opened, approval, deadline_at)
                self._ports.audit.record(opened.request.tenant_id, event)
            case Stop() if before.open_approval and step.checkpoint.state in (State.FAILED, State.CANCELLED):
                request_id = before.open_approval.request_id
                await _retry(lambda: self._ports.requests.close(request_id, RequestStatus.CANCELLED))


async def _retry(attempt: Callable[[], Awaitable[T]]) -> T:
    """Retry while Redis is unavailable: the run pauses where it is."""
    return await retry_until_available(
        attempt, on_unavailable=lambda error: log.warning("run.paused", cause=error.log_cause)
    )


def _internal_error(error: RunDamaged) -> InternalErrorOccurred:
    return InternalErrorOccurred(error.message, error.error_type, error.code)
