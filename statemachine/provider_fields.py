"""The fields that a provider adds to its messages and tool calls, and that only it understands.

Examples are `reasoning_content`, `reasoning_details` and `extra_content` with thought signatures. Some servers refuse a
conversation that lacks them, others refuse one that has them. So they are kept with their message under the private
name `provider_fields`, and go back verbatim to the server and the model that sent them and to no other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from statemachine.messages import ModelSource
from statemachine.stored import JsonObject, digest

PROVIDER_FIELDS = "provider_fields"
"""The private name in a stored message. `conversation_for` removes it from what is sent."""

_CONSTANT_FIELDS = frozenset({"id", "type", "format", "role", "name", "index", "object", "model"})
_STREAMED_TEXT = re.compile("content|text|reason|think|thought|summary|data|signature|output", re.IGNORECASE)
"""Names of texts that continue with each piece, also where two pieces are the same."""

_PORTABLE_ID = re.compile(r"[A-Za-z0-9]{9}")
"""The form of a tool call's id that every known server accepts; Mistral accepts no other."""


def merge_fields(known: JsonObject, piece: JsonObject) -> JsonObject:
    """Return the fields with those of the next piece of the stream: texts and lists continue, others are replaced."""
    if not known:
        return piece
    return known | {name: _merge(name, known.get(name), value) for name, value in piece.items()}


def _merge(name: str, known: Any, value: Any) -> Any:
    match known, value:
        case str(), str() if name not in _CONSTANT_FIELDS:
            is_repeated = known == value and not _STREAMED_TEXT.search(name)
            return known if is_repeated else known + value
        case dict(), dict():
            return merge_fields(known, value)
        case list(), list():
            return _merge_lists(known, value)
        case _, None:
            return known
        case _:
            return value


def _merge_lists(known: list[Any], more: list[Any]) -> list[Any]:
    """Append the items. An item continues a known one with the same `index` and type, and text continues the text
    before it."""
    merged = list(known)
    for item in more:
        place = next((place for place, other in enumerate(merged) if _is_continued(other, item)), None)
        if place is None and merged and _is_text(merged[-1]) and _is_text(item):
            place = len(merged) - 1
        if place is None:
            merged.append(item)
        else:
            merged[place] = merge_fields(merged[place], item)
    return merged


def _is_continued(known: Any, item: Any) -> bool:
    if not (isinstance(known, dict) and isinstance(item, dict)) or "index" not in item:
        return False
    return known.get("index") == item["index"] and known.get("type") == item.get("type", known.get("type"))


def _is_text(part: Any) -> bool:
    """Whether this is a part of a message's content that holds nothing but text."""
    return isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"


def with_provider_fields(
    message: JsonObject, source: ModelSource | None, extras: JsonObject, calls: Sequence[JsonObject] = ()
) -> JsonObject:
    """Return the message with the fields of its provider: `extras` of the message, `calls` those of each tool call.

    `extras` may have the content as a list of parts. Of a message with calls the origin is kept in any case, because
    their ids have the form that this server accepts.
    """
    if "content" in extras and not _says(extras["content"], message["content"] or ""):
        extras = {name: value for name, value in extras.items() if name != "content"}
    if source is None or not (extras or calls):
        return message
    fields: JsonObject = {"origin": source.origin}
    if extras:
        fields["message"] = extras
    if any(calls):
        fields["calls"] = list(calls)
    return {**message, PROVIDER_FIELDS: fields}


def _says(parts: Any, text: str) -> bool:
    """Return whether the parts hold more than this text and all of it."""
    if all(_is_text(part) for part in parts):
        return False
    return "".join(part["text"] for part in parts if _is_text(part)) == text


def conversation_for(origin: str, messages: Sequence[JsonObject]) -> list[JsonObject]:
    """Return the messages as they are sent to this origin.

    A message that another origin sent loses its provider's fields, and ids of tool calls that only its provider is
    known to accept are replaced, in the results of the calls, too.
    """
    sent: list[JsonObject] = []
    new_ids: dict[str, str] = {}
    for message in messages:
        if message["role"] == "tool":
            id = message["tool_call_id"]
            sent.append({**message, "tool_call_id": new_ids[id]} if id in new_ids else message)
            continue
        new_ids = {}
        if PROVIDER_FIELDS not in message:
            sent.append(message)
            continue
        public, fields = dict(message), message[PROVIDER_FIELDS]
        del public[PROVIDER_FIELDS]
        if fields["origin"] == origin:
            public = _with_fields(public, fields)
        elif "tool_calls" in public:
            public, new_ids = _with_portable_ids(public)
        sent.append(public)
    return sent


def _with_fields(message: JsonObject, fields: JsonObject) -> JsonObject:
    message = {**message, **fields.get("message", {})}
    if "calls" in fields:
        calls = zip(message["tool_calls"], fields["calls"], strict=True)
        message["tool_calls"] = [merge_fields(call, extras) for call, extras in calls]
    return message


def _with_portable_ids(message: JsonObject) -> tuple[JsonObject, dict[str, str]]:
    ids = {call["id"]: portable_id(call["id"]) for call in message["tool_calls"]}
    calls = [{**call, "id": ids[call["id"]]} for call in message["tool_calls"]]
    return {**message, "tool_calls": calls}, ids


def portable_id(id: str) -> str:
    """Return an id that every server accepts: the given one if it is such an id, else nine digits of its digest."""
    return id if _PORTABLE_ID.fullmatch(id) else digest(id)[:9]
