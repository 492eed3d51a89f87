"""Keeps the tasks of the Main Service up to date with the runs (§6): implements `ports.tasks.TaskReporter`.

A run passes its newest checkpoint and never waits. For each run, one asyncio task sends requests until the Main Service
has received what that checkpoint contains. Intermediate states are skipped, so nothing queues up. Apart from the
caller's encrypted token nothing is stored for this: a node that finds an ended run whose task is not up to date loads
the checkpoint and continues.

Two nodes cannot contradict each other. The node that owns an open run reports it while its lease is valid, and an
ended run has only one final state.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from structlog.contextvars import bind_contextvars

from app.errors import StorageUnavailable
from app.integrations.agent_task import (
    CompleteTask,
    CreateTask,
    DeliveredState,
    FailTask,
    ReportProgress,
    StartTask,
    TaskRequest,
    next_request,
)
from app.integrations.circuit_breaker import CircuitBreaker
from app.integrations.failed_attempts import FailedAttempts, is_optional
from app.integrations.main_service import (
    MAX_CONCURRENT_REQUESTS,
    Caller,
    MainService,
    MainServiceError,
    RequestFailed,
    RequestRejected,
    ServiceUnavailable,
    TokenRejected,
)
from app.integrations.outbox_poller import OutboxPoller
from app.integrations.token_cipher import TokenCipher
from app.ports.clock import Clock
from app.ports.identity import Principal
from app.ports.tasks import TaskOutbox, TaskTicket
from app.retry import retry_until_available
from statemachine.checkpoint import Checkpoint, RunRequest

_MIN_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 5.0  # for one run; the circuit breaker limits the requests of all runs together
_MAX_BACKOFF_AFTER_ERROR_SECONDS = 60.0  # after HTTP 500, which the circuit breaker does not count
_MAX_ENDED_RUNS = 2000
_STOP_TIMEOUT_SECONDS = 2.0
_COALESCE_SECONDS = 0.2

T = TypeVar("T")

log = structlog.get_logger(__name__)


class _TrackedRun:
    """A run whose task this process keeps up to date. `checkpoint` is the newest; `is_done` means no more requests."""

    __slots__ = (
        "attempts",
        "caller",
        "checkpoint",
        "delivered",
        "is_done",
        "linked_request_id",
        "reserved_until",
        "worker",
    )

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.delivered = DeliveredState()
        self.attempts = FailedAttempts()
        self.caller: Caller | None = None
        self.linked_request_id: str | None = None
        self.reserved_until = 0.0
        self.worker: asyncio.Task[None] | None = None
        self.is_done = False

    @property
    def session_id(self) -> str:
        return self.checkpoint.session_id

    @property
    def has_ended(self) -> bool:
        return self.checkpoint.state.is_final

    def resume_postponed(self) -> None:
        """Send again what was postponed: its failures were not its own, because the end of the task fails, too."""
        if self.attempts.has_been_unavailable(StartTask):
            self.delivered.is_started = False
        if self.attempts.has_been_unavailable(ReportProgress):
            self.delivered.report = None


class MainServiceReporter:
    """Reports the runs of this process, and ended runs that other nodes did not report completely."""

    def __init__(
        self,
        service: MainService,
        outbox: TaskOutbox,
        cipher: TokenCipher,
        clock: Clock,
        *,
        is_owner: Callable[[], bool],
        reservation_seconds: float,
    ) -> None:
        """`is_owner` returns whether the lease of this node is valid.

        An ended run is reserved in the outbox for `reservation_seconds` at a time, so that other nodes leave it alone.
        """
        self._service = service
        self._outbox = outbox
        self._cipher = cipher
        self._clock = clock
        self._is_owner = is_owner
        self._reservation_seconds = reservation_seconds
        self._runs: dict[str, _TrackedRun] = {}
        self._ended: set[str] = set()
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)
        self._breaker = CircuitBreaker(lambda: asyncio.get_running_loop().time())
        self._sending: set[_TrackedRun] = set()
        self._is_stopping = False
        self._poller = OutboxPoller(
            outbox,
            clock,
            reservation_seconds=reservation_seconds,
            free_slots=lambda: _MAX_ENDED_RUNS - len(self._ended),
            is_tracked=self._runs.__contains__,
            adopt=self.report_progress,
        )

    async def start(self) -> None:
        self._poller.start()

    async def stop(self) -> None:
        """Wait briefly for the responses of requests in flight, then release the unreported runs to other nodes."""
        self._is_stopping = True
        self._poller.stop()
        sending = [run.worker for run in self._sending if run.worker is not None]
        if sending:
            await asyncio.wait(sending, timeout=_STOP_TIMEOUT_SECONDS)
        workers = [run.worker for run in self._runs.values() if run.worker is not None]
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        unreported = [session_id for session_id, run in self._runs.items() if run.has_ended]
        try:
            await self._outbox.reserve(unreported, self._clock.now())
        except StorageUnavailable:
            log.info("task.release_failed", runs=len(unreported))
        await self._service.close()

    def create_ticket(self, session_id: str, principal: Principal) -> TaskTicket:
        caller = Caller(principal.token, principal.expires_at)
        first_due_at = self._clock.now() + self._reservation_seconds
        return TaskTicket(self._cipher.encrypt(session_id, caller), principal.expires_at, first_due_at)

    def report_progress(self, checkpoint: Checkpoint) -> None:
        run = self._runs.get(checkpoint.session_id)
        if run is None:
            run = self._runs[checkpoint.session_id] = _TrackedRun(checkpoint)
        run.checkpoint = checkpoint
        if run.has_ended:
            self._ended.add(run.session_id)
            if run.is_done or len(self._ended) > _MAX_ENDED_RUNS:  # over the limit: the poller finds the run later
                self._drop(run)
                return
        if run.worker is None and not run.is_done and not self._is_stopping:
            run.worker = asyncio.create_task(self._report(run))

    def forget(self, session_id: str) -> None:
        run = self._runs.get(session_id)
        if run is not None and not run.has_ended:
            self._drop(run)

    def task_id(self, session_id: str) -> str | None:
        run = self._runs.get(session_id)
        return run.delivered.task_id if run is not None else None

    # --- the worker of one run ----------------------------------------------------------------------------------------

    async def _report(self, run: _TrackedRun) -> None:
        """Send requests until the Main Service is up to date."""
        _bind(run.checkpoint.request)
        try:
            if run.caller is None:
                await self._load(run)
            failures = 0
            while not run.is_done and not self._is_stopping:
                await self._link_approval(run)
                request = next_request(run.checkpoint, run.delivered)
                if request is None:
                    break
                if isinstance(request, ReportProgress) and not run.has_ended:
                    await asyncio.sleep(_COALESCE_SECONDS)  # a plan may change several times in a moment
                try:
                    await self._reserve(run, 0)
                    await self._send_next(run)
                    failures = 0
                except (ServiceUnavailable, RequestFailed) as error:
                    failures += 1
                    pause = _pause_seconds(error, failures)
                    await self._reserve(run, pause)
                    await asyncio.sleep(pause)
            if run.delivered.is_ended:
                await _retry(lambda: self._outbox.remove(run.session_id))
        except Exception:
            log.exception("task.report_crashed", sessionId=run.session_id)
        finally:
            run.worker = None
            if run.has_ended and not self._is_stopping:
                self._drop(run)

    def _drop(self, run: _TrackedRun) -> None:
        if self._runs.get(run.session_id) is run:
            del self._runs[run.session_id]
            self._ended.discard(run.session_id)
        if run.worker is not None:
            run.worker.cancel()

    async def _load(self, run: _TrackedRun) -> None:
        """Load what is stored about the run's task. Another node may have sent requests for it."""
        record = await _retry(lambda: self._outbox.load(run.session_id))
        if record is None or not record.is_listed:
            run.is_done = True
            return
        run.delivered.task_id, run.delivered.is_started = record.task_id, record.is_started
        token = record.encrypted_token
        run.caller = self._cipher.decrypt(run.session_id, token) if token is not None else None
        if run.caller is None:
            await self._abandon(run, "the caller's token has expired, or was encrypted with another JWT_SECRET")

    async def _reserve(self, run: _TrackedRun, seconds: float) -> None:
        """Reserve an ended run for `seconds` and the reservation time after that."""
        if run.has_ended:
            until = self._clock.now() + seconds + self._reservation_seconds
            await _retry(lambda: self._outbox.reserve([run.session_id], until))
            run.reserved_until = until

    async def _link_approval(self, run: _TrackedRun) -> None:
        """Store the link between the task and the open approval request (§5)."""
        task_id, approval = run.delivered.task_id, run.checkpoint.open_approval
        if task_id is not None and approval is not None and run.linked_request_id != approval.request_id:
            await _retry(lambda: self._outbox.link_request(task_id, approval.request_id))
            run.linked_request_id = approval.request_id

    async def _send_next(self, run: _TrackedRun) -> None:
        """Send the request that is due, once it may be sent. Raises `ServiceUnavailable` or `RequestFailed`."""
        async with self._slots:
            caller = await self._acquire_breaker(run)
            request = next_request(run.checkpoint, run.delivered)
            if request is None or caller is None:
                return
            if not run.has_ended and not self._is_owner():
                raise ServiceUnavailable("the lease of this node is not valid at the moment")
            self._sending.add(run)
            try:
                await self._send(run, request, caller)
            finally:
                self._sending.discard(run)

    async def _acquire_breaker(self, run: _TrackedRun) -> Caller | None:
        """Wait until the circuit breaker allows a request. Return the caller, or None if no request may be sent."""
        while True:
            if run.has_ended and run.reserved_until <= self._clock.now():
                await self._load(run)  # the reservation has expired, so another node may have reported the run
                await self._reserve(run, 0)
            if run.is_done or run.caller is None:
                return None
            seconds_left = run.caller.expires_at - self._clock.now()
            if seconds_left <= 0:
                await self._abandon(run, "the caller's token has expired")
                return None
            seconds = self._breaker.acquire()
            if seconds <= 0:
                return run.caller
            jitter = random.uniform(1.0, 1.2)  # noqa: S311 - not a secret
            await asyncio.sleep(min(seconds * jitter, seconds_left))

    async def _send(self, run: _TrackedRun, request: TaskRequest, caller: Caller) -> None:
        try:
            task_id = await self._service.send(request, run.delivered.task_id, run.checkpoint.request, caller)
        except ServiceUnavailable as error:
            await self._on_unavailable(run, request, error)
        except RequestFailed as error:
            self._breaker.record_success()  # the service is not down
            if not run.attempts.count_failed(request):
                raise
            await self._on_refusal(run, request, error)
        except (TokenRejected, RequestRejected) as error:
            self._breaker.record_success()
            await self._on_refusal(run, request, error)
        else:
            self._breaker.record_success()
            run.attempts.clear(request)
            await self._record_delivery(run, request, task_id)

    async def _on_unavailable(self, run: _TrackedRun, request: TaskRequest, error: ServiceUnavailable) -> None:
        """Raise the error again, so that the request is repeated, unless the end of the task is sent before it.

        The circuit breaker counts a response once for each update: one that always gets it says nothing of the others.
        """
        is_news = not (error.is_answer and run.attempts.has_been_unavailable(type(request)))
        if is_news and self._breaker.record_failure():
            log.warning("main_service.circuit_opened", cause=str(error))
        if run.attempts.count_unavailable(request) and run.has_ended:
            log.info("task.update_postponed", **_log_fields(run, request, error))
            await self._record_delivery(run, request, None)
            return
        if isinstance(request, CompleteTask | FailTask):
            run.resume_postponed()
        raise error

    async def _on_refusal(self, run: _TrackedRun, request: TaskRequest, error: MainServiceError) -> None:
        """Continue with the next request where the task can do without this one, or had it before; else abandon it."""
        run.attempts.clear(request)
        if isinstance(error, TokenRejected) and not isinstance(request, ReportProgress):
            await self._abandon(run, f"the Main Service does not accept the caller's token: {error}")
        elif isinstance(request, CreateTask) or (isinstance(error, RequestFailed) and not is_optional(request)):
            await self._abandon(run, f"the Main Service does not accept the task: {error}")
        else:
            log.info("task.request_rejected", **_log_fields(run, request, error))
            await self._record_delivery(run, request, None)

    async def _record_delivery(self, run: _TrackedRun, request: TaskRequest, task_id: str | None) -> None:
        delivered = run.delivered
        match request:
            case CreateTask() if task_id is not None:
                delivered.task_id = await _retry(lambda: self._outbox.save_task_id(run.session_id, task_id))
            case StartTask():
                await _retry(lambda: self._outbox.mark_started(run.session_id))
                delivered.is_started = True
            case ReportProgress():
                delivered.report = request
            case CompleteTask() | FailTask():
                delivered.is_ended = True

    async def _abandon(self, run: _TrackedRun, cause: str) -> None:
        """Log one warning and leave the run's task as it is."""
        run.is_done = True
        log.warning("task.abandoned", sessionId=run.session_id, taskId=run.delivered.task_id, cause=cause)
        await _retry(lambda: self._outbox.remove(run.session_id))


