"""From a message of the platform's channels to an event, or to the one word for why it is none (§7). Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from app.ports.knowledge import WorkspaceEvent
from statemachine.decisions import JAVA_HEADER

MESSAGE_LIMIT_BYTES = 256 * 1024
TITLE_CHARACTERS = 200
TEXT_CHARACTERS = 8000
_ID_CHARACTERS = 128
_DEPTH = 8
_ENVELOPE = frozenset({"eventid", "timestamp", "userid", "tenantid", "eventtype", "@class"})
_TITLES = ("subject", "title", "name", "summary")
_CASES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORDS = re.compile(r"[^\W_]+")
_SPACES = re.compile(r"[ \t\r\f\v\x00-\x08\x0e-\x1f\x7f]+")


class Malformed(ValueError):
    """A message that is no event; `reason` is one word, to count by."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parse(message: bytes) -> WorkspaceEvent:
    """Raises `Malformed`. Fields stand flat or under `data`; identifiers may be numbers."""
    fields = _fields(message)
    own = {key: value for key, value in fields.items() if key.lower() not in _ENVELOPE}
    event_type = _identifier(fields, "eventType")
    title = next((_line(str(own[key])) for key in _TITLES if isinstance(own.get(key), str) and own[key].strip()), "")
    text = "\n".join(dict.fromkeys(line for line in _lines(own, _DEPTH) if line != title))
    return WorkspaceEvent(
        id=_identifier(fields, "eventId"),
        tenant_id=_identifier(fields, "tenantId"),
        type=event_type,
        topics=topics(event_type),
        user_id=_identifier(fields, "userId") if fields.get("userId") is not None else "",
        at=_moment(fields.get("timestamp")),
        title=title[:TITLE_CHARACTERS],
        text=text[:TEXT_CHARACTERS],
    )


def topics(event_type: str) -> tuple[str, ...]:
    """The words of a type, and the type itself: `mail.received`, `MAIL_RECEIVED`, `MailReceived` all are of `mail`."""
    words = [word.lower() for word in _WORDS.findall(_CASES.sub(" ", event_type))]
    return tuple(dict.fromkeys([*words, event_type.lower()]))


def _fields(message: bytes) -> dict[str, Any]:
    if len(message) > MESSAGE_LIMIT_BYTES:
        raise Malformed("too_large")
    if message.startswith(JAVA_HEADER):
        raise Malformed("java_serialized")
    try:
        value = json.loads(message)
        if isinstance(value, str):  # a serialiser that wrote JSON text as a JSON string
            value = json.loads(value)
    except (ValueError, RecursionError):
        raise Malformed("not_json") from None
    if not isinstance(value, dict):
        raise Malformed("not_an_object")
    nested = value.get("data")
    if isinstance(nested, dict):
        value = {**nested, **{key: item for key, item in value.items() if key != "data" and item is not None}}
    return value


def _identifier(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise Malformed(f"no_{name}")
    value = _line(value)
    if len(value) > _ID_CHARACTERS:
        raise Malformed(f"long_{name}")
    return value


def _moment(value: object) -> float:
    """ISO 8601; one without a zone is UTC, as the platform's containers run in it."""
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
        at = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
        datetime.fromtimestamp(at, UTC)  # at the borders of the calendar a zone leads out of it
    except (ValueError, OverflowError):
        raise Malformed("no_timestamp") from None
    return at


def _lines(value: Any, depth: int) -> Iterator[str]:
    """Every text and number in it; keys are the platform's words, not the people's."""
    match value:
        case str():
            yield from filter(None, (_line(line) for line in value.split("\n")))
        case bool() | None:
            return
        case int() | float():
            yield str(value)
        case dict() if depth:
            for key, item in value.items():
                if key != "@class":
                    yield from _lines(item, depth - 1)
        case list() if depth:
            for item in value:
                yield from _lines(item, depth - 1)


def _line(text: str) -> str:
    return _SPACES.sub(" ", text).strip().encode("utf-8", "replace").decode()
