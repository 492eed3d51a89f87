"""Text as an index sees it. Pure.

Korean is written with particles and often without spaces, so Hangul (and Chinese and Japanese) runs become overlapping
pairs of characters: any two characters of a word find it, which a trigram index cannot do for words of two syllables
(회의, 결재, 견적). Everything else is words; the index stems English ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

_UNSPACED = "\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7a3"
_RUNS = re.compile(f"([{_UNSPACED}]+)|([^\\W_{_UNSPACED}]+)")
_WORD_CHARACTERS = 64
_QUERY_TERMS = 48
_LEAD_CHARACTERS = 60
_EXCERPT_CHARACTERS = 500


def terms(text: str) -> Iterator[str]:
    """The terms of a text, in order, each as often as it is said. Every syllable begins one of them, so that a single
    one (팀) can be found as a beginning."""
    for unspaced, word in _RUNS.findall(_folded(text)):
        if word:
            yield word[:_WORD_CHARACTERS]
        else:
            yield from map("".join, pairwise(unspaced))
            yield unspaced[-1]


def query_terms(text: str) -> list[str]:
    """The distinct terms of a question; a single syllable only where it stands alone."""
    found: dict[str, None] = {}
    for unspaced, word in _RUNS.findall(_folded(text)):
        pairs = map("".join, pairwise(unspaced)) if len(unspaced) > 1 else [unspaced]
        found |= dict.fromkeys([word[:_WORD_CHARACTERS]] if word else pairs)
    return list(found)[:_QUERY_TERMS]


def excerpt(text: str, wanted: list[str], most: int = _EXCERPT_CHARACTERS) -> str:
    """The part of a text around the first of the wanted terms, or its beginning; marked where something is cut."""
    if len(text) <= most:
        return text
    folded = text.casefold()
    found = min((at for term in wanted if len(term) > 1 and (at := folded.find(term)) >= 0), default=0)
    start = max(0, min(found - _LEAD_CHARACTERS, len(text) - most))
    piece = text[start : start + most]
    return f"{'…' if start else ''}{piece}{'…' if start + most < len(text) else ''}"


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
