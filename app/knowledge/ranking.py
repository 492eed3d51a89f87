"""From several rankings to one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_DAMPING = 60
"""Reciprocal rank fusion's usual constant (Cormack, Clarke and Büttcher, 2009)."""


def fuse(*rankings: Sequence[int]) -> list[int]:
    """Best first: what stands high in any of them, and higher what stands in several. The first breaks ties."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (_DAMPING + rank)
    return sorted(scores, key=lambda item: -scores[item])
