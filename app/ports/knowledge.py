"""What the workspace tells Aura (§7), as terms and promises: events, where they are kept, how they are found.

The log is the truth and every process can read it; an index is made of it and can be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WorkspaceEvent:
    """One accepted domain event. `at` is its own time (Unix s); `topics` are the words its type is asked for by."""

    id: str
    tenant_id: str
    type: str
    topics: tuple[str, ...]
    user_id: str
    at: float
    title: str
    text: str

    @property
    def embedding_text(self) -> str:
        """What embeddings are made of."""
        return f"{self.title}\n{self.text}".strip()


@dataclass(frozen=True, slots=True)
class Vector:
    """An event's embedding by one model, quantised to a signed byte a dimension; no bytes: the model refuses it."""

    event_id: str
    model: str
    values: bytes


@dataclass(frozen=True, slots=True)
class KnowledgeEntry:
    """One entry of a tenant's log. `position` is `(ms, sequence)`; positions rise."""

    position: LogPosition
    entry: WorkspaceEvent | Vector


LogPosition = tuple[int, int]
START: LogPosition = (0, 0)


@dataclass(frozen=True, slots=True)
class Query:
    """`since` is Unix s; `types` are words of event types, any of which will do; none: every type."""

    text: str
    since: float | None = None
    types: tuple[str, ...] = ()
    limit: int = 5


@dataclass(frozen=True, slots=True)
class Hit:
    """An event that was found, and the part of its text that says why."""

    event: WorkspaceEvent
    excerpt: str


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`is_complete` is false where the newest events may be missing, `used_vectors` where vectors took part."""

    hits: tuple[Hit, ...]
    is_complete: bool = True
    used_vectors: bool = False


class WorkspaceSearch(Protocol):
    """What the agent may ask."""

    async def search(self, tenant_id: str, query: Query) -> SearchResult:
        """The tenant's own events that fit best, best first. Raises `StorageUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class LogSummary:
    """What a tenant's log holds; times are Unix s, None where it is empty."""

    tenant_id: str
    events: int
    vectors: int
    oldest: float | None
    newest: float | None
    bytes: int


class KnowledgeLog(Protocol):
    """The accepted events and their vectors, shared by all processes. Everything raises `StorageUnavailable`."""

    async def subscribe(self, heard: Callable[[bytes | None], None], changed: Callable[[str | None], None]) -> None:
        """Call `heard` with each message of the platform's channels, `changed` with the tenant whose log has grown.

        Either is called with None after each (re)subscription: something may have been missed.
        """
        ...

    async def accept(self, events: Sequence[WorkspaceEvent]) -> list[bool]:
        """Keep each event once, whoever tries; False for one that is there already. What is too old or too much goes.

        May be repeated.
        """
        ...

    async def save_vectors(self, tenant_id: str, vectors: Sequence[Vector]) -> None:
        """Keep the embeddings of events that are still there."""
        ...

    async def count_malformed(self, reasons: Sequence[tuple[str, str]]) -> None:
        """Count malformed messages, `(reason, digest)` each; one that several processes heard counts once."""
        ...

    async def malformed_counts(self) -> dict[str, int]:
        """How many messages were malformed, by reason."""
        ...

    async def list_tenants(self) -> list[str]: ...

    async def read(self, tenant_id: str, after: LogPosition, most: int) -> list[KnowledgeEntry]:
        """The entries after that position, in order."""
        ...

    async def first_position(self, tenant_id: str) -> LogPosition | None:
        """Everything before it is gone; None: all is."""
        ...

    async def generation(self) -> int:
        """An index of another generation must be made again."""
        ...

    async def start_generation(self) -> int:
        """Have all indexes made again; how many processes heard of it."""
        ...

    async def acquire_leadership(self, seconds: float) -> bool:
        """Whether this process, and no other, makes vectors for that long."""
        ...

    async def summary(self, tenant_id: str) -> LogSummary: ...


@dataclass(frozen=True, slots=True)
class MissingVector:
    """An event without a vector of the model that is in use."""

    tenant_id: str
    event_id: str
    embedding_text: str


class KnowledgeIndex(Protocol):
    """Full text and vectors of what the log holds, apart for each tenant. Everything raises `StorageUnavailable`."""

    async def open(self, generation: int) -> None:
        """Be ready; empty, unless what is there is of this generation."""
        ...

    async def close(self) -> None: ...

    async def position(self, tenant_id: str) -> LogPosition:
        """How far the tenant's log is in."""
        ...

    async def apply(self, tenant_id: str, after: LogPosition, entries: Sequence[KnowledgeEntry]) -> None:
        """Take in the entries that follow `after`. Those that are in already change nothing, and nothing is taken in
        where the index has been emptied meanwhile."""
        ...

    async def delete_before(self, tenant_id: str, first: LogPosition | None) -> None:
        """Drop what the log has dropped."""
        ...

    async def search(self, tenant_id: str, query: Query, vector: bytes | None) -> list[Hit]:
        """Best first, by text and, where there is a vector of the query, by meaning."""
        ...

    async def list_missing_vectors(self, most: int) -> list[MissingVector]:
        """Events without a vector of the model that is in use, the newest first."""
        ...


class Embeddings(Protocol):
    """Texts to vectors."""

    @property
    def model(self) -> str: ...

    async def close(self) -> None: ...

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """A quantised vector for each text. Raises `ModelError`: `refused` where asking again will not help."""
        ...
