"""Shortens the messages of an earlier run: long texts are cut in their middle, so that their beginning and end stay.

What it returns is a valid conversation again: each tool call is followed by its result, and has a JSON object as its
arguments. The fields of a provider (`provider_fields`) stay with their message and are not counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from statemachine.stored import JsonObject, canonical_json

_MIN_CHARACTERS_WITH_TOOLS = 200
"""If less would be left of the texts of a run, its tool calls and their results are left out instead."""
_MIN_CHARACTERS = 40
"""This much is left of a prompt and of an answer in any case."""
_FRAME_BYTES = 16
"""An estimate for what a server adds to each message and to each call: role, ids, separators."""
_MAX_PARSED_CHARACTERS = 64 * 1024
"""Longer arguments are cut as text, so that shortening a run never takes long."""


def size_in_bytes(messages: Iterable[JsonObject]) -> int:
    """Return the approximate size of messages as the model reads them."""
    size = 0
    for message in messages:
        size += _FRAME_BYTES + _text_bytes(message["content"] or "")
        for call in message.get("tool_calls") or ():
            function = call["function"]
            size += _FRAME_BYTES + _text_bytes(function["name"]) + _text_bytes(function["arguments"])
    return size


def shorten(messages: Sequence[JsonObject], max_bytes: int) -> list[JsonObject]:
    """Return the messages of a run, which begin with its prompt and end with its answer, in at most `max_bytes`.

    All texts get the same limit of characters, the largest one that fits. If that leaves too little of each, only the
    prompt and the answer are kept; of these some characters are left even where they do not fit.
    """
    shortened = _shorten_evenly(messages, _MIN_CHARACTERS_WITH_TOOLS, max_bytes)
    if size_in_bytes(shortened) <= max_bytes:
        return shortened
    return _shorten_evenly((messages[0], messages[-1]), _MIN_CHARACTERS, max_bytes)


def cut_middle(text: str, max_characters: int) -> str:
    """Return a text of about `max_characters`, with a mark in its middle that counts the characters left out."""
    left_out = len(text) - max_characters
    mark = f"[… {left_out:,} characters left out …]"
    if left_out <= len(mark):
        return text
    return f"{text[: (max_characters + 1) // 2]}{mark}{text[len(text) - max_characters // 2 :]}"


class _Arguments(NamedTuple):
    """The arguments of a call, parsed once for all limits that are tried. `texts` has each value as text."""

    values: dict[str, Any]
    texts: dict[str, str]

    @classmethod
    def of(cls, text: str) -> _Arguments:
        """Parse the JSON object in a text. If the text is none, or is too long to be parsed, there are no values."""
        try:
            values = json.loads(text) if len(text) <= _MAX_PARSED_CHARACTERS else {}
        except (ValueError, RecursionError):
            values = {}
        values = values if isinstance(values, dict) else {}
        return cls(values, {key: it if isinstance(it, str) else canonical_json(it) for key, it in values.items()})


_Parse = Callable[[str], _Arguments]


def _shorten_evenly(messages: Sequence[JsonObject], min_characters: int, max_bytes: int) -> list[JsonObject]:
    """Cut all texts to the largest limit with which they fit, within 2 %, and at least to `min_characters`."""
    parse = cache(_Arguments.of)
    fits, too_many = min_characters, max(max_bytes, min_characters) + 1
    while too_many - fits > max(1, fits // 50):
        limit = (fits + too_many) // 2
        if size_in_bytes(_cut_message(message, limit, parse) for message in messages) <= max_bytes:
            fits = limit
        else:
            too_many = limit
    return [_cut_message(message, fits, parse) for message in messages]


def _cut_message(message: JsonObject, limit: int, parse: _Parse) -> JsonObject:
    cut = {**message, "content": cut_middle(message["content"], limit) if message["content"] else message["content"]}
    if message.get("tool_calls"):
        cut["tool_calls"] = [_cut_call(call, limit, parse) for call in message["tool_calls"]]
    return cut


def _cut_call(call: JsonObject, limit: int, parse: _Parse) -> JsonObject:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _cut_arguments(function["arguments"], limit, parse)}}


def _cut_arguments(text: str, limit: int, parse: _Parse) -> str:
    """Return the arguments of a call with about `limit` characters, again as a JSON object.

    Its long values are cut; they share what the short ones leave. Where it has too many values for that, its text is
    cut and becomes the only value.
    """
    if cut_middle(text, limit) == text:
        return text
    values, texts = parse(text)
    long_keys = [key for key, value in texts.items() if len(value) > limit // len(texts)]
    if long_keys:
        share = limit // len(long_keys)
        cut = {key: cut_middle(texts[key], share) for key in long_keys}
        arguments = canonical_json(values | {key: value for key, value in cut.items() if value != texts[key]})
        if len(arguments) <= 2 * limit:
            return arguments
    return canonical_json({"arguments": cut_middle(text, limit)})


def _text_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
