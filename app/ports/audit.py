"""The record of decisions: what is recorded, the trail that records it, and where its entries are stored.

An entry holds names, digests and outcomes, and never a prompt, an argument, a result or a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

import msgspec

from app.ports.responses import AuditPage

SERVICE_TENANT = ""
"""The tenant of what belongs to no tenant: the start of a process."""


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", rename="camel", omit_defaults=True):
    """What is recorded. Its JSON has the kind, and the fields that are not at their default."""

    def to_json(self) -> bytes:
        """Return the event as JSON. A text that is no valid Unicode loses the characters that are not."""
        try:
            return msgspec.json.encode(self)
        except UnicodeEncodeError:
            fields = {name: _valid(getattr(self, name)) for name in self.__struct_fields__}
            return msgspec.json.encode(type(self)(**fields))


class PolicyLoaded(AuditEvent, frozen=True, tag="policy"):
    """The first entry of each chain. `digest` is that of the settings in `names`; it changes when one of them does."""

    version: str
    digest: str
    names: tuple[str, ...]
    approval_required: tuple[str, ...] = ()


class ChainContinued(AuditEvent, frozen=True, tag="chain.continued"):
    """This chain continues another one of its node, which could not be appended to any more."""

    chain: str
    sequence: int
    hash: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

    @classmethod
    def parse(cls, body: bytes) -> Self | None:
        """Return the event of an entry's body; None where it is another event."""
        if b'"chain.continued"' not in body:
            return None
        try:
            return msgspec.json.decode(body, type=cls)
        except msgspec.DecodeError:
            return None  # an event that quotes these words


class RequestRefused(AuditEvent, frozen=True, tag="refused"):
    """A request of an authenticated caller was refused."""

    user: str
    status: int
    code: str
    method: str
    route: str
    role: str | None = None
    caller_type: str | None = None
    address: str | None = None
    forwarded_for: str | None = None
    trace_id: str | None = None


class RefusalsSuppressed(AuditEvent, frozen=True, tag="refused.more"):
    """So many further requests were refused within a minute. Each is in the log, but not in the record."""

    count: int


class RequestOpened(AuditEvent, frozen=True, tag="request.opened"):
    """A person is asked for an approval."""

    session: str
    request: str
    call: str
    tool: str
    user: str
    arguments_digest: str
    expires_at: int
    outcome_unknown: bool = False


class DecisionMade(AuditEvent, frozen=True, tag="decision"):
    """An authenticated caller has decided a request by HTTP. The decision counts: no other was earlier."""

    session: str
    request: str
    tool: str
    verdict: str
    user: str
    arguments_digest: str
    via: Literal["http"]
    role: str | None = None
    caller_type: str | None = None
    address: str | None = None
    forwarded_for: str | None = None
    edited: bool = False
    skip: bool = False


AppliedVerdict = Literal["approved", "rejected", "expired"]
ToolOutcome = Literal["completed", "failed", "cancelled", "refused"]


class DecisionApplied(AuditEvent, frozen=True, tag="decision.applied"):
    """A run continues with a decision, or because nobody decided in time.

    `user` is the decider as the stored request names them, and `via` is the way by which the decision came; both are
    None where nobody decided. A decision that came by HTTP has a `decision` entry too.
    """

    session: str
    request: str
    tool: str
    verdict: AppliedVerdict
    arguments_digest: str
    user: str | None = None
    via: Literal["http", "redis"] | None = None
    edited: bool = False
    skip: bool = False


class ToolStarted(AuditEvent, frozen=True, tag="tool.started"):
    """A tool is about to run. `request` is the approval request that a person has granted, if one was needed."""

    session: str
    call: str
    tool: str
    user: str
    arguments_digest: str
    request: str | None = None
    decided_by: str | None = None
    edited: bool = False


class ToolEnded(AuditEvent, frozen=True, tag="tool.ended"):
    """A tool has ended. `refused`: it was not run, because the call was not permitted."""

    session: str
    call: str
    tool: str
    outcome: ToolOutcome


class ErasureStarted(AuditEvent, frozen=True, tag="erasure.started"):
    """An operator removes what is stored of a person: `user`. Nothing of it was removed before this entry is stored.

    With `cancel` the runs that have not ended are cancelled first.
    """

    user: str
    by: Literal["operator"]
    via: Literal["cli"]
    cancel: bool = False


class PersonErased(AuditEvent, frozen=True, tag="erased"):
    """An erasure has ended. `removed` has how many things of each kind were removed, and nothing of their content.

    `interrupted`: it did not get to its end; a repetition has entries of its own.
    """

    user: str
    removed: dict[str, int]
    by: Literal["operator"]
    via: Literal["cli"]
    interrupted: bool = False


class AuthenticationFailed(AuditEvent, frozen=True, tag="authentication.failed"):
    """A request without a valid token. Nothing of the token is known to be true, so it has no user and no tenant."""

    at: int
    code: str
    cause: str
    method: str
    route: str
    address: str | None = None
    forwarded_for: str | None = None
    token_digest: str | None = None


class FailuresSuppressed(AuditEvent, frozen=True, tag="authentication.more"):
    """So many further failures of authentication happened at this time; the record is bounded."""

    at: int
    count: int


