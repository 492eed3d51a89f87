"""Characters that look like others, by the Unicode tables of confusable characters and of scripts (UTS 39)."""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

import regex
from confusable_homoglyphs.categories import alias
from confusable_homoglyphs.utils import load

_UNIVERSAL = frozenset({"COMMON", "INHERITED"})
_WRITTEN_TOGETHER = (
    frozenset({"LATIN", "HAN", "HANGUL"}),
    frozenset({"LATIN", "HAN", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "HAN", "BOPOMOFO"}),
)
"""Scripts that the writing of one language mixes: the level "highly restrictive" of UTS 39."""
_ORDINARY = regex.compile(r"[\x00-\x7F\p{Hangul}“”‘’…·–—、。「」『』]*")
"""Most texts here: Korean and English, in which nothing looks like ASCII."""
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_IDENTIFIER = regex.compile(r"@|://|\w\.\w")
_SEPARATORS = frozenset("/.@:\\?#%")


@cache
def _ascii_of() -> dict[str, str]:
    """Returns the ASCII text that each character looks like. Loading the table takes some 20 MB for a moment."""
    table: dict[str, list[dict[str, str]]] = load("confusables.json")
    return {
        character: other["c"]
        for character, others in table.items()
        if len(character) == 1 and not character.isascii()
        for other in others
        if other["c"].isascii() and not other["c"].isspace()
    }


_script = lru_cache(4096)(alias)


def scripts(text: str) -> frozenset[str]:
    """Returns the names of the scripts of a text, without what all scripts share, such as digits."""
    return frozenset(map(_script, set(text))) - _UNIVERSAL


def mixes_scripts(text: str) -> bool:
    """Whether a text mixes scripts that no language writes together, or that together look like ASCII."""
    if text.isascii():
        return False
    found = scripts(text)
    if len(found) <= 1:
        return False
    return not any(found <= together for together in _WRITTEN_TOGETHER) or resembles_ascii(text)


def resembles_ascii(text: str) -> bool:
    """Whether a text has characters outside ASCII, and each of them looks like ASCII."""
    return not text.isascii() and all(character.isascii() or _ascii(character) for character in text)


def find_lookalikes(text: str) -> list[tuple[str, str]]:
    """Returns `(character, the ASCII text that it looks like)` for each character that deceives in its word.

    In a sentence these are letters of a word that mixes scripts. In an address, a link or a file name, and in a text of
    one word, a word of one script can deceive too (`раура.test`), and so can a mark that looks like a separator.
    """
    if _ORDINARY.fullmatch(text):
        return []
    found: dict[str, str] = {}
    tokens = text.split()
    for token in tokens:
        if token.isascii():
            continue
        is_identifier = len(tokens) == 1 or _IDENTIFIER.search(token) is not None
        for word in _WORD.findall(token):
            if mixes_scripts(word) or (is_identifier and resembles_ascii(word)):
                found |= _lookalikes(word)
        if _IDENTIFIER.search(token):
            found |= {mark: shown for mark, shown in _lookalikes(token).items() if shown in _SEPARATORS}
    return list(found.items())


def _lookalikes(text: str) -> dict[str, str]:
    found = {character: _ascii(character) for character in text if not character.isascii()}
    return {character: shown for character, shown in found.items() if shown}


def _ascii(character: str) -> str:
    """Returns the ASCII text that a character looks like, or else stands for (`ｗ`, `𝐰`); empty if there is none."""
    shown = _ascii_of().get(character) or unicodedata.normalize("NFKC", character)
    return shown if shown.isascii() and not shown.isspace() else ""
