"""Waiting for decisions in Redis (CONTRACT §5): `ports.decisions.DecisionBus`.

A published signal is only a wake-up. The truth is in `hitl:request:`: the first decision that is stored there counts,
whether it came by HTTP, from the Main Service or as a bare signal.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from app.errors import StorageUnavailable
from app.ports.clock import Clock
from app.ports.decisions import ApprovalRequest, RequestStatus, Taken
from app.redis import keys
from app.redis.approval_requests import RedisApprovalRequests
from app.redis.checkpoints import Checkpoints
from app.redis.seals import RequestSeal
from app.redis.sender_diagnostics import SenderDiagnostics
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from statemachine.checkpoint import Approval, Checkpoint, RunRequest
from statemachine.decisions import (
    Decision,
    SignalForOtherRequest,
    SignalIgnored,
    has_request_id,
    is_only_request,
    parse_signal,
)

_POLL_SECONDS = 2.0
_POLL_SESSIONS, _POLL_ROUNDS = 500, 5
"""Sessions per poll: at least so many, and at least a fifth of them all. The more runs wait, the rarer each is polled,
but always every 10 s."""
_BATCH_SESSIONS = 100

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A signal that may hold a decision. `received_at` (Unix s) is that of a live message, None for the stored one."""

    raw: bytes
    received_at: float | None = None


class _Watch:
    """One open request that a run of this process waits for.

    `messages` are those received and not judged yet. `seen_request_hash` and `seen_signal_hash` belong to stored values
    that have been judged and decide nothing, so that they are judged, and counted, once. None: no request has been
    judged yet; then even its absence is news, because a failover may have lost it.
    """

    __slots__ = ("messages", "request_id", "seen_request_hash", "seen_signal_hash")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.messages: tuple[_Candidate, ...] = ()
        self.seen_request_hash: int | None = None
        self.seen_signal_hash = hash(None)

    def already_seen(self, request: bytes | None, signal: bytes | None) -> bool:
        """Whether these stored values have been judged before."""
        return hash(signal) == self.seen_signal_hash and hash(request) == self.seen_request_hash


