"""What the service needs of the world, as promises. Adapters keep them; `runs` knows nothing else.

Adapters translate their drivers' errors: `StorageUnavailable`, `RunLost`, `ModelError`, `ToolError` are all that
comes through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel

from statemachine.checkpoint import Approval, Checkpoint, JsonObject, ToolCall
from statemachine.decisions import Decision
from statemachine.messages import RequestedCall, ToolFinished
from statemachine.turn import ModelDelta


class Clock(Protocol):
    """The only source of wall-clock time and the only thing that waits for it; frozen in tests."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        """Wait for the event, at most until the absolute time (Unix s), when it may be set as well: the caller looks at
        what has come."""
        ...


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose token was checked."""

    user_id: str
    tenant_id: str
    role: str | None = None
    email: str | None = None
    token: str = field(default="", repr=False, compare=False)
    expires_at: float = field(default=0.0, compare=False)


# --- journal ----------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One frame of a run's log: its id (ms since the epoch, §3) and its encoded body."""

    id: int
    body: bytes


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known of a run without loading its checkpoint."""

    session_id: str
    user_id: str
    tenant_id: str
    prompt_digest: str
    owner: str
    epoch: int
    is_final: bool
    task_id: str | None = None


@dataclass(slots=True)
class RunLock:
    """A node's right to write one run. `epoch` fences it, `sequence` makes a repeated write recognisable.

    `created_at` (Unix s) is the run's place among those of its node. `cancelled_by` is set by the commit that finds
    that somebody asked for the run's end.
    """

    session_id: str
    epoch: int
    created_at: float
    sequence: int = 0
    cancelled_by: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a list of runs; None stands for one whose data is gone or cannot be read."""

    checkpoints: list[Checkpoint | None]
    has_more: bool


class Tail(Protocol):
    """One reader of one run's log: a cursor. It has no task and no queue, so a slow one costs nothing."""

    @property
    def is_over(self) -> bool:
        """The process drains: what there is may still be read, the rest elsewhere."""
        ...

    def at_hand(self) -> list[Entry] | None:
        """The next entries in order, as far as this process has them; none: there is no news, and the reader will be
        woken. None: that must be looked up."""
        ...

    async def look(self) -> list[Entry]:
        """The next entries as storage has them; none: there is no news, or storage is away; the reader will be woken.

        Of an ended run that has been read to its end: the end marker again. Raises `RunLost` where the log is gone.
        """
        ...

    def close(self) -> None:
        """Be woken no more."""
        ...


class Journal(Protocol):
    """The event log and the checkpoint of every run, committed together."""

    async def create(
        self,
        checkpoint: Checkpoint,
        bodies: Sequence[bytes],
        *,
        prompt_digest: str,
        idempotency_key: str | None,
        thread_id: str | None,
        ticket: Ticket | None = None,
    ) -> RunLock | str:
        """Open a run with its first events. A `str` is the session that the idempotency key opened before.

        `thread_id` is set where the run belongs to a conversation whose earlier turns count. With a `ticket` the run is
        listed in the `Outbox`.
        Raises `RunExists`, `TooManyRuns`, `FieldInvalid` (the key was used for another prompt), `StorageUnavailable`.
        """
        ...

    async def opened_by(self, tenant_id: str, user_id: str, idempotency_key: str, prompt_digest: str) -> str | None:
        """The session that this key opened. Raises `FieldInvalid`: it was used for another prompt."""
        ...

    async def commit(self, lock: RunLock, bodies: Sequence[bytes], checkpoint: Checkpoint | None, now: float) -> None:
        """Append the events and save the checkpoint in one atomic, fenced write, then wake the readers.

        Retried for as long as storage is away; stored at most once. Raises `RunLost`, or `RunDamaged` where storage
        has lost earlier writes of the run: it can still be ended.
        """
        ...

    async def forbid(self, session_id: str) -> bool:
        """Let a run that does not exist never come to be. False: it exists. Retried for as long as storage is away."""
        ...

    async def load(self, session_id: str) -> Checkpoint | None:
        """The saved checkpoint; None where there is none (any more)."""
        ...

    async def record(self, session_id: str) -> RunRecord | None: ...

    async def newest(self, tenant_id: str, user_id: str, prompt_digest: str | None = None) -> RunRecord | None:
        """The caller's newest run, with this prompt and context where a digest is given."""
        ...

    async def holding(self, tenant_id: str, user_id: str, event_id: int) -> RunRecord | None:
        """The caller's run whose log holds exactly this id."""
        ...

    def tail(self, session_id: str, after: int, woken: Callable[[], None]) -> Tail:
        """A reader of every entry with an id above `after`; `woken` is called whenever there may be news for it."""
        ...

    async def thread(self, tenant_id: str, user_id: str, thread_id: str) -> list[Checkpoint]:
        """The newest runs of a conversation, oldest first; being looked at keeps them for another retention time."""
        ...

    async def listed(self, tenant_id: str, user_id: str | None, offset: int, limit: int) -> Page:
        """Some of a user's runs, or of the whole tenant's (`user_id` None), newest first."""
        ...

    async def streamed(self, session_id: str) -> str:
        """The answer text of the model turn under way, as the log holds it."""
        ...

    def adopt(self, session_id: str) -> None:
        """This node writes the run from now on."""
        ...

    def release(self, session_id: str) -> None:
        """This node writes the run no more."""
        ...

    async def ping(self) -> None:
        """Raises `StorageUnavailable` where storage does not answer in time."""
        ...


