"""Characters that a person does not see, or that change the order in which a person sees the others.

`app/client/src/visible.ts` applies the same rules in browsers; a test compares both.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from typing import Literal

import regex

HiddenKind = Literal["bidirectional", "invisible"]

_EMOJI = regex.compile(
    r"\p{Extended_Pictographic}(?:\p{EMod}|[\uFE0E\uFE0F])?"
    r"(?:\u200D\p{Extended_Pictographic}(?:\p{EMod}|\uFE0F)?)*"
    r"|[0-9#*]\uFE0F?\u20E3"
)
"""Joiners and variation selectors in an emoji hide nothing."""
_FLAGS = tuple(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in region) + "\U000e007f"
    for region in ("gbeng", "gbsct", "gbwls")
)
"""The only flags that are written with tag characters. Other texts in tag characters are invisible."""
_BIDIRECTIONAL = regex.compile(r"\p{Bidi_Control}")
# Also the Braille pattern without dots, which is drawn as a blank, and separators that are drawn as nothing.
_HIDDEN = regex.compile(
    r"\r(?!\n)|(?![\n\r\t]|\p{Prepended_Concatenation_Mark})[\p{Cf}\p{Default_Ignorable_Code_Point}\p{Cc}\p{Cs}\u2028\u2029\u2800]"
)
_ASCII_HIDDEN = regex.compile(r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_RIGHT_TO_LEFT = regex.compile(r"[\p{Bidi_Class=R}\p{Bidi_Class=AL}]")
_LEFT_TO_RIGHT = regex.compile(r"\p{Bidi_Class=L}")
_MANY_LINES = 9
_MANY_BLANKS = 40
_BLANK_LINES = regex.compile(rf"\n(?:[^\S\n]*\n){{{_MANY_LINES},}}")
_BLANKS = regex.compile(rf"[^\S\n]{{{_MANY_BLANKS},}}")
# Shorter gaps than these are paragraphs, indented lists and columns.
_LINE_GAPS = regex.compile(r"\n(?:[^\S\n]*\n){3,}")
_BLANK_GAPS = regex.compile(r"[^\S\n]{4,}")


def find_hidden(text: str) -> Iterator[tuple[HiddenKind, str]]:
    """Yields each hidden character of a text, in order; those of an emoji are not hidden."""
    if text.isascii():
        for found in _ASCII_HIDDEN.finditer(text):
            yield "invisible", found[0]
        return
    if not _HIDDEN.search(text):
        return
    for found in _HIDDEN.finditer(_without_emoji(text)):
        yield "bidirectional" if _BIDIRECTIONAL.match(found[0]) else "invisible", found[0]


def is_format_character(character: str) -> bool:
    """Whether a character is not drawn, or changes the order of others, wherever it stands."""
    return not character.isascii() and _HIDDEN.match(character) is not None


def is_order_ambiguous(text: str) -> bool:
    """Whether a word mixes letters of both writing directions, so that its parts may be seen in another order."""
    return any(_RIGHT_TO_LEFT.search(word) and _LEFT_TO_RIGHT.search(word) for word in text.split())


def describe(character: str) -> str:
    """Returns the code point and the name of a character: `U+200B ZERO WIDTH SPACE`."""
    return f"{code_point(character)} {unicodedata.name(character, '')}".rstrip()


def code_point(character: str) -> str:
    """Returns the code point of a character: `U+200B`."""
    return f"U+{ord(character):04X}"


def make_visible(text: str) -> str:
    """Returns the text with each hidden character as `⟨U+200B⟩`, and with long runs of blanks as their number."""
    return _BLANKS.sub(_count_blanks, _BLANK_LINES.sub(_count_lines, replace_hidden(text, _chip)))


def replace_hidden(text: str, replacement: Callable[[str], str]) -> str:
    """Returns the text with the `replacement` of each hidden character in its place."""
    pattern = _ASCII_HIDDEN if text.isascii() else _HIDDEN
    parts, end = [], 0
    for found in pattern.finditer(text if text.isascii() else _without_emoji(text)):
        parts += [text[end : found.start()], replacement(found[0])]
        end = found.end()
    return "".join((*parts, text[end:]))


def escape_hidden(json_text: str) -> str:
    """Returns a JSON text with hidden characters as escapes (`\\u200b`), so that a person sees them in an editor."""
    return replace_hidden(json_text, lambda character: json.dumps(character)[1:-1])


def blank_gaps(text: str) -> Iterator[tuple[Literal["lines", "spaces"], int]]:
    """Yields how many empty lines, and how many blanks of one line, a person passes before more text that they do not
    expect. Several shorter gaps count together, so that repeating them does not help."""
    visible = replace_hidden(text, lambda _: " ") if not text.isascii() else text
    visible = visible.rstrip()
    lines = sum(found[0].count("\n") - 1 for found in _LINE_GAPS.finditer(visible))
    if lines >= _MANY_LINES:
        yield "lines", lines
    blanks = max((_blanks_of(line) for line in visible.split("\n") if len(line) > _MANY_BLANKS), default=0)
    if blanks >= _MANY_BLANKS:
        yield "spaces", blanks


def _blanks_of(line: str) -> int:
    """Returns the blanks in the gaps of a line before its last text."""
    return sum(len(found[0]) for found in _BLANK_GAPS.finditer(line.rstrip()))


def _without_emoji(text: str) -> str:
    """Returns the text of the same length with a mark in place of each character of an emoji."""
    for flag in _FLAGS:
        text = text.replace(flag, "?" * len(flag))
    return str(_EMOJI.sub(lambda found: "?" * len(found[0]), text))


def _chip(character: str) -> str:
    return f"⟨{code_point(character)}⟩"


def _count_lines(found: regex.Match[str]) -> str:
    return f"\n⟨{found[0].count(chr(10)) - 1} empty lines⟩\n"


def _count_blanks(found: regex.Match[str]) -> str:
    return f"⟨{len(found[0])} blanks⟩"
