"""Which terms of a question count, and from several rankings to one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CANDIDATES = 50
"""Of each ranking."""
LEAST_RELEVANCE = 0.3
"""Of the best one's score: what has less is not about the question."""
_COMMON_SHARE = 0.1
_FEW = 500
_DAMPING = 60
"""Reciprocal rank fusion's usual constant (Cormack, Clarke and Büttcher, 2009)."""


def telling(wanted: Sequence[str], documents: Mapping[str, int], total: int) -> list[str]:
    """The terms that tell events apart: what stands in very many of them costs much and says little.

    `documents` says in how many a term stands.
    """
    most = max(total * _COMMON_SHARE, _FEW)
    if not any(count <= most for count in documents.values()):
        return list(wanted)
    return [term for term in wanted if documents.get(term, 0) <= most]


def fuse(*rankings: Sequence[int]) -> list[int]:
    """Best first: what stands high in any of them, and higher what stands in several. The first breaks ties."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (_DAMPING + rank)
    return sorted(scores, key=lambda item: -scores[item])
