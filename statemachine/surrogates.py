"""Halves of characters: a server that cuts its text by UTF-16 units sends a surrogate pair in two pieces.

A lone half cannot be stored or sent, so it waits for its other half, or becomes U+FFFD.
"""

from __future__ import annotations

from typing import Any


def split_half_character(text: str) -> tuple[str, str]:
    """Split off a leading surrogate at the end of the text: the other half of its character comes in the next piece."""
    return (text[:-1], text[-1]) if text and "\ud800" <= text[-1] <= "\udbff" else (text, "")


def repair(text: str) -> str:
    """Join surrogate pairs that a server sent in two pieces. A surrogate without its pair becomes U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def repair_json(value: Any) -> Any:
    """Repair every text in a JSON value, the names of its fields included."""
    match value:
        case str():
            return repair(value)
        case dict():
            return {repair(name): repair_json(item) for name, item in value.items()}
        case list():
            return [repair_json(item) for item in value]
        case _:
            return value
