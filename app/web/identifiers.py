"""What the ids of users, tenants, roles, runs, requests and threads may contain.

Ids are compared, logged, shown to approvers and used in keys. So two ids that look the same must not be different ones,
and no id may change how a line of a log or a terminal looks.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator
from pydantic.alias_generators import to_camel
from quart import request

from app.errors import FieldInvalid

MAX_CHARACTERS = 320
"""The longest mail address, which is the longest id in use."""

_REFUSED_CATEGORIES = {"Cc": "control", "Cf": "format", "Cs": "surrogate", "Zl": "line", "Zp": "line"}
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Characters that are neither of the categories above nor visible, such as the Hangul fillers."""


def identifier_problem(text: str) -> str | None:
    """Return why the text cannot be an id, in words that do not repeat it; None where it can."""
    if len(text) > MAX_CHARACTERS:
        return f"it has {len(text)} characters, an id has at most {MAX_CHARACTERS}"
    if text.isascii() and text.isprintable():
        return None
    for place, character in enumerate(text, start=1):
        kind = _REFUSED_CATEGORIES.get(unicodedata.category(character))
        if kind is not None or _BLANK.match(character):
            return f"its character {place} (U+{ord(character):04X}) is a {kind or 'blank'} character, which no id has"
    return None


def printable(text: str) -> str:
    """Return the text without the characters that an id may not have."""
    return "".join(character for character in text if identifier_problem(character) is None)


def _checked(text: str) -> str:
    problem = identifier_problem(text)
    if problem is not None:
        raise ValueError(problem)
    return text


Identifier = Annotated[str, AfterValidator(_checked)]
"""An id in a body, a query or a header."""


async def check_path_ids() -> None:
    """Raise `FieldInvalid` for an id in the path of the request that no thing can have."""
    for name, value in (request.view_args or {}).items():
        problem = identifier_problem(str(value)) if name.endswith("_id") else None
        if problem is not None:
            raise FieldInvalid(f"{to_camel(name)}: {problem}")
