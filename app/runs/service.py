"""All runs of this process, as the rest of the service sees them: start, wake, cancel, take over, drain."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from app.errors import QuotaExceeded, RunLost, ServiceBusy, StorageUnavailable
from app.ports.identity import Principal
from app.ports.journal import RunLock
from app.ports.nodes import Claim
from app.runs.admission import AdmissionQueue
from app.runs.creation import CreationUncertain, RunFactory, StartRun
from app.runs.refusals import Refusals
from app.runs.run_log import bind_run
from app.runs.takeover import claim_run
from app.runs.task import RunPorts, RunTask, Start
from app.runs.waiting import WaitingRun, WaitingRuns
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable
from statemachine.messages import CancelRequested

_IS_DRAINING = "this replica is shutting down; send the request again"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunCounts:
    """How many runs this process creates, runs in a task, and keeps waiting for a person."""

    starting: int
    active: int
    waiting: int


class RunService:
    """Starts runs and owns those of this process (`ports.nodes.RunOwner`)."""

    def __init__(
        self,
        ports: RunPorts,
        factory: RunFactory,
        admission: AdmissionQueue,
        *,
        max_runs: int,
        drain_seconds: float,
    ) -> None:
        self._ports = ports
        self._factory = factory
        self.admission = admission
        self._max_runs = max_runs
        self._drain_seconds = drain_seconds
        self._refusals = Refusals(ports.clock)
        self._tasks: dict[str, RunTask] = {}
        self._waiting = WaitingRuns(ports.clock, self.wake)
        self._skipped: set[str] = set()
        self._creations: set[asyncio.Task[str]] = set()
        self._takeovers: dict[str, str | None] = {}  # session id → the user who cancelled it meanwhile
        self.is_draining = False
        ports.nodes.subscribe(self)
        ports.decisions.subscribe(self.wake)

    def start_deadlines(self) -> None:
        """Start the timer of waiting runs; it runs until `drain`."""
        self._waiting.start()

    def owns(self, session_id: str) -> bool:
        """Whether this process writes the run, or is just taking it over."""
        return session_id in self._tasks or session_id in self._waiting or session_id in self._takeovers

    def counts(self) -> RunCounts:
        return RunCounts(starting=len(self._creations), active=len(self._tasks), waiting=len(self._waiting))

    # --- starting -----------------------------------------------------------------------------------------------------

    async def start(self, principal: Principal, start: StartRun) -> str:
        """Create a run, or find the one that its idempotency key created. Returns its session id.

        Raises `ServiceBusy`, `ThreadBusy`, `QuotaExceeded`, `FieldInvalid`, `StorageUnavailable`: then no run exists.
        """
        if start.idempotency_key is None:  # else it may be the repetition of a request whose run exists
            try:
                self._refusals.check(principal)
            except QuotaExceeded:
                await self.admission.wait_to_refuse()
                raise
        if self.is_draining:
            raise ServiceBusy(_IS_DRAINING)
        if self._is_full:
            raise ServiceBusy(f"this replica runs {self._max_runs} runs, its limit; send the request again later")
        if not self._ports.nodes.has_lease:
            raise StorageUnavailable("this node has no lease at the moment")
        # A client that disconnects now has still requested the run: only its owner may end it (§3).
        creation = asyncio.create_task(self._create(principal, start))
        self._creations.add(creation)
        creation.add_done_callback(self._creation_done)
        return await asyncio.shield(creation)

    def _creation_done(self, creation: asyncio.Task[str]) -> None:
        self._creations.discard(creation)
        if not creation.cancelled():
            creation.exception()  # its caller may have disconnected

    async def _create(self, principal: Principal, start: StartRun) -> str:
        await self.admission.acquire(principal.tenant_id, principal.user_id)
        if self.is_draining:
            raise ServiceBusy(_IS_DRAINING)
        try:
            created = await self._factory.create(principal, start)
        except CreationUncertain as error:
            # A client with an idempotency key repeats its request, so the run continues; any other client would start a
            # second one, so it is cancelled. Both happen once Redis is back, and only if the run exists.
            fact = None if start.idempotency_key is not None else CancelRequested("aura")
            uncertain = RunTask(self._ports, error.run.lock, error.run.step.checkpoint)
            effect = error.run.step.effect
            self._spawn(uncertain, Start(effect, fact, must_confirm=True, log_event="run.creation_unconfirmed"))
            raise
        except QuotaExceeded as error:
            self._refusals.remember(principal, error)
            log.warning("quota.exceeded", setting=error.setting, userId=principal.user_id)
            raise
        if isinstance(created, str):
            return created
        task = RunTask(self._ports, created.lock, created.step.checkpoint)
        self._spawn(task, Start(created.step.effect, log_event="run.started"))
        return created.lock.session_id

    @property
    def _is_full(self) -> bool:
        return len(self._tasks) + len(self._waiting) + len(self._creations) >= self._max_runs

    # --- waking and cancelling ----------------------------------------------------------------------------------------

    def wake(self, session_id: str) -> None:
        """Continue a waiting run: something may decide its request, or its deadline has passed."""
        waiting = self._waiting.pop(session_id)
        if waiting is not None:
            self._spawn(RunTask(self._ports, waiting.lock, None, waiting.request_id), Start())
        elif session_id in self._tasks:
            self._tasks[session_id].notify()

    async def cancel(self, session_id: str, cancelled_by: str) -> bool:
        """Cancel a run on whichever node it is. Returns False where it has ended or is unknown."""
        is_requested = await self._ports.nodes.request_cancel(session_id, cancelled_by)
        if is_requested:
            self.cancel_local(session_id, cancelled_by)
        return is_requested

    def cancel_local(self, session_id: str, cancelled_by: str) -> None:
        """Cancel a run of this process, also one that waits or is just taken over; a no-op for any other run."""
        waiting = self._waiting.pop(session_id)
        if waiting is not None:
            waiting.lock.cancelled_by = cancelled_by
            self._spawn(RunTask(self._ports, waiting.lock, None, waiting.request_id), Start())
            return
        if session_id in self._takeovers:
            self._takeovers[session_id] = cancelled_by
        if session_id in self._tasks:
            self._tasks[session_id].cancel(cancelled_by)

    # --- ownership ----------------------------------------------------------------------------------------------------

    async def take_over(self, session_id: str, claim: Claim) -> None:
        """Continue a run whose node has ended. A checkpoint of a newer release is skipped; only newer nodes read it."""
        if self.is_draining or self._is_full or self.owns(session_id):
            return  # it is offered again
        self._takeovers[session_id] = None
        try:
            adopted = await claim_run(self._ports, session_id, claim)
        except (CheckpointTooNew, CheckpointUnreadable) as error:
            self._skip(session_id, error)
            return
        finally:
            cancelled_by = self._takeovers.pop(session_id, None)
        if adopted is None:
            return
        task, start = adopted
        task.lock.cancelled_by = task.lock.cancelled_by or cancelled_by
        self._ports.journal.adopt(session_id)
        self._spawn(task, start)

    def _skip(self, session_id: str, error: Exception) -> None:
        if session_id not in self._skipped:  # it is offered again and again
            self._skipped.add(session_id)
            log.warning("run.skipped", sessionId=session_id, cause=str(error))

    def locks(self) -> list[RunLock]:
        """Return the locks of the runs that this process writes."""
        return [*(task.lock for task in self._tasks.values()), *self._waiting.locks]

    def release_all(self) -> None:
        """Stop writing every run: the lease has ended, and another node may write them now."""
        for lock in self._waiting.pop_all():
            self._forget(lock.session_id)
        for task in list(self._tasks.values()):
            task.release()

    async def drain(self) -> None:
        """Accept no new runs; active runs reach a committed step, or stop where their last one ended (§2.3)."""
        self.is_draining = True
        if self._creations:
            await asyncio.wait(self._creations, timeout=self._drain_seconds)
        tasks = [task.control.task for task in self._tasks.values() if task.control.task is not None]
        tasks.append(asyncio.create_task(self._hand_over(self._waiting.close())))
        for run in list(self._tasks.values()):
            run.release(at_next_step=not run.is_waiting)
        await asyncio.wait(tasks, timeout=self._drain_seconds)
        for task in tasks:
            task.cancel()  # even during a commit: the node that continues the run reads the result
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _hand_over(self, locks: Sequence[RunLock]) -> None:
        """Release waiting runs, so that other nodes need not wait for the end of the lease."""
        with suppress(StorageUnavailable):
            await self._ports.nodes.hand_over(locks)
        for lock in locks:
            self._forget(lock.session_id)

    def _forget(self, session_id: str) -> None:
        """Drop what this process keeps of a run that it writes no more."""
        self._ports.decisions.unwatch(session_id)
        self._ports.journal.release(session_id)
        if self._ports.task_reporter is not None:
            self._ports.task_reporter.forget(session_id)

    # --- tasks --------------------------------------------------------------------------------------------------------

    def _spawn(self, task: RunTask, start: Start) -> None:
        self._tasks[task.session_id] = task
        # In a context of its own: that of the request would keep its connection in memory as long as the run lasts.
        task.control.task = asyncio.create_task(self._run_task(task, start), context=contextvars.Context())
        if self.is_draining:  # it was created, claimed or woken while the drain began, which may not wait for it
            task.release()

    async def _run_task(self, task: RunTask, start: Start) -> None:
        """Run the loop of one run until it has ended, waits, or is written by another node."""
        session_id, nodes = task.session_id, self._ports.nodes
        bind_run(session_id, nodes.node_id)

        def wait(waiting: WaitingRun) -> None:
            del self._tasks[session_id]
            self._waiting.add(waiting)

        try:
            await task.run_loop(start, wait)
        except RunLost as error:
            log.warning("run.lost", cause=error.log_cause)
        except (CheckpointTooNew, CheckpointUnreadable) as error:
            self._skip(session_id, error)
            with suppress(StorageUnavailable):
                await nodes.hand_over([task.lock])
        except asyncio.CancelledError:
            log.info("run.released")
            if self.is_draining:
                with suppress(StorageUnavailable):
                    await nodes.hand_over([task.lock])
        except Exception:
            log.exception("run.abandoned")  # even its end could not be stored; the node that takes it over retries
        finally:
            if self._tasks.get(session_id) is task:  # else it waits, or this process has taken it over again
                del self._tasks[session_id]
                self._forget(session_id)
