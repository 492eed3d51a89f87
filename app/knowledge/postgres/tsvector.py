"""Writes PostgreSQL's `tsvector` and `tsquery` literals: the terms of `text`, stemmed as in the embedded index.

The literals are built here, so that the parser, dictionaries and locale of the server have no effect. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import apsw

from app.knowledge.text import query_terms, terms
from app.ports.knowledge import WorkspaceEvent

_MAX_POSITION = 16383


@dataclass(frozen=True, slots=True)
class Document:
    """An event's terms: as a `tsvector` literal with weight `A` for those of the title, their number, and the set."""

    literal: str
    length: int
    distinct: frozenset[str]


def build_document(event: WorkspaceEvent) -> Document:
    """Returns the terms of an event's title, text and type."""
    title, body = stem(terms(event.title)), stem(terms(f"{event.text}\n{event.type}"))
    positions: dict[str, list[str]] = {}
    for position, term in enumerate(title, start=1):
        positions.setdefault(term, []).append(f"{min(position, _MAX_POSITION)}A")
    for position, term in enumerate(body, start=len(title) + 1):
        positions.setdefault(term, []).append(str(min(position, _MAX_POSITION)))
    literal = " ".join(f"'{term}':{','.join(found)}" for term, found in positions.items())
    return Document(literal, len(title) + len(body), frozenset(positions))


def query_lexemes(text: str) -> list[str]:
    """Returns the distinct stemmed terms of a query."""
    return list(dict.fromkeys(stem(query_terms(text))))


def tsquery(term: str) -> str:
    """Returns the `tsquery` literal of a term. A single syllable is a prefix: it starts a pair or is its own term."""
    return f"'{term}'{':*' if len(term) == 1 and not term.isascii() else ''}"


@cache
def _stemmer() -> apsw.FTS5Tokenizer:
    return apsw.Connection(":memory:").fts5_tokenizer("porter", ["unicode61", "remove_diacritics", "2"])


def stem(words: Iterable[str]) -> list[str]:
    """Returns the terms of these words, in order, by SQLite's tokenizer: English is stemmed, diacritics are removed."""
    found = _stemmer()(" ".join(words).encode(), apsw.FTS5_TOKENIZE_DOCUMENT, None, include_offsets=False)
    return [str(token[0]) for token in found]


def count_documents(documents: Sequence[Document]) -> Counter[str]:
    """Returns the number of documents that contain each term."""
    return Counter(term for document in documents for term in document.distinct)


def halfvec_literal(values: bytes) -> str:
    """Returns a quantised vector as pgvector's text form. A half-precision float holds every signed byte exactly."""
    return str(memoryview(values).cast("b").tolist())