# --- decisions --------------------------------------------------------------------------------------------------------


class RequestStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """`hitl:request:{requestId}` (§5). `raw` is the stored JSON, as other systems see it."""

    request_id: str
    session_id: str
    user_id: str
    tenant_id: str
    action_type: str
    arguments: JsonObject
    status: RequestStatus
    expires_at: float
    reason: str | None
    raw: str

    @property
    def is_decided(self) -> bool:
        """Whether a person's decision is recorded in it."""
        return self.status in (RequestStatus.APPROVED, RequestStatus.REJECTED)


class DecisionBus(Protocol):
    """Approval requests out, people's decisions in (§5). Of a run that waits only the ids are kept."""

    on_news: Callable[[str], None]

    @property
    def hints(self) -> list[str]:
        """What an operator should put right about those who send decisions; empty where all is well."""
        ...

    async def open(
        self, checkpoint: Checkpoint, approval: Approval, deadline_at: float, *, task_id: str | None = None
    ) -> None:
        """Save the request and hold the subscription, acknowledged, before anyone hears of it."""
        ...

    async def watch(self, session_id: str, request_id: str) -> None:
        """Hold the subscription, acknowledged, and look at the keys then and now and again, until `forget`.

        `on_news` is called with the session for whatever may decide the request.
        """
        ...

    def has_news(self, session_id: str) -> bool:
        """Whether there is something that `look` was not yet asked about."""
        ...

    async def saved(self, session_id: str) -> Checkpoint | None:
        """The checkpoint of a watched run; read together with the keys that the next `look` judges."""
        ...

    async def look(self, session_id: str, until: float, accept: Callable[[Decision], None]) -> Decision | None:
        """The decision in what was heard or is stored, if it came before `until` (Unix s). With it the watch ends.

        `accept` raises `SignalIgnored` for a decision that cannot be followed; it is counted and waited on.
        """
        ...

    async def close(self, request_id: str, status: RequestStatus, deadline_at: float | None = None) -> Decision | None:
        """Close a request that is still pending; the decision that was faster (and in time), if there was one."""
        ...

    def forget(self, session_id: str) -> None:
        """Watch this session no more."""
        ...

    async def request(self, request_id: str) -> ApprovalRequest | None: ...

    async def decide(self, request: ApprovalRequest, decision: Decision) -> tuple[ApprovalRequest, bool]:
        """Record the first decision and publish it. The request with the decision that counts, and whether it is this.

        After the deadline nothing is recorded and the status is `expired`.
        """
        ...

    async def signal(self, session_id: str) -> str | None:
        """The last signal of a session, as stored."""
        ...

    async def session_owner(self, session_id: str) -> tuple[str, str] | None:
        """`(tenant_id, user_id)` of a session that asked for an approval."""
        ...


# --- nodes ------------------------------------------------------------------------------------------------------------


Claim = Callable[[], Awaitable[RunLock | None]]
"""Take a run over; None: somebody was faster, or it has ended."""


class Nodes(Protocol):
    """Which node writes which run."""

    on_orphan: Callable[[str, Claim], Awaitable[None]]
    on_lost: Callable[[], None]
    on_cancel: Callable[[str, str], None]

    @property
    def is_alive(self) -> bool:
        """Whether this node's lease holds: only then may it start a run."""
        ...

    async def cancel(self, session_id: str, cancelled_by: str) -> bool:
        """Ask for the end of a run, wherever it is. False: it has ended already, or is unknown."""
        ...

    async def release(self, locks: Sequence[RunLock]) -> None:
        """Give up runs that have reached a committed step: another node takes them over without waiting."""
        ...


