"""Text as PostgreSQL's full text search sees it: the terms of `text`, stemmed as the embedded index stems them.

The literals are made here, so that no parser, dictionary or locale of the server has a say. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import apsw

from app.knowledge.text import query_terms, terms
from app.ports.knowledge import WorkspaceEvent

_MOST_POSITION = 16383


@dataclass(frozen=True, slots=True)
class Document:
    """An event's terms: as a `tsvector` in which those of the title weigh `A`, how many, and which."""

    literal: str
    length: int
    distinct: frozenset[str]


def document(event: WorkspaceEvent) -> Document:
    title, body = stemmed(terms(event.title)), stemmed(terms(f"{event.text}\n{event.type}"))
    places: dict[str, list[str]] = {}
    for at, term in enumerate(title, start=1):
        places.setdefault(term, []).append(f"{min(at, _MOST_POSITION)}A")
    for at, term in enumerate(body, start=len(title) + 1):
        places.setdefault(term, []).append(str(min(at, _MOST_POSITION)))
    literal = " ".join(f"'{term}':{','.join(at)}" for term, at in places.items())
    return Document(literal, len(title) + len(body), frozenset(places))


def asked(text: str) -> list[str]:
    """The distinct terms of a question."""
    return list(dict.fromkeys(stemmed(query_terms(text))))


def pattern(term: str) -> str:
    """As a `tsquery`: a single syllable begins a pair, or stands alone."""
    return f"'{term}'{':*' if len(term) == 1 and not term.isascii() else ''}"


@cache
def _stemmer() -> apsw.FTS5Tokenizer:
    return apsw.Connection(":memory:").fts5_tokenizer("porter", ["unicode61", "remove_diacritics", "2"])


def stemmed(words: Iterable[str]) -> list[str]:
    found = _stemmer()(" ".join(words).encode(), apsw.FTS5_TOKENIZE_DOCUMENT, None, include_offsets=False)
    return [str(token[0]) for token in found]


def counted(documents: Sequence[Document]) -> Counter[str]:
    """In how many of the documents each term stands."""
    return Counter(term for document in documents for term in document.distinct)


def halfvec(values: bytes) -> str:
    """A quantised vector as pgvector reads it: a half float holds every signed byte."""
    return str(memoryview(values).cast("b").tolist())
