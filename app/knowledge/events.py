"""Parses messages of the platform's channels into events, or names the reason why that is impossible (§7). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from app.knowledge.audience import (
    MAX_JSON_DEPTH,
    audience_of,
    embedded_json,
    is_blind_copy,
    plain_name,
    user_field,
)
from app.ports.knowledge import WorkspaceEvent
from statemachine import strict_json
from statemachine.decisions import JAVA_HEADER

MESSAGE_LIMIT_BYTES = 256 * 1024
TITLE_CHARACTERS = 200
TEXT_CHARACTERS = 8000
_ID_CHARACTERS = 128
_MAX_DEPTH = 8
_ENVELOPE_FIELDS = frozenset(
    {"eventid", "timestamp", "userid", "tenantid", "eventtype", "source", "metadata", "visibility", "@class"}
)
_TITLE_FIELDS = ("subject", "title", "name", "summary")
_CASE_BOUNDARIES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORDS = re.compile(r"[^\W_]+")
_SPACES = re.compile(r"[ \t\r\f\v\x00-\x08\x0e-\x1f\x7f]+")


class MalformedMessage(ValueError):
    """The message is not an event; `reason` is one word, by which such messages are counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parse(message: bytes) -> WorkspaceEvent:
    """Parses one message, whose fields are flat or under `data`, also as JSON text. Raises `MalformedMessage`."""
    envelope = _object(message)
    nested = envelope.get("data")
    if isinstance(nested, str):
        nested = embedded_json(nested)
    fields = envelope
    if isinstance(nested, dict):
        fields = {**nested, **{key: item for key, item in envelope.items() if key != "data" and item is not None}}
    own = {key: value for key, value in fields.items() if plain_name(key) not in _ENVELOPE_FIELDS}
    user = user_field(envelope, nested if isinstance(nested, dict) else {})
    user_id = _identifier({"userId": user}, "userId") if user is not None else ""
    event_type = _identifier(fields, "eventType")
    title = next(
        (_line(str(own[key])) for key in _TITLE_FIELDS if isinstance(own.get(key), str) and own[key].strip()), ""
    )
    text = "\n".join(dict.fromkeys(line for line in _lines(own, _MAX_DEPTH) if line != title))
    return WorkspaceEvent(
        id=_identifier(fields, "eventId"),
        tenant_id=_identifier(fields, "tenantId"),
        type=event_type,
        topics=topics(event_type),
        user_id=user_id,
        at=_parse_timestamp(fields.get("timestamp")),
        title=title[:TITLE_CHARACTERS],
        text=text[:TEXT_CHARACTERS],
        # Both places count: an empty list in one of them does not take back the people that the other one names.
        audience=audience_of(user_id, envelope, nested if isinstance(nested, dict) else {}),
    )


def topics(event_type: str) -> tuple[str, ...]:
    """Returns the words of an event type and the type itself, in lower case.

    `mail.received`, `MAIL_RECEIVED` and `MailReceived` all have the topics `mail` and `received`.
    """
    words = [word.lower() for word in _WORDS.findall(_CASE_BOUNDARIES.sub(" ", event_type))]
    return tuple(dict.fromkeys([*words, event_type.lower()]))


def _object(message: bytes) -> dict[str, Any]:
    if len(message) > MESSAGE_LIMIT_BYTES:
        raise MalformedMessage("too_large")
    if message.startswith(JAVA_HEADER):
        raise MalformedMessage("java_serialized")
    try:
        value = strict_json.parse(message, max_depth=MAX_JSON_DEPTH)
        if isinstance(value, str):  # some serialisers write the JSON text as a JSON string
            value = strict_json.parse(value, max_depth=MAX_JSON_DEPTH)
    except strict_json.JsonInvalid:  # also a field twice: which of the two names the people?
        raise MalformedMessage("not_json") from None
    if not isinstance(value, dict):
        raise MalformedMessage("not_an_object")
    return value


def _identifier(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise MalformedMessage(f"no_{name}")
    value = _line(value)
    if len(value) > _ID_CHARACTERS:
        raise MalformedMessage(f"long_{name}")
    return value


def _parse_timestamp(value: object) -> float:
    """Parses an ISO 8601 time into Unix s. A time without a zone is UTC, in which the platform's containers run."""
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
        at = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
        datetime.fromtimestamp(at, UTC)  # with its offset, a time may lie outside the calendar
    except (ValueError, OverflowError):
        raise MalformedMessage("no_timestamp") from None
    return at


def _lines(value: Any, depth: int) -> Iterator[str]:
    """Yields every line of text and every number inside the value, without the keys, which nobody searches for."""
    match value:
        case str() if depth and not isinstance(inner := embedded_json(value), str):
            yield from _lines(inner, depth - 1)
        case str():
            yield from filter(None, (_line(line) for line in value.split("\n")))
        case bool() | None:
            return
        case int() | float():
            yield str(value)
        case dict() if depth:
            for key, item in value.items():
                if key.lower() != "@class" and not is_blind_copy(key):
                    yield from _lines(item, depth - 1)
        case list() if depth:
            for item in value:
                yield from _lines(item, depth - 1)


def _line(text: str) -> str:
    return _SPACES.sub(" ", text).strip().encode("utf-8", "replace").decode()
