"""Splits text into the terms that are indexed and searched. Pure.

Korean is written with particles and often without spaces, so runs of Hangul (and of Chinese and Japanese) are split
into overlapping pairs of characters. Any two characters of a word find it; a trigram index cannot find words of two
syllables (회의, 결재, 견적). All other text is split into words; the index stems English ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

_UNSPACED = "\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7a3"
_RUNS = re.compile(f"([{_UNSPACED}]+)|([^\\W_{_UNSPACED}]+)")
_MAX_WORD_CHARACTERS = 64
_MAX_QUERY_TERMS = 48
_EXCERPT_LEAD_CHARACTERS = 60
_EXCERPT_CHARACTERS = 500


def terms(text: str) -> Iterator[str]:
    """Yields the terms of a text in order, with repetitions. Every syllable begins one of them, so that a prefix search
    finds a single syllable (팀)."""
    for unspaced, word in _RUNS.findall(_normalise(text)):
        if word:
            yield word[:_MAX_WORD_CHARACTERS]
        else:
            yield from map("".join, pairwise(unspaced))
            yield unspaced[-1]


def query_terms(text: str) -> list[str]:
    """Returns the distinct terms of a query; a single syllable only if it is a word of its own."""
    found: dict[str, None] = {}
    for unspaced, word in _RUNS.findall(_normalise(text)):
        pairs = map("".join, pairwise(unspaced)) if len(unspaced) > 1 else [unspaced]
        found |= dict.fromkeys([word[:_MAX_WORD_CHARACTERS]] if word else pairs)
    return list(found)[:_MAX_QUERY_TERMS]


def excerpt(text: str, query: list[str], max_characters: int = _EXCERPT_CHARACTERS) -> str:
    """Returns the part of a text around the first of the query's terms, or its beginning; `…` marks what is cut."""
    if len(text) <= max_characters:
        return text
    folded = text.casefold()
    found = min((at for term in query if len(term) > 1 and (at := folded.find(term)) >= 0), default=0)
    start = max(0, min(found - _EXCERPT_LEAD_CHARACTERS, len(text) - max_characters))
    piece = text[start : start + max_characters]
    return f"{'…' if start else ''}{piece}{'…' if start + max_characters < len(text) else ''}"


def _normalise(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
