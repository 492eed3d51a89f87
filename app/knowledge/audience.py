"""Who may find an event (§7): the people that it names, or the whole tenant where it names nobody. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.ports.knowledge import EVERYBODY, person_name

NAMING_FIELDS = frozenset({"recipients", "to", "cc", "participants", "audience", "approvers"})
"""The fields, in lower case, whose people find the event."""

BLIND_COPY = "bcc"
"""The field whose people are named, but are shown to nobody: the other recipients must not learn of a blind copy."""

_NOT_CONTENT = frozenset({"metadata", "source"})
_PERSON_FIELDS = frozenset({"id", "userid"})
_WHOLE_TENANT = "tenant"
_MAX_DEPTH = 8
_MAX_NAME_CHARACTERS = 320
_SEPARATORS = re.compile(r"[,;\r\n]")
_DISPLAY_NAME = re.compile(r'"(?:[^"\\]|\\.)*"\s*(?=<)')
_ADDRESS = re.compile(r"<([^<>]*)>$")


def audience_of(user_id: str, *parts: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of those who may find an event, sorted; `EVERYBODY` is among them if the whole tenant may.

    `parts` are the places in which the event has fields. An event that names somebody, but not in a way that can be
    read, belongs to nobody but its user: what cannot be understood must not become visible to all.
    """
    fields = [(key.lower(), value) for part in parts for key, value in part.items()]
    names = {person_name(user_id)}
    for key, value in fields:
        if key in NAMING_FIELDS:
            names.update(map(person_name, _texts(value, _MAX_DEPTH)))
    names = {name for name in names if name and len(name) <= _MAX_NAME_CHARACTERS}
    stated = [value for key, value in fields if key == "visibility" and value is not None]
    if stated:
        is_public = all(isinstance(value, str) and value.strip().lower() == _WHOLE_TENANT for value in stated)
    else:
        is_public = not user_id and not any(_names_anybody(dict(part), _MAX_DEPTH) for part in parts)
    return (*((EVERYBODY,) if is_public else ()), *sorted(names))


def _texts(value: Any, depth: int) -> Iterator[str]:
    """Yields the ids and addresses in a list, in a text with commas, or in an object with an id or an address."""
    match value:
        case str():
            yield from map(_address, _SEPARATORS.split(_DISPLAY_NAME.sub("", value)))
        case bool() | None:
            return
        case int():
            yield str(value)
        case list() if depth:
            for item in value:
                yield from _texts(item, depth - 1)
        case dict():
            for key, item in value.items():
                if key.lower() in _PERSON_FIELDS and isinstance(item, str | int) and not isinstance(item, bool):
                    yield str(item)  # as a whole: an id may have a comma
                elif key.lower() == "email" and isinstance(item, str):
                    yield from _texts(item, 0)


def _address(text: str) -> str:
    """Returns the address of `Kim <kim@example.com>`: whoever writes a mail chooses the name before it."""
    found = _ADDRESS.search(text.strip())
    return found[1] if found else text


def _names_anybody(value: Any, depth: int) -> bool:
    """Whether a field that names people has a value, at any depth; also if that is too deep to be seen."""
    match value:
        case dict() if depth:
            return any(
                (key.lower() in {*NAMING_FIELDS, BLIND_COPY} and not _is_empty(item))
                or (key.lower() not in _NOT_CONTENT and _names_anybody(item, depth - 1))
                for key, item in value.items()
            )
        case list() if depth:
            return any(_names_anybody(item, depth - 1) for item in value)
        case _:
            return isinstance(value, dict | list) and bool(value)


def _is_empty(value: Any) -> bool:
    """Whether a value names nobody: null, or nothing but empty texts and empty lists."""
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value is None or value == {} or (isinstance(value, str) and not value.strip(" ,;\t\r\n"))
