"""Selects the terms of a query that are worth searching for, and merges several rankings into one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CANDIDATES = 50
"""Number of events in each ranking."""
MIN_RELEVANCE = 0.3
"""Least score of a hit, as a share of the best one's: events with less are not about the query."""
_COMMON_SHARE = 0.1
_COMMON_DOCUMENTS = 500
_DAMPING = 60
"""Reciprocal rank fusion's usual constant (Cormack, Clarke and Büttcher, 2009)."""


def discriminative_terms(query: Sequence[str], documents: Mapping[str, int], total: int) -> list[str]:
    """Returns the terms of a query without those that occur in many of the `total` events.

    Such terms are costly to rank and hardly change the ranking. `documents` has the number of events for each known
    term. If all known terms are common, all terms are returned.
    """
    max_documents = max(total * _COMMON_SHARE, _COMMON_DOCUMENTS)
    if not any(count <= max_documents for count in documents.values()):
        return list(query)
    return [term for term in query if documents.get(term, 0) <= max_documents]


def fuse(*rankings: Sequence[int]) -> list[int]:
    """Merges rankings, best item first, by reciprocal rank fusion. The order of the first ranking breaks ties."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (_DAMPING + rank)
    return sorted(scores, key=lambda item: -scores[item])
