"""The domain events of the workspace (§7): the log that stores them and the index that finds them.

The log is the source of truth and is shared by all processes. An index is built from it and can be rebuilt.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

AudienceRule = Literal["named", "tenant"]
"""Who finds an event: only its audience, or everybody of its tenant, as before there were audiences."""

EVERYBODY = ""
"""In an audience, the whole tenant. No person has an empty name."""


def person_name(text: str) -> str:
    """Returns the form in which names of people are compared: without regard to case and to spaces around them.

    Nothing else is folded, so that no two people get the same name (`straße` is not `strasse`). Returns an empty text,
    which names nobody, for a text with control characters or halves of characters (surrogates).
    """
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text.strip()):
        return ""
    return unicodedata.normalize("NFC", text.strip()).lower()


@dataclass(frozen=True, slots=True)
class Searcher:
    """The person for whom a search is made: what their token says. `email` is None if it says nothing."""

    tenant_id: str
    user_id: str
    email: str | None = None

    @property
    def names(self) -> frozenset[str]:
        """The names in an audience that let this person find the event."""
        own = {person_name(name) for name in (self.user_id, self.email or "")}
        return frozenset({*own, EVERYBODY})


@dataclass(frozen=True, slots=True)
class WorkspaceEvent:
    """One accepted domain event. `at` is when it happened (Unix s); `topics` are the words that its type matches.

    `audience` are the names (`person_name`) of those who may find it, or `EVERYBODY` among them.
    """

    id: str
    tenant_id: str
    type: str
    topics: tuple[str, ...]
    user_id: str
    at: float
    title: str
    text: str
    audience: tuple[str, ...] = ()

    @property
    def embedding_text(self) -> str:
        """The text that is embedded."""
        return f"{self.title}\n{self.text}".strip()


@dataclass(frozen=True, slots=True)
class Vector:
    """An event's embedding by one model, a signed byte for each dimension; empty if the model refuses the text."""

    event_id: str
    model: str
    values: bytes


@dataclass(frozen=True, slots=True)
class KnowledgeEntry:
    """One entry of a tenant's log. Each entry's position is greater than those of the entries before it."""

    position: LogPosition
    entry: WorkspaceEvent | Vector


LogPosition = tuple[int, int]
"""Milliseconds (Unix) and the sequence number within that millisecond."""
START: LogPosition = (0, 0)
"""Less than the position of any entry."""


@dataclass(frozen=True, slots=True)
class Query:
    """A search. `since` is the earliest time of an event (Unix s).

    `types` are words of event types, any of which an event must have; empty for events of every type.
    """

    text: str
    since: float | None = None
    types: tuple[str, ...] = ()
    limit: int = 5