class AuditTrail(Protocol):
    """Appends to the record, in the order of the calls for each tenant. Nothing here raises while storage is away."""

    def record(self, tenant_id: str, event: AuditEvent) -> None:
        """Append soon, and keep trying while storage is unavailable."""
        ...

    async def write(self, tenant_id: str, event: AuditEvent) -> None:
        """Append and return when it is stored, however long storage is unavailable. What was recorded before for this
        tenant is stored then, too. A cancelled call may have stored its event all the same."""
        ...

    def record_refusal(self, tenant_id: str, event: RequestRefused) -> None:
        """Append a refusal; of many in one minute only their number."""
        ...

    def record_failure(self, failure: AuthenticationFailed) -> None:
        """Add a failed authentication to the bounded record of these."""
        ...


class AuditPages(Protocol):
    """Shows the record to auditors."""

    async def page(
        self, tenant_id: str, *, cursor: str | None, limit: int, kind: str | None = None, session_id: str | None = None
    ) -> AuditPage:
        """Return entries of a tenant, newest first, and the cursor of the next page unless this is the last one.

        A page may have fewer entries than `limit` where most have another kind or session. Raises `FieldInvalid` for a
        cursor that is none, and `StorageUnavailable`.
        """
        ...


# --- entries as they are stored ---------------------------------------------------------------------------------------


class ChainName(NamedTuple):
    """One chain: a tenant's entries that one node has written."""

    tenant_id: str
    name: str


class StoredEntry(NamedTuple):
    """One entry as stored. `place` is where it stands: the time in ms and the sequence that its key or row says.

    `header` is what the chain adds to the event (`app/audit/chain.py`), `body` the event as JSON, `mac` seals both.
    """

    place: tuple[int, int]
    header: bytes
    body: bytes
    mac: bytes


class UnlistedChain(NamedTuple):
    """A chain that is stored, but that the list of its tenant does not name. `last` is the place of its last entry.

    The tenant is None where none of those that were asked about has it.
    """

    tenant_id: str | None
    name: str
    last: tuple[int, int]


class SealedFailure(NamedTuple):
    """One entry of the bounded record of failed authentications: the event as JSON, and its MAC."""

    body: bytes
    mac: bytes


@dataclass(frozen=True, slots=True)
class ChainBatch:
    """New entries of one chain, in order."""

    chain: ChainName
    entries: Sequence[StoredEntry]


AppendResult = Literal["stored", "blocked"] | Exception
"""`blocked`: something else is in the place of these entries, so the chain cannot be continued. An exception: nothing
was stored, or the answer was lost, and the same batch can be sent again."""


class AuditReader(Protocol):
    """Reads chains. Every method raises `StorageUnavailable`."""

    async def list_tenants(self) -> list[str]:
        """Return the tenants that have a chain."""
        ...

    async def list_chains(self, tenant_id: str) -> list[tuple[str, int]]:
        """Return the names of a tenant's chains with the time of their last write (ms), the newest first."""
        ...

    async def read(self, chain: ChainName, after: tuple[int, int], limit: int) -> list[StoredEntry]:
        """Return the entries behind this place, in the order in which they stand; `(0, 0)` for the first ones."""
        ...

    async def read_back(self, chain: ChainName, until: tuple[int, int | None], limit: int) -> list[StoredEntry]:
        """Return the entries before this place, the last one first. The place without a sequence includes its ms."""
        ...


class AuditStore(AuditReader, Protocol):
    """The chains in the store that all nodes share."""

    async def append(self, batches: Sequence[ChainBatch]) -> list[AppendResult]:
        """Append to each chain all of its entries or none. Repeating a batch stores it once. Never raises."""
        ...

    async def expire(self, chains: Sequence[ChainName], before_ms: int) -> None:
        """Remove the entries of these chains that are older. Raises `StorageUnavailable`."""
        ...

    async def find_unlisted(self, tenants: Iterable[str], oldest_ms: int) -> list[UnlistedChain]:
        """Look at all that is stored for chains with entries since this time that no list names. `tenants` are those
        that may have one beside the listed ones. Raises `StorageUnavailable`."""
        ...

    async def add_failures(self, failures: Sequence[SealedFailure]) -> None:
        """Add to the bounded record, from which the oldest are removed. Raises `StorageUnavailable`."""
        ...

    async def read_failures(self, limit: int) -> list[SealedFailure]:
        """Return the newest failures, the last one first. Raises `StorageUnavailable`."""
        ...


class AuditArchive(AuditReader, Protocol):
    """A copy of the chains in a database that the nodes only add to."""

    async def last_places(self) -> dict[ChainName, tuple[int, int]]:
        """Return the place of each chain's last entry. Raises `StorageUnavailable`."""
        ...

    async def add(self, chain: ChainName, entries: Sequence[StoredEntry]) -> None:
        """Add entries; one whose sequence is there already is left as it is. Raises `StorageUnavailable`."""
        ...

    async def expire(self, before_ms: int) -> None:
        """Remove the entries that are older. Raises `StorageUnavailable`."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


def _valid(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
