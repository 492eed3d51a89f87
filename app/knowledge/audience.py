"""Who may find an event (§7): the people that it names, or the whole tenant where it names nobody. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.ports.knowledge import EVERYBODY, person_name
from statemachine import strict_json

_ONE_OR_MORE = ("recipient", "participant", "approver", "attendee", "assignee", "invitee", "reviewer", "owner")
NAMING_FIELDS = frozenset(
    {"to", "cc", "torecipients", "ccrecipients", "audience", "assignedto", "sharedwith"}
    | {*_ONE_OR_MORE}
    | {f"{name}s" for name in _ONE_OR_MORE}
)
"""The fields, as `plain_name` has them, whose people find the event."""

MAX_JSON_DEPTH = 200
"""Deeper messages are malformed, which no ordinary event is."""

_NOT_CONTENT = frozenset({"metadata", "source"})
_PERSON_FIELDS = frozenset({"id", "userid"})
_WHOLE_TENANT = "tenant"
_MAX_DEPTH = 8
_MAX_NAME_CHARACTERS = 320
_USER = "userid"
_USERS = frozenset({_USER, "userids", "users"})
_UNDERSCORES = str.maketrans("", "", "_-")
_KIND_OF_NAME = re.compile(r"(?<=.)(?:user)?(?:ids?|emails?|mails?|address(?:es)?|list)$")
_JSON_TEXT = re.compile(r'\s*[\[{"]')
_JSON_OBJECT = re.compile(r"[\s\[\"\\]*\{")
_SEPARATORS = re.compile(r"[,;\r\n]")
_DISPLAY_NAME = re.compile(r'"(?:[^"\\]|\\.)*"\s*(?=<)')
_ADDRESS = re.compile(r"<([^<>]*)>$")


def plain_name(key: str) -> str:
    """Returns the name of a field without regard to case, underscores and hyphens: `userid` for `user_id`."""
    return key.lower().translate(_UNDERSCORES)


def user_field(*parts: Mapping[str, Any]) -> Any:
    """Returns the user of an event, in whatever spelling of `userId`; of several the one in the first part."""
    found = (value for part in parts for key, value in part.items() if plain_name(key) == _USER and value is not None)
    return next(found, None)


def is_blind_copy(key: str) -> bool:
    """Whether a field has people whom the other recipients must not learn of."""
    return plain_name(key).startswith("bcc")


def embedded_json(text: str) -> Any:
    """Returns the object or list of a text that is JSON itself, as some serialisers write objects; else the text."""
    value: Any = text
    for _ in range(_MAX_DEPTH):
        if not isinstance(value, str) or not _JSON_TEXT.match(value):
            break
        try:
            value = strict_json.parse(value, max_depth=MAX_JSON_DEPTH)
        except strict_json.JsonInvalid:
            break
    return value if isinstance(value, dict | list) else text


def audience_of(user_id: str, *parts: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of those who may find an event, sorted; `EVERYBODY` is among them if the whole tenant may.

    `parts` are the places in which the event has fields. An event that names somebody, but not in a way that can be
    read, belongs to nobody but its user: what cannot be understood must not become visible to all.
    """
    fields = [(key, value) for part in parts for key, value in part.items()]
    names = {person_name(user_id)}
    for key, value in fields:
        if _is_naming(key):
            names.update(map(person_name, _texts(value, _MAX_DEPTH)))
    names = {name for name in names if name and len(name) <= _MAX_NAME_CHARACTERS}
    stated = [value for key, value in fields if plain_name(key) == "visibility" and value is not None]
    if stated:
        is_public = all(isinstance(value, str) and value.strip().lower() == _WHOLE_TENANT for value in stated)
    else:
        is_public = not user_id and not any(_names_anybody(dict(part), _MAX_DEPTH) for part in parts)
    return (*((EVERYBODY,) if is_public else ()), *sorted(names))


def _is_naming(key: str) -> bool:
    """Whether a field names people who find the event: `approvers`, `approver_id`, `toEmails`."""
    name = plain_name(key)
    return name in NAMING_FIELDS or _KIND_OF_NAME.sub("", name) in NAMING_FIELDS


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
                if plain_name(key) in _PERSON_FIELDS and isinstance(item, str | int) and not isinstance(item, bool):
                    yield str(item)  # as a whole: an id may have a comma
                elif key.lower() == "email" and isinstance(item, str):
                    yield from _texts(item, 0)


def _address(text: str) -> str:
    """Returns the address of `Kim <kim@example.com>`: the sender of a mail chooses the name before it."""
    found = _ADDRESS.search(text.strip())
    return found[1] if found else text


def _names_anybody(value: Any, depth: int) -> bool:
    """Whether a field that names people has a value, at any depth; also if that is too deep or too odd to be seen."""
    match value:
        case dict() if depth:
            return any(
                (_may_name(key) and not _is_empty(item))
                or (key.lower() not in _NOT_CONTENT and _names_anybody(item, depth - 1))
                for key, item in value.items()
            )
        case list() if depth:
            return any(_names_anybody(item, depth - 1) for item in value)
        case str() if _JSON_TEXT.match(value):
            inner = embedded_json(value)
            if isinstance(inner, str):
                return _JSON_OBJECT.match(value) is not None or _is_lenient_json(value)
            return _names_anybody(inner, max(depth - 1, 0))
        case _:
            return isinstance(value, dict | list) and bool(value)


def _may_name(key: str) -> bool:
    return _is_naming(key) or is_blind_copy(key) or plain_name(key) in _USERS


def _is_lenient_json(text: str) -> bool:
    """Whether other parsers may read an object or a list in a text that is not strict JSON."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _is_empty(value: Any) -> bool:
    """Whether a value names nobody: null, or nothing but empty texts and empty lists."""
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value is None or value == {} or (isinstance(value, str) and not value.strip(" ,;\t\r\n"))