class RedisDecisions:
    """Watches the open requests of this process. `ignored_signals` counts messages that decided nothing (§5)."""

    def __init__(
        self,
        connection: Connection,
        pubsub: PubSub,
        requests: RedisApprovalRequests,
        seal: RequestSeal,
        checkpoints: Checkpoints,
        diagnostics: SenderDiagnostics,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._pubsub = pubsub
        self._clock = clock
        self._requests = requests
        self._seal = seal
        self._checkpoints = checkpoints
        self._diagnostics = diagnostics
        self._watches: dict[str, _Watch] = {}
        self._resubscribed: list[str] = []
        self._has_resubscribed = asyncio.Event()
        self._pollers: list[asyncio.Task[None]] = []
        self._on_news: Callable[[str], None] = lambda _: None
        self.ignored_signals = 0

    def subscribe(self, on_news: Callable[[str], None]) -> None:
        self._on_news = on_news

    async def start(self) -> None:
        self._pollers = [asyncio.create_task(poll()) for poll in (self._poll_resubscribed, self._poll_regularly)]

    async def stop(self) -> None:
        for poller in self._pollers:
            poller.cancel()
        await asyncio.gather(*self._pollers, return_exceptions=True)

    @property
    def sender_hints(self) -> list[str]:
        return self._diagnostics.hints

    def is_watched(self, session_id: str) -> bool:
        return session_id in self._watches

    # --- watching -----------------------------------------------------------------------------------------------------

    async def open_request(
        self, checkpoint: Checkpoint, approval: Approval, deadline_at: float, *, task_id: str | None = None
    ) -> None:
        session_id = checkpoint.session_id
        raw, writes = self._requests.writes(checkpoint, approval, deadline_at, task_id)
        # Unlike GET, MGET is no error where others stored another type.
        (stale,) = await self._connection.execute("MGET", keys.hitl_signal(session_id))
        # A signal without a `requestId` is older than this request, which nobody has seen yet; it must not decide it.
        if stale is not None and not has_request_id(stale):
            await self._connection.execute("DEL", keys.hitl_signal(session_id))
        await self._connection.pipeline(writes)
        await self.watch(session_id, approval.request_id)
        self._watches[session_id].seen_request_hash = hash(raw)

    async def watch(self, session_id: str, request_id: str) -> None:
        watch = self._watches.get(session_id)
        if watch is None or watch.request_id != request_id:
            self._watches[session_id] = _Watch(request_id)
        await self._pubsub.subscribe(keys.hitl_channel(session_id), partial(self._on_message, session_id))

    def unwatch(self, session_id: str) -> None:
        if self._watches.pop(session_id, None) is not None:
            self._pubsub.unsubscribe(keys.hitl_channel(session_id))

    def _on_message(self, session_id: str, message: bytes | None) -> None:
        """A message counts from its arrival, however long Redis is unavailable before it can be judged."""
        watch = self._watches.get(session_id)
        if watch is None:
            return
        if message is None:  # the subscription is new: the keys must be read
            self._resubscribed.append(session_id)
            self._has_resubscribed.set()
        else:
            watch.messages += (_Candidate(message, self._clock.now()),)
            self._on_news(session_id)

    # --- taking a decision --------------------------------------------------------------------------------------------

    async def take(self, session_id: str, accept: Callable[[Checkpoint, Decision], None]) -> Taken:
        watch = self._watches[session_id]
        raw_request, signal, stored = await self._connection.get_many(
            [keys.hitl_request(watch.request_id), keys.hitl_signal(session_id), keys.checkpoint(session_id)]
        )
        checkpoint = None if stored is None else await self._checkpoints.open(session_id, stored)
        approval = checkpoint.open_approval if checkpoint is not None else None
        if checkpoint is None or approval is None or approval.request_id != watch.request_id:
            return Taken(checkpoint)
        if raw_request is None and checkpoint.deadline_at is not None and checkpoint.deadline_at > self._clock.now():
            raw_request = await self._requests.restore(checkpoint, approval, checkpoint.deadline_at)
        request = self._requests.parse(watch.request_id, raw_request)
        if request is not None and not request.shows(approval):
            return Taken(checkpoint, is_changed=True)
        judged = len(watch.messages)
        decision = await self._find_decision(watch, request, signal, checkpoint, approval, accept)
        if decision is None:
            watch.seen_request_hash, watch.seen_signal_hash = hash(raw_request), hash(signal)
        watch.messages = watch.messages[judged:]  # only now: Redis may have been unavailable in between
        if decision is not None:
            self.unwatch(session_id)
        return Taken(checkpoint, decision)

    async def _find_decision(
        self,
        watch: _Watch,
        request: ApprovalRequest | None,
        signal: bytes | None,
        checkpoint: Checkpoint,
        approval: Approval,
        accept: Callable[[Checkpoint, Decision], None],
    ) -> Decision | None:
        """Return the decision in the stored request, a received message or the stored signal, if one counts."""

        def judge(decision: Decision | None) -> Decision | None:
            return decision if self._is_accepted(watch.request_id, decision, checkpoint, accept) else None

        if request is not None and request.is_decided:
            return None if hash(request.raw.encode()) == watch.seen_request_hash else judge(request.decision)
        candidates = list(watch.messages)
        if signal is not None and hash(signal) != watch.seen_signal_hash:
            candidates.append(_Candidate(signal))
        for candidate in candidates:
            decision = judge(self._parse(watch.request_id, candidate, checkpoint))
            if decision is None:
                continue
            if request is not None:
                recorded, is_ours = await self._requests.record(request, decision)
                if not recorded.shows(approval):  # it was changed just now: the next reading of it ends the run
                    return None
                if recorded.is_decided and not is_ours:  # the earlier decision counts, even if it is not accepted
                    return judge(recorded.decision)
            return decision
        return None

    def _parse(self, request_id: str, candidate: _Candidate, checkpoint: Checkpoint) -> Decision | None:
        """Return what a signal decides; a signal that decides nothing is counted and logged."""
        is_live = candidate.received_at is not None
        received_at = self._clock.now() if candidate.received_at is None else candidate.received_at
        self._diagnostics.notice(candidate.raw, "A signal" if is_live else "A stored signal")
        try:
            decision = parse_signal(
                candidate.raw,
                request_id=request_id,
                received_at=received_at,
                is_live=is_live,
                may_lack_id=is_only_request(checkpoint),
            )
        except SignalIgnored as error:
            if is_live or not isinstance(error, SignalForOtherRequest):
                self._ignore(request_id, str(error), checkpoint.request)
            return None
        if self._requests.signals_decide:
            return decision
        return None  # a wake-up: the decision is in the request, with its MAC, or there is none

    def _is_accepted(
        self,
        request_id: str,
        decision: Decision | None,
        checkpoint: Checkpoint,
        accept: Callable[[Checkpoint, Decision], None],
    ) -> bool:
        """Whether there is a decision that was made in time and is accepted; one that is not is counted and logged."""
        if decision is None:
            return False
        try:
            if checkpoint.deadline_at is None or decision.decided_at >= checkpoint.deadline_at:
                raise SignalIgnored("it came after the deadline")
            accept(checkpoint, decision)
        except SignalIgnored as error:
            self._ignore(request_id, str(error), checkpoint.request)
            return False
        return True

    def _ignore(self, request_id: str, reason: str, run: RunRequest) -> None:
        self.ignored_signals += 1
        who = {"sessionId": run.session_id, "traceId": run.trace_id, "tenantId": run.tenant_id}
        log.warning("signal.ignored", requestId=request_id, reason=reason, **who)

    # --- polling the keys ---------------------------------------------------------------------------------------------

    async def _poll_resubscribed(self) -> None:
        """Poll sessions whose subscription is new: messages that were published before are lost."""
        while True:
            await self._has_resubscribed.wait()
            self._has_resubscribed.clear()
            session_ids, self._resubscribed = self._resubscribed, []
            for start in range(0, len(session_ids), _BATCH_SESSIONS):
                batch = session_ids[start : start + _BATCH_SESSIONS]
                try:
                    await self._poll(batch)
                except StorageUnavailable:  # each run retries by itself
                    for session_id in batch:
                        if session_id in self._watches:
                            self._on_news(session_id)

    async def _poll_regularly(self) -> None:
        """Poll all sessions in turn: a message may have been lost, or a decider may not publish at all."""
        await self._diagnostics.load()
        position = 0
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            waiting = list(self._watches)
            position = position if position < len(waiting) else 0
            until = position + max(_POLL_SESSIONS, math.ceil(len(waiting) / _POLL_ROUNDS))
            with suppress(StorageUnavailable):
                while position < min(until, len(waiting)):
                    await self._poll(waiting[position : position + _BATCH_SESSIONS])
                    position += _BATCH_SESSIONS

    async def _poll(self, session_ids: Sequence[str]) -> None:
        """Read the keys of these sessions and notify those with a value that has not been judged."""
        polled = [(id, watch) for id in session_ids if (watch := self._watches.get(id)) is not None]
        names = [keys.hitl_request(watch.request_id) for _, watch in polled]
        names += [keys.hitl_signal(session_id) for session_id, _ in polled]
        values = await self._connection.get_many(names)
        requests, signals = values[: len(polled)], values[len(polled) :]
        for (session_id, watch), request, signal in zip(polled, requests, signals, strict=True):
            if self._watches.get(session_id) is watch and not watch.already_seen(request, signal):
                if self._decides_nothing(watch, request, signal):
                    watch.seen_request_hash = hash(request)
                else:
                    self._on_news(session_id)

    def _decides_nothing(self, watch: _Watch, raw: bytes | None, signal: bytes | None) -> bool:
        """Whether the only news is a request that is pending and shows what it showed when it was opened."""
        if raw is None or hash(signal) != watch.seen_signal_hash:
            return False
        request = self._requests.parse(watch.request_id, raw)
        return request is not None and request.is_intact and request.status is RequestStatus.PENDING
