"""Approval requests and people's decisions in Redis (§5): `ports.DecisionBus`.

A published signal is only a wake-up. What counts is `hitl:request:`: the first decision that gets in there, whether by
HTTP, by the Main Service or by a bare signal, is the decision.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from app.errors import StorageUnavailable
from app.ports.clock import Clock
from app.ports.decisions import ApprovalRequest, RequestStatus
from app.redis import keys, scripts, tasks
from app.redis.sender_diagnostics import SenderDiagnostics
from app.redis.wire.connection import Command, Connection
from app.redis.wire.pubsub import PubSub
from statemachine.checkpoint import Approval, Checkpoint, JsonObject
from statemachine.decisions import Decision, SignalForOtherRequest, SignalIgnored, has_request_id, parse_signal
from statemachine.frames import compact_json

REQUEST_TTL_SECONDS = 30 * 60
SESSION_TTL_SECONDS = 60 * 60
SIGNAL_TTL_SECONDS = 5 * 60
_LOOK_SECONDS = 2.0
_LOOKS, _TURNS = 500, 5
"""So many at a time, or the fifth part of them: the more runs wait, the rarer each is looked at, but every 10 s."""
_BATCH = 100
_STATUSES = {status.value: status for status in RequestStatus}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Said:
    """What may hold a decision; `heard_at` (Unix s) of a live message, None for what is stored."""

    raw: bytes
    heard_at: float | None = None


class _Watch:
    """One open request that a run of this process waits for.

    `found` is what `saved` read of request and signal, `has_news` whether anything came since the last look.
    `vain_request` and `vain_signal` tell of stored values that decide nothing: those are judged, and counted, once.
    """

    __slots__ = ("found", "has_news", "heard", "request_id", "vain_request", "vain_signal")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.found: tuple[bytes | None, bytes | None] | None = None
        self.has_news = False
        self.heard: tuple[_Said, ...] = ()
        self.vain_request = self.vain_signal = hash(None)

    def is_vain(self, request: bytes | None, signal: bytes | None) -> bool:
        """Whether this was stored at the last look, too. A request that is pending needs no other."""
        if hash(signal) != self.vain_signal:
            return False
        if hash(request) != self.vain_request:
            if request is None or _json_object(request).get("status") != RequestStatus.PENDING:
                return False
            self.vain_request = hash(request)
        return True


class RedisDecisions:
    """`ignored_signals` counts what was heard and decided nothing, by reason."""

    def __init__(self, connection: Connection, pubsub: PubSub, clock: Clock) -> None:
        self._connection = connection
        self._pubsub = pubsub
        self._clock = clock
        self._senders = SenderDiagnostics(connection, clock)
        self._swap = connection.register(scripts.SWAP)
        self._watches: dict[str, _Watch] = {}
        self._unseen: list[str] = []
        self._has_unseen = asyncio.Event()
        self._lookers: list[asyncio.Task[None]] = []
        self.ignored_signals = 0
        self.last_ignored: str | None = None
        self.on_news: Callable[[str], None]

    async def start(self) -> None:
        self._lookers = [asyncio.create_task(look()) for look in (self._look_at_new_ones, self._look_now_and_again)]

    async def stop(self) -> None:
        for looker in self._lookers:
            looker.cancel()
        await asyncio.gather(*self._lookers, return_exceptions=True)

    @property
    def sender_hints(self) -> list[str]:
        return self._senders.hints

    # --- for the run --------------------------------------------------------------------------------------------------

    async def open_request(
        self, checkpoint: Checkpoint, approval: Approval, deadline_at: float, *, task_id: str | None = None
    ) -> None:
        request, session_id = checkpoint.request, checkpoint.session_id
        call = checkpoint.call(approval.call_id)
        stored = {
            "requestId": approval.request_id,
            "sessionId": session_id,
            "userId": request.user_id,
            "tenantId": request.tenant_id,
            "actionType": approval.action_type,
            "message": approval.message,
            "context": call.shown_arguments if call else {},
            "status": RequestStatus.PENDING.value,
            "createdAt": int(checkpoint.updated_at * 1000),
            "expiresAt": int(deadline_at),
            "expiresAtMillis": int(deadline_at * 1000),
        }
        if task_id is not None:
            stored["taskId"] = task_id
        owner = {name: stored[name] for name in ("sessionId", "requestId", "userId", "tenantId")}
        stale, *_ = await self._asked(
            ("GET", keys.hitl_signal(session_id)),
            ("SET", keys.hitl_request(approval.request_id), compact_json(stored), "EX", REQUEST_TTL_SECONDS),
            ("SET", keys.hitl_session(session_id), compact_json(owner), "EX", SESSION_TTL_SECONDS),
            *([] if task_id is None else [tasks.link_command(task_id, approval.request_id)]),
        )
        # A signal without a `requestId` was for an earlier request; it must not decide this one.
        if stale is not None and not has_request_id(stale):
            await self._connection.call("DEL", keys.hitl_signal(session_id))
        await self.watch(session_id, approval.request_id)

    async def _asked(self, *commands: Command) -> list[Any]:
        """All answers, in one round trip. Raises `StorageUnavailable`."""
        answers = await self._connection.many(commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise StorageUnavailable(str(answer)) from answer
        return answers

    async def watch(self, session_id: str, request_id: str) -> None:
        watch = self._watches.get(session_id)
        if watch is None or watch.request_id != request_id:
            self._watches[session_id] = _Watch(request_id)
        await self._pubsub.subscribe(keys.hitl_channel(session_id), partial(self._hear, session_id))

    def unwatch(self, session_id: str) -> None:
        if self._watches.pop(session_id, None) is not None:
            self._pubsub.unsubscribe(keys.hitl_channel(session_id))

    def _hear(self, session_id: str, message: bytes | None) -> None:
        """It counts from now, however long storage is away before it can be looked at."""
        watch = self._watches.get(session_id)
        if watch is None:
            return
        if message is None:  # the subscription is new: look at the keys
            self._unseen.append(session_id)
            self._has_unseen.set()
        else:
            watch.heard += (_Said(message, self._clock.now()),)
            self._tell(session_id, watch)

    def _tell(self, session_id: str, watch: _Watch) -> None:
        watch.has_news = True
        self.on_news(session_id)

    def has_news(self, session_id: str) -> bool:
        watch = self._watches.get(session_id)
        return watch is None or watch.has_news or watch.found is not None

    async def saved(self, session_id: str) -> Checkpoint | None:
        watch = self._watches[session_id]
        request, signal, raw = await self._values(watch, session_id, keys.checkpoint(session_id))
        watch.found = request, signal
        return None if raw is None else Checkpoint.from_json(raw)

    async def _values(self, watch: _Watch, session_id: str, *more: str) -> list[bytes | None]:
        """What is stored now. Whatever comes from here on is news."""
        watch.has_news = False
        try:
            return await self._connection.values(
                [keys.hitl_request(watch.request_id), keys.hitl_signal(session_id), *more]
            )
        except StorageUnavailable:
            watch.has_news = True
            raise

    async def look(self, session_id: str, until: float, accept: Callable[[Decision], None]) -> Decision | None:
        watch = self._watches[session_id]
        found, watch.found = watch.found, None
        request, signal = found or await self._values(watch, session_id)
        heard = watch.heard
        try:
            decision = await self._decided(watch, request, signal, until, accept)
        except StorageUnavailable:
            watch.has_news = True
            raise
        watch.heard = watch.heard[len(heard) :]  # only now: storage may have been away in the middle
        if decision is not None:
            self.unwatch(session_id)
        return decision

    async def _decided(
        self,
        watch: _Watch,
        raw: bytes | None,
        signal: bytes | None,
        until: float,
        accept: Callable[[Decision], None],
    ) -> Decision | None:
        """The decision, if the request, what was heard or the stored signal hold one that counts."""
        request = self._readable(watch.request_id, raw)
        said = [*watch.heard, *self._stored(watch, signal)]
        if request is not None and request.is_decided:
            said = [] if hash(raw) == watch.vain_request else [_Said(request.raw.encode())]
        for each in said:
            decision = self._judged(watch.request_id, each, until, accept)
            if decision is None:
                continue
            if request is not None and not request.is_decided:
                settled, is_ours = await self._settle(request, decision)
                if settled.is_decided and not is_ours:  # it counts, whether it can be followed or not
                    return self._judged(watch.request_id, _Said(settled.raw.encode()), until, accept)
            return decision
        watch.vain_request, watch.vain_signal = hash(raw), hash(signal)
        return None

    def _stored(self, watch: _Watch, signal: bytes | None) -> list[_Said]:
        return [_Said(signal)] if signal is not None and hash(signal) != watch.vain_signal else []

    def _judged(
        self, request_id: str, said: _Said, until: float, accept: Callable[[Decision], None]
    ) -> Decision | None:
        """The decision that it holds, if it came in time and can be followed."""
        is_live = said.heard_at is not None
        heard_at = self._clock.now() if said.heard_at is None else said.heard_at
        self._senders.notice(said.raw, "A signal" if is_live else "A stored signal")
        try:
            decision = parse_signal(said.raw, request_id=request_id, received_at=heard_at, is_live=is_live)
            if decision.decided_at >= until:
                raise SignalIgnored("it came after the deadline")
            accept(decision)
        except SignalIgnored as error:
            if is_live or not isinstance(error, SignalForOtherRequest):
                self._ignore(request_id, str(error))
            return None
        return decision

    def _ignore(self, request_id: str, reason: str) -> None:
        self.ignored_signals += 1
        self.last_ignored = reason
        log.warning("signal.ignored", request_id=request_id, reason=reason)

    async def close_request(
        self, request_id: str, status: RequestStatus, deadline_at: float | None = None
    ) -> Decision | None:
        """Close a request that is still pending; the decision that was faster (and in time), if there was one."""
        request = await self.get_request(request_id)
        while request is not None and request.status is RequestStatus.PENDING:
            wanted = compact_json({**_json_object(request.raw), "status": status.value})
            request = await self._swapped(request, wanted)
            if request is None or request.raw == wanted:
                return None
        decision = _decision_of(request, self._clock.now()) if request is not None else None
        in_time = decision is not None and (deadline_at is None or decision.decided_at < deadline_at)
        return decision if in_time else None

    async def _look_at_new_ones(self) -> None:
        """Whose subscription is new: what was published before is lost. All of the same moment together."""
        while True:
            await self._has_unseen.wait()
            self._has_unseen.clear()
            unseen, self._unseen = self._unseen, []
            for start in range(0, len(unseen), _BATCH):
                some = unseen[start : start + _BATCH]
                try:
                    await self._look_at(some)
                except StorageUnavailable:  # each for itself, with patience
                    for session_id in some:
                        if (watch := self._watches.get(session_id)) is not None:
                            self._tell(session_id, watch)

    async def _look_now_and_again(self) -> None:
        """A message may have been lost, or a decider may not publish at all."""
        await self._senders.look()
        reached = 0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            waiting = list(self._watches)
            reached = reached if reached < len(waiting) else 0
            until = reached + max(_LOOKS, math.ceil(len(waiting) / _TURNS))
            with suppress(StorageUnavailable):
                while reached < min(until, len(waiting)):
                    await self._look_at(waiting[reached : reached + _BATCH])
                    reached += _BATCH

    async def _look_at(self, session_ids: Sequence[str]) -> None:
        """Tell of those whose keys show something."""
        looked_at = [(id, watch) for id in session_ids if (watch := self._watches.get(id)) is not None]
        names = [keys.hitl_request(watch.request_id) for _, watch in looked_at]
        names += [keys.hitl_signal(session_id) for session_id, _ in looked_at]
        values = await self._connection.values(names)
        requests, signals = values[: len(looked_at)], values[len(looked_at) :]
        for (session_id, watch), request, signal in zip(looked_at, requests, signals, strict=True):
            if self._watches.get(session_id) is watch and not watch.is_vain(request, signal):
                self._tell(session_id, watch)

    # --- for deciders -------------------------------------------------------------------------------------------------

    async def get_request(self, request_id: str) -> ApprovalRequest | None:
        (raw,) = await self._connection.values([keys.hitl_request(request_id)])
        return self._readable(request_id, raw)

    def _readable(self, request_id: str, raw: bytes | None) -> ApprovalRequest | None:
        """A request that somebody overwrote with what is no JSON is as good as gone; its deadline is not."""
        if raw is None:
            return None
        self._senders.notice(raw, "An approval request")
        stored = _json_object(raw)
        return _request(request_id, raw, stored) if stored else None

    async def decide(self, request: ApprovalRequest, decision: Decision) -> tuple[ApprovalRequest, bool]:
        settled, is_first = await self._settle(request, decision)
        if is_first:
            await self._publish(settled, decision)
        return settled, is_first

    async def _settle(self, request: ApprovalRequest, decision: Decision) -> tuple[ApprovalRequest, bool]:
        """Compare-and-set, until the request holds a decision: this one (True) or an earlier.

        Two decisions may be alike to the millisecond, so each has an id of its own.
        """
        decision_id = secrets.token_hex(8)
        while request.status is RequestStatus.PENDING:
            if decision.decided_at >= request.expires_at:
                return _with_status(request, RequestStatus.EXPIRED), False
            wanted = _decided(request.raw, decision, decision_id)
            swapped = await self._swapped(request, wanted)
            if swapped is None:
                return _with_status(request, RequestStatus.EXPIRED), False
            if swapped.raw == wanted:
                return swapped, True
            request = swapped
        return request, False

    async def _swapped(self, request: ApprovalRequest, wanted: str) -> ApprovalRequest | None:
        key = keys.hitl_request(request.request_id)
        raw = await self._connection.script(self._swap, [key], [request.raw, wanted])
        return self._readable(request.request_id, raw)

    async def _publish(self, request: ApprovalRequest, decision: Decision) -> None:
        approved = decision.verdict == "approved"
        signal: JsonObject = {
            "type": "approval" if approved else "rejection",
            "requestId": request.request_id,
            "status": decision.verdict,
            "timestamp": int(decision.decided_at),
        }
        if decision.reason is not None:
            signal["reason"] = decision.reason
        raw = compact_json(signal)
        await self._connection.many(
            [
                ("SET", keys.hitl_signal(request.session_id), raw, "EX", SIGNAL_TTL_SECONDS),
                ("PUBLISH", keys.hitl_channel(request.session_id), raw),
            ]
        )

    async def get_signal(self, session_id: str) -> str | None:
        (raw,) = await self._connection.values([keys.hitl_signal(session_id)])
        if raw is None:
            return None
        self._senders.notice(raw, "A stored signal")
        return raw.decode("utf-8", "replace")

    async def get_session_owner(self, session_id: str) -> tuple[str, str] | None:
        (raw,) = await self._connection.values([keys.hitl_session(session_id)])
        if raw is None:
            return None
        stored = _json_object(raw)
        return str(stored.get("tenantId")), str(stored.get("userId"))


def _decided(raw: str, decision: Decision, decision_id: str) -> str:
    """The request as its decider leaves it (§5)."""
    by, at = ("approvedBy", "approvedAt") if decision.verdict == "approved" else ("rejectedBy", "rejectedAt")
    stored = _json_object(raw)
    stored |= {"status": decision.verdict, at: int(decision.decided_at * 1000), "decisionId": decision_id}
    for name, value in ((by, decision.decided_by), ("reason", decision.reason), ("params", decision.arguments)):
        if value is not None:
            stored[name] = value
    if decision.skip:
        stored["skip"] = True
    return compact_json(stored)


def _request(request_id: str, raw: bytes | str, stored: JsonObject) -> ApprovalRequest:
    status = str(stored.get("status")).lower()
    context = stored.get("context")
    return ApprovalRequest(
        request_id=request_id,
        session_id=str(stored.get("sessionId", "")),
        user_id=str(stored.get("userId", "")),
        tenant_id=str(stored.get("tenantId", "")),
        action_type=str(stored.get("actionType", "")),
        arguments=context if isinstance(context, dict) else {},
        status=_STATUSES.get(status, RequestStatus.PENDING),
        expires_at=_expiry(stored),
        reason=stored["reason"] if isinstance(stored.get("reason"), str) else None,
        raw=raw if isinstance(raw, str) else raw.decode("utf-8", "replace"),
    )


def _expiry(stored: JsonObject) -> float:
    """Unix s; never, where another system wrote the request without it."""
    precise, seconds = stored.get("expiresAtMillis"), stored.get("expiresAt")
    if isinstance(precise, int):
        return precise / 1000
    return float(seconds) if isinstance(seconds, (int, float)) else float("inf")


def _json_object(raw: bytes | str) -> dict[str, Any]:
    try:
        stored = json.loads(raw)
        if isinstance(stored, str):  # serialised twice, as some senders' signals are
            stored = json.loads(stored)
    except (ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _with_status(request: ApprovalRequest, status: RequestStatus) -> ApprovalRequest:
    return replace(request, status=status)


def _decision_of(request: ApprovalRequest, now: float) -> Decision | None:
    """The decision that a request holds, whoever wrote it there."""
    try:
        return parse_signal(request.raw, request_id=request.request_id, received_at=now, is_live=False)
    except SignalIgnored:
        return None