def _bind(request: RunRequest) -> None:
    """Bind the identity of a run to every log line of this task."""
    bind_contextvars(sessionId=request.session_id, traceId=request.trace_id, tenantId=request.tenant_id)


def _log_fields(run: _TrackedRun, request: TaskRequest, error: Exception) -> dict[str, str | None]:
    return {
        "sessionId": run.session_id,
        "taskId": run.delivered.task_id,
        "request": type(request).__name__,
        "cause": str(error),
    }


def _pause_seconds(error: ServiceUnavailable | RequestFailed, failures: int) -> float:
    if isinstance(error, RequestFailed):
        return _backoff_seconds(failures, _MAX_BACKOFF_AFTER_ERROR_SECONDS)
    return max(error.retry_after_seconds, _backoff_seconds(failures))


def _backoff_seconds(failures: int, longest: float | None = None) -> float:
    """Return the pause (s) after this number of failures: exponential, with jitter against simultaneous retries."""
    limit = MAX_BACKOFF_SECONDS if longest is None else longest
    pause = min(limit, _MIN_BACKOFF_SECONDS * 2 ** min(failures, 16))
    return random.uniform(pause / 2, pause)  # noqa: S311 - jitter, not a secret


async def _retry(attempt: Callable[[], Awaitable[T]]) -> T:
    """Retry while Redis is unavailable. No run waits for this."""
    return await retry_until_available(attempt, pause_seconds=_backoff_seconds)
