"""Separates `<think>…</think>` at the start of a model's text from the answer.

Servers without a reasoning parser send the model's thoughts as the beginning of its text. A tag that stands later in
the text belongs to the answer.
"""

from __future__ import annotations

import re

_NAMES = ("think", "thinking", "thought")
_OPENING = re.compile(rf"<({'|'.join(_NAMES)})>", re.IGNORECASE)
_OPENING_TAGS = tuple(f"<{name}>" for name in _NAMES)


class ThinkTags:
    """A filter for the pieces of one turn's text. It holds back what may be the beginning of a tag."""

    def __init__(self) -> None:
        self._held = ""
        self._closing_tag: str | None = None  # while the text is inside of a thought
        self._has_thought = False
        self._is_answering = False

    def split(self, text: str) -> tuple[str, str]:
        """Add the next piece of text; return the piece of the thought and the piece of the answer that are certain."""
        if self._is_answering:
            return "", text
        self._held += text
        thoughts = []
        while True:
            if self._closing_tag is not None:
                thought, is_closed = self._take_thought(self._closing_tag)
                thoughts.append(thought)
                if not is_closed:
                    return "".join(thoughts), ""
            opening = _OPENING.match(self._held.lstrip())
            if opening is None:
                break
            self._closing_tag, self._has_thought = f"</{opening[1].lower()}>", True
            self._held = self._held.lstrip()[opening.end() :]
        start = self._held.lstrip().lower()
        if any(tag.startswith(start) for tag in _OPENING_TAGS):  # also blank text: a tag may follow it
            return "".join(thoughts), ""
        return "".join(thoughts), self._begin_answer()

    def finish(self) -> tuple[str, str]:
        """Return the rest of the thought and of the answer at the end of the turn."""
        if self._closing_tag is None:
            return "", self._begin_answer()
        thought, self._held = self._held, ""
        return thought, ""

    def _begin_answer(self) -> str:
        self._is_answering = True
        text, self._held = self._held, ""
        return text.lstrip() if self._has_thought else text

    def _take_thought(self, closing_tag: str) -> tuple[str, bool]:
        """Take the thought up to its closing tag, which is removed; return it and whether the tag was found."""
        lower = self._held.lower()
        end = lower.find(closing_tag)
        if end >= 0:
            thought, self._held = self._held[:end], self._held[end + len(closing_tag) :]
            self._closing_tag = None
            return thought, True
        kept = next(size for size in range(len(closing_tag) - 1, -1, -1) if lower.endswith(closing_tag[:size]))
        end = len(self._held) - kept
        thought, self._held = self._held[:end], self._held[end:]
        return thought, False