@dataclass(frozen=True, slots=True)
class Hit:
    """An event that a search found, and the part of its text that matches best."""

    event: WorkspaceEvent
    excerpt: str


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits, best first. If `is_complete` is false, the newest events may be missing."""

    hits: tuple[Hit, ...]
    is_complete: bool = True
    used_vectors: bool = False


class WorkspaceSearch(Protocol):
    """The search that a tool may use."""

    async def search(self, searcher: Searcher, query: Query) -> SearchResult:
        """Searches the events that this person may find. Raises `StorageUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class LogSummary:
    """The size of a tenant's log; `oldest` and `newest` are Unix s, None if the log is empty."""

    tenant_id: str
    events: int
    vectors: int
    oldest: float | None
    newest: float | None
    bytes: int


class KnowledgeLog(Protocol):
    """The accepted events and their vectors, shared by all processes. Every method raises `StorageUnavailable`."""

    async def subscribe(
        self, on_message: Callable[[bytes | None], None], on_log_grown: Callable[[str | None], None]
    ) -> None:
        """Subscribes to the platform's channels and to the growth of the logs.

        Calls `on_message` with each message and `on_log_grown` with the tenant whose log has new entries. After each
        subscription or resubscription both are called with None: messages may have been missed.
        """
        ...

    async def accept(self, events: Sequence[WorkspaceEvent]) -> list[bool]:
        """Appends each event unless its tenant's log has one with its id already. Idempotent.

        Returns, in the order of `events`, whether each was appended. Deletes events that are past the retention time
        and the oldest ones of a log that is full.
        """
        ...

    async def save_vectors(self, tenant_id: str, vectors: Sequence[Vector]) -> None:
        """Appends the vectors to the tenant's log; a vector whose event is no longer in the log is dropped."""
        ...

    async def remove(self, tenant_id: str, event_ids: Sequence[str], positions: Sequence[LogPosition]) -> None:
        """Removes events and the entries at these positions. An index has them until the next generation."""
        ...

    async def count_malformed(self, reasons: Sequence[tuple[str, str]]) -> None:
        """Counts malformed messages, given as `(reason, digest)`; one that several processes report counts once."""
        ...

    async def malformed_counts(self) -> dict[str, int]:
        """Returns the number of malformed messages for each reason."""
        ...

    async def list_tenants(self) -> list[str]:
        """Returns the tenants whose log may have entries."""
        ...

    async def read(self, tenant_id: str, after: LogPosition, limit: int) -> list[KnowledgeEntry]:
        """Returns at most `limit` entries that follow the position `after`, in ascending order."""
        ...

    async def first_position(self, tenant_id: str) -> LogPosition | None:
        """Returns the position of the oldest entry; None if the log is empty."""
        ...

    async def generation(self) -> int:
        """Returns the generation; an index that was built in another generation must be rebuilt."""
        ...

    async def start_generation(self) -> int:
        """Starts a new generation, so that all indexes are rebuilt. Returns how many processes were notified."""
        ...

    async def acquire_leadership(self, seconds: float) -> bool:
        """Acquires or renews the lease of the only process that makes vectors; False if another process holds it."""
        ...

    async def summary(self, tenant_id: str) -> LogSummary: ...


@dataclass(frozen=True, slots=True)
class MissingVector:
    """An event that has no vector of the index's embedding model."""

    tenant_id: str
    event_id: str
    embedding_text: str


class KnowledgeIndex(Protocol):
    """Full-text and vector search over the log, in tables of its own for each tenant.

    Every method raises `StorageUnavailable`.
    """

    async def open(self, generation: int) -> None:
        """Opens the index, and empties it unless it was built in this generation.

        Raises `ConfigurationError` if the storage cannot be used.
        """
        ...

    async def close(self) -> None: ...

    async def position(self, tenant_id: str) -> LogPosition:
        """Returns the position of the last entry of the tenant's log that is indexed; `START` if there is none."""
        ...

    async def apply(self, tenant_id: str, after: LogPosition, entries: Sequence[KnowledgeEntry]) -> None:
        """Indexes the entries that follow the position `after`, in ascending order.

        Entries that are indexed already are skipped. Does nothing if the index has not reached `after`, which means
        that it was emptied after the caller read its position.
        """
        ...

    async def delete_before(self, tenant_id: str, first: LogPosition | None) -> None:
        """Deletes the events that are older than the log's first entry; all of them if `first` is None."""
        ...

    async def search(
        self, tenant_id: str, query: Query, vector: bytes | None, names: frozenset[str] | None
    ) -> list[Hit]:
        """Returns the best hits first, by text and, if `vector` is the query's embedding, also by meaning.

        Only events whose audience has one of these names are found; events of any audience if `names` is None.
        """
        ...

    async def list_missing_vectors(self, limit: int) -> list[MissingVector]:
        """Returns at most `limit` events of any tenants that need a vector, the newest of a tenant first."""
        ...


class Embeddings(Protocol):
    """An embedding model."""

    @property
    def model(self) -> str:
        """The label of the model and its dimensions: vectors of one label can be compared."""
        ...

    async def close(self) -> None: ...

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """Returns a vector for each text in the same order, a signed byte for each dimension.

        Raises `ModelError`, of kind `refused` if a retry with the same texts cannot succeed.
        """
        ...