# --- tasks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is kept of a run's caller until its task knows of its end: sealed, and no longer than his token is good.

    `look_at`: when the outbox offers the run for the first time. All times are Unix seconds.
    """

    sealed: str
    expires_at: float
    look_at: float


class TaskBoard(Protocol):
    """Where others follow a run as a task (§6). No method waits: the board is told, and tells in its own time."""

    def ticket(self, session_id: str, principal: Principal) -> Ticket:
        """What to keep with a run that this caller starts."""
        ...

    def moved(self, checkpoint: Checkpoint) -> None:
        """A run that this node carries stands here now: after its begin, after a takeover, after every commit."""
        ...

    def left(self, session_id: str) -> None:
        """This node carries the run no more, and it has not ended."""
        ...

    def task_id(self, session_id: str) -> str | None:
        """The task of a run that is carried here, where it is known by now."""
        ...


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What storage knows of a run and its task. Not `is_listed`: there is nothing more to tell."""

    checkpoint: Checkpoint
    is_final: bool
    task_id: str | None
    is_started: bool
    is_listed: bool
    sealed: str | None


class Outbox(Protocol):
    """The runs whose task may not know of their end yet, and what is kept to tell it. Raises `StorageUnavailable`."""

    async def load(self, session_id: str) -> TaskRecord | None:
        """None: the run is gone. Raises `CheckpointTooNew`, `CheckpointUnreadable`."""
        ...

    async def keep_task(self, session_id: str, task_id: str) -> str:
        """The run's task from now on; where it has one already, that one."""
        ...

    async def keep_started(self, session_id: str) -> None: ...

    async def link(self, task_id: str, request_id: str) -> None:
        """Let the approval request be found by the task, and the task by a request that is still pending (§5)."""
        ...

    async def hold(self, session_ids: Sequence[str], until: float) -> None:
        """`due` does not offer these before that time (Unix s)."""
        ...

    async def due(self, now: float, until: float, limit: int) -> list[str]:
        """Sessions that nobody holds, oldest first; they are held from here on."""
        ...

    async def done(self, session_id: str) -> None:
        """There is nothing more to tell, or nobody to tell it for: forget the ticket."""
        ...


# --- model ------------------------------------------------------------------------------------------------------------


class Model(Protocol):
    """The language model."""

    @property
    def name(self) -> str: ...

    def stream(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject]
    ) -> AbstractAsyncContextManager[AsyncIterator[ModelDelta]]:
        """One turn as it arrives: what came together is one. Leaving the context ends it. Raises `ModelError`."""
        ...


# --- tools ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolContext:
    """For whom a tool runs. `idempotency_key` is the same each time the same call is tried."""

    session_id: str
    tenant_id: str
    user_id: str
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class Cited:
    """A tool's result together with what it rests on: small JSON objects, shown as `sources` of a thought (§2.2)."""

    result: Any
    sources: tuple[JsonObject, ...]


class Tool(Protocol):
    """One thing the model may ask for. `arguments` is the pydantic model of its arguments, its schema is shown.

    The class docstring's first paragraph is what the model reads. `SecretStr` arguments are kept out of events.
    """

    name: str
    title: str
    arguments: type[BaseModel]
    needs_approval: bool
    idempotent: bool
    timeout_seconds: float | None

    def question(self, arguments: Any) -> str:
        """What the person is asked before it runs, e.g. `이메일을 발송하시겠습니까?`."""
        ...

    async def run(self, arguments: Any, context: ToolContext) -> Any:
        """Do it; a JSON-ready result, or one that is `Cited`. Raises `ToolError`, whose words the model reads."""
        ...


class Toolbox(Protocol):
    """All tools, behind one choke point."""

    def schemas(self) -> list[JsonObject]:
        """What the model is offered: the `tools` of a chat completion."""
        ...

    def resolve(self, call_id: str, name: str, raw_arguments: str) -> RequestedCall:
        """What the model asked for, checked; a call that cannot be run says why."""
        ...

    def validate_edit(self, name: str, arguments: JsonObject, original: JsonObject) -> tuple[JsonObject, JsonObject]:
        """An approver's edit: the arguments, and as they may be shown. Raises `FieldInvalid`."""
        ...

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolFinished:
        """Run one started call; a risky one only with the grant for exactly these arguments."""
        ...
