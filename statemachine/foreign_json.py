"""Reads JSON that other services wrote, with bounds: nothing in it can make a later step fail or take long.

It is read by the rules of `strict_json`. What is read can always be written again, as UTF-8.
"""

from __future__ import annotations

from typing import Any

from statemachine import strict_json
from statemachine.surrogates import repair_json

LIMIT_BYTES = 512 * 1024
"""An approval request holds arguments of at most 64 KiB, which some writers escape to a multiple of that."""
LIMIT_DEPTH = 48
_MAX_NUMBER = 1e15
_MAX_TEXT_CHARACTERS = 2000


class ForeignJsonInvalid(ValueError):
    """The value is not a JSON object within the bounds. The message is the cause as a phrase."""


def parse_object(raw: str | bytes) -> dict[str, Any]:
    """Return the JSON object in a value, also where it was encoded twice. Raises `ForeignJsonInvalid`."""
    if len(raw) > LIMIT_BYTES:
        raise ForeignJsonInvalid(f"it has more than {LIMIT_BYTES} bytes")
    try:
        text = raw if isinstance(raw, str) else raw.decode()
        value = strict_json.parse(text, max_depth=LIMIT_DEPTH)
        if isinstance(value, str):
            value = strict_json.parse(value, max_depth=LIMIT_DEPTH)
    except UnicodeDecodeError:
        raise ForeignJsonInvalid("it is not JSON: the text is not UTF-8") from None
    except strict_json.JsonInvalid as error:
        raise ForeignJsonInvalid(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ForeignJsonInvalid("it is not a JSON object")
    return repair_json(value) if _has_surrogates(raw) else value


def _has_surrogates(raw: str | bytes) -> bool:
    """Return whether the text can hold half a character: escaped, or in a `str` itself."""
    if isinstance(raw, bytes):
        return b"\\ud" in raw or b"\\uD" in raw
    return "\\ud" in raw or "\\uD" in raw or any("\ud800" <= character <= "\udfff" for character in raw)


def read_text(message: dict[str, Any], *names: str) -> str | None:
    """Return the first of these fields that is a non-empty text, cut to a bounded length; None where there is none."""
    text = next((value for name in names if isinstance(value := message.get(name), str) and value), None)
    return None if text is None else text[:_MAX_TEXT_CHARACTERS]


def read_number(message: dict[str, Any], name: str) -> float | None:
    """Return the field as a number, or None where it is none, is negative or is larger than any time in ms."""
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_NUMBER:
        return None
    return float(value)
