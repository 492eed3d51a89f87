"""Tells the Main Service of runs, off their path (§6): `ports.TaskBoard`.

A run that moves leaves its newest checkpoint here and goes on. A task of its own brings the Main Service from what it
knows to what that checkpoint says: what came between is never sent, and nothing piles up. Nothing is stored for it but
the caller's sealed token: a node that finds an ended run whose task was not told loads the checkpoint and tells it.

Two nodes do not contradict each other: a run under way is told of by the node that owns it, while its lease holds; of
an ended run there is only one thing to tell.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from app.errors import StorageUnavailable
from app.integrations.agent_task import Call, Complete, Create, Delivered, Fail, Report, Start, next_call
from app.integrations.breaker import Breaker
from app.integrations.main_service import CALLS_AT_ONCE, Away, Caller, CallerRefused, CallRefused, MainService
from app.integrations.token_cipher import TokenCipher
from app.ports.clock import Clock
from app.ports.identity import Principal
from app.ports.tasks import TaskOutbox, TaskTicket
from statemachine.checkpoint import Checkpoint
from statemachine.errors import CheckpointTooNew, CheckpointUnreadable

_FIRST_PAUSE_SECONDS = 0.1
_MOST_PAUSE_SECONDS = 5.0  # of one run; a service that is away is spared by the breaker
_PAGE = 200
_MOST_ENDED = 2000
_LAST_WORD_SECONDS = 2.0
_CALM_SECONDS = 0.2

T = TypeVar("T")

log = structlog.get_logger(__name__)


class _Entry:
    """A run whose task this process keeps up to date. `checkpoint` is the newest."""

    __slots__ = ("caller", "checkpoint", "delivered", "held_until", "is_over", "linked", "worker")

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.delivered = Delivered()
        self.caller: Caller | None = None
        self.linked: str | None = None
        self.held_until = 0.0
        self.worker: asyncio.Task[None] | None = None
        self.is_over = False


class MainServiceReporter:
    """All tasks of this process's runs, and of ended runs that other nodes left."""

    def __init__(
        self,
        service: MainService,
        outbox: TaskOutbox,
        cipher: TokenCipher,
        clock: Clock,
        *,
        is_owner: Callable[[], bool],
        hold_seconds: float,
    ) -> None:
        """`is_owner`: whether this node's runs are its own at the moment. What it works on it holds for a while."""
        self._service = service
        self._outbox = outbox
        self._seal = cipher
        self._clock = clock
        self._is_owner = is_owner
        self._hold_seconds = hold_seconds
        self._entries: dict[str, _Entry] = {}
        self._ended: set[str] = set()
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE)
        self._breaker = Breaker(lambda: asyncio.get_running_loop().time())
        self._calling: set[_Entry] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def start(self) -> None:
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Calls under way are heard out for a moment; what is left undone is free for other nodes at once."""
        self._is_stopping = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        calling = [entry.worker for entry in self._calling if entry.worker is not None]
        if calling:
            await asyncio.wait(calling, timeout=_LAST_WORD_SECONDS)
        workers = [entry.worker for entry in self._entries.values() if entry.worker is not None]
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        undone = [id for id, entry in self._entries.items() if entry.checkpoint.state.is_final]
        try:
            await self._outbox.reserve(undone, self._clock.now())
        except StorageUnavailable:
            log.info("task.left", runs=len(undone))
        await self._service.close()

    # --- what runs say ------------------------------------------------------------------------------------------------

    def create_ticket(self, session_id: str, principal: Principal) -> TaskTicket:
        caller = Caller(principal.token, principal.expires_at)
        encrypted_token, first_due_at = self._seal.close(session_id, caller), self._clock.now() + self._hold_seconds
        return TaskTicket(encrypted_token, principal.expires_at, first_due_at)

    def report_progress(self, checkpoint: Checkpoint) -> None:
        entry = self._entries.get(checkpoint.session_id)
        if entry is None:
            entry = self._entries[checkpoint.session_id] = _Entry(checkpoint)
        entry.checkpoint = checkpoint
        if checkpoint.state.is_final:
            self._ended.add(checkpoint.session_id)
            if entry.is_over or len(self._ended) > _MOST_ENDED:  # too many: it is found again in the outbox
                self._drop(entry)
                return
        if entry.worker is None and not entry.is_over and not self._is_stopping:
            entry.worker = asyncio.create_task(self._work(entry))

    def forget(self, session_id: str) -> None:
        entry = self._entries.get(session_id)
        if entry is not None and not entry.checkpoint.state.is_final:
            self._drop(entry)

    def task_id(self, session_id: str) -> str | None:
        entry = self._entries.get(session_id)
        return entry.delivered.task_id if entry is not None else None

    # --- one run ------------------------------------------------------------------------------------------------------

    async def _work(self, entry: _Entry) -> None:
        """Until the Main Service knows all that there is to know now."""
        try:
            if entry.caller is None:
                await self._load(entry)
            failures = 0
            while not entry.is_over and not self._is_stopping:
                await self._link(entry)
                call = next_call(entry.checkpoint, entry.delivered)
                if call is None:
                    break
                if isinstance(call, Report) and not entry.checkpoint.state.is_final:
                    await asyncio.sleep(_CALM_SECONDS)  # a plan moves several times in a moment: told once
                try:
                    await self._hold(entry, 0)
                    await self._call(entry)
                    failures = 0
                except Away as error:
                    failures += 1
                    pause = max(error.retry_after_seconds, _pause(failures))
                    await self._hold(entry, pause)
                    await asyncio.sleep(pause)
            if entry.delivered.is_ended:
                await _patiently(lambda: self._outbox.remove(entry.checkpoint.session_id))
        except Exception:
            log.exception("task.broke", session_id=entry.checkpoint.session_id)
        finally:
            entry.worker = None
            if entry.checkpoint.state.is_final and not self._is_stopping:
                self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        session_id = entry.checkpoint.session_id
        if self._entries.get(session_id) is entry:
            del self._entries[session_id]
            self._ended.discard(session_id)
        if entry.worker is not None:
            entry.worker.cancel()

    async def _load(self, entry: _Entry) -> None:
        """What storage knows of the run's task; another node may have told it."""
        session_id = entry.checkpoint.session_id
        record = await _patiently(lambda: self._outbox.load(session_id))
        if record is None or not record.is_listed:
            entry.is_over = True
            return
        entry.delivered.task_id, entry.delivered.is_started = record.task_id, record.is_started
        entry.caller = (
            self._seal.open(session_id, record.encrypted_token) if record.encrypted_token is not None else None
        )
        if entry.caller is None:
            await self._give_up(entry, "the caller's token has expired, or was sealed with another JWT_SECRET")

    async def _hold(self, entry: _Entry, seconds: float) -> None:
        """Other nodes need not look at an ended run until some time after that."""
        if entry.checkpoint.state.is_final:
            until = self._clock.now() + seconds + self._hold_seconds
            await _patiently(lambda: self._outbox.reserve([entry.checkpoint.session_id], until))
            entry.held_until = until

    async def _link(self, entry: _Entry) -> None:
        task_id, approval = entry.delivered.task_id, entry.checkpoint.open_approval
        if task_id is not None and approval is not None and entry.linked != approval.request_id:
            await _patiently(lambda: self._outbox.link_request(task_id, approval.request_id))
            entry.linked = approval.request_id

    async def _call(self, entry: _Entry) -> None:
        """The call that is due when its turn comes. Raises `Away`."""
        async with self._slots:
            caller = await self._admitted(entry)
            call = next_call(entry.checkpoint, entry.delivered)
            if call is None or caller is None:
                return
            if not entry.checkpoint.state.is_final and not self._is_owner():
                raise Away("this node has no lease at the moment")
            self._calling.add(entry)
            try:
                await self._send(entry, call, caller)
            finally:
                self._calling.discard(entry)

    async def _admitted(self, entry: _Entry) -> Caller | None:
        """Wait until the breaker lets a call through, and see who may still make it; None: nobody."""
        while True:
            if entry.checkpoint.state.is_final and entry.held_until <= self._clock.now():
                await self._load(entry)  # it was waited for so long that another node may have told it
                await self._hold(entry, 0)
            if entry.is_over or entry.caller is None:
                return None
            left = entry.caller.expires_at - self._clock.now()
            if left <= 0:
                await self._give_up(entry, "the caller's token has expired")
                return None
            seconds = self._breaker.wait_seconds()
            if seconds <= 0:
                return entry.caller
            await asyncio.sleep(min(seconds * random.uniform(1.0, 1.2), left))  # noqa: S311 - jitter, not a secret

    async def _send(self, entry: _Entry, call: Call, caller: Caller) -> None:
        request, delivered = entry.checkpoint.request, entry.delivered
        try:
            task_id = await self._service.send(call, delivered.task_id, request, caller)
        except Away as error:
            if self._breaker.failed():
                log.warning("main_service.away", cause=str(error))
            raise
        except CallerRefused as error:
            self._breaker.succeeded()
            await self._give_up(entry, f"the Main Service does not accept the caller's token: {error}")
            return
        except CallRefused as error:
            self._breaker.succeeded()
            if isinstance(call, Create):
                await self._give_up(entry, f"the Main Service does not accept the task: {error}")
                return
            # said before, by a call whose answer was lost or by the node that had the run then
            log.info("task.call_refused", call=type(call).__name__, cause=str(error))
            task_id = None
        else:
            self._breaker.succeeded()
        session_id = request.session_id
        match call:
            case Create() if task_id is not None:
                delivered.task_id = await _patiently(lambda: self._outbox.save_task_id(session_id, task_id))
            case Start():
                await _patiently(lambda: self._outbox.mark_started(session_id))
                delivered.is_started = True
            case Report():
                delivered.report = call
            case Complete() | Fail():
                delivered.is_ended = True

    async def _give_up(self, entry: _Entry, cause: str) -> None:
        """One line, and this run's task is left as it is."""
        entry.is_over = True
        session_id = entry.checkpoint.session_id
        log.warning("task.given_up", session_id=session_id, task_id=entry.delivered.task_id, cause=cause)
        await _patiently(lambda: self._outbox.remove(session_id))

    # --- what other nodes left ----------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._hold_seconds / 4 * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            try:
                while await self._take_up():
                    pass
            except StorageUnavailable as error:
                log.info("task.sweep_paused", cause=error.cause)

    async def _take_up(self) -> bool:
        """Some runs that are due: those under way come back later, ended ones are told of. Whether there are more.

        What this process has no room for stays in the outbox.
        """
        now, room = self._clock.now(), min(_PAGE, _MOST_ENDED - len(self._ended))
        found = await self._outbox.claim_due(now, now + 3 * self._hold_seconds, room) if room > 0 else []
        for session_id in found:
            if session_id in self._entries:
                continue
            try:
                record = await self._outbox.load(session_id)
            except (CheckpointTooNew, CheckpointUnreadable):
                continue  # a newer release will
            if record is None:
                await self._outbox.remove(session_id)
            elif record.is_final:
                log.info("task.taken_up", session_id=session_id)
                self.report_progress(record.checkpoint)
        return len(found) == _PAGE


def _pause(failures: int) -> float:
    """Doubling, with jitter: a thousand runs do not come back together."""
    most = min(_MOST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(failures, 16))
    return random.uniform(most / 2, most)  # noqa: S311 - jitter, not a secret


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """While Redis is away this waits; no run does."""
    failures = 0
    while True:
        try:
            return await attempt()
        except StorageUnavailable:
            failures += 1
            await asyncio.sleep(_pause(failures))
