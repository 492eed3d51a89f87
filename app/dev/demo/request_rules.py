"""Rules for the body of a chat completions request: what one of the known servers refuses is named as a problem.

Servers that have the same API refuse different things: OpenAI, DeepSeek, Gemini (its OpenAI-compatible endpoint),
Mistral, vLLM and llama.cpp. Here each rule is that of the strictest of them, so that a history which passes can be sent
to all. Each problem is one line: the place, what is wrong, and in parentheses who refuses it, with its words where they
are known. `tests/app/dev/demo/test_request_rules.py` has an example of each rule.

Two things that one of them refuses are no rules here, because all others accept them and the model's own turn would be
changed otherwise: text and calls in one assistant message (Mistral's tokenizers before v5), and a call of a tool that
does not exist (Gemini), which must go back with its refusal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Sequence
from typing import Any, NoReturn

from app.dev.demo.tool_rules import FUNCTION_NAME, is_encodable, tools_problems

PRIVATE_KEY = "provider_fields"
"""Where the service keeps, in a stored message, what a provider added to it. No request may contain this key."""

MAX_ID_CHARACTERS = 40
MAX_CALLS = 128

_FIELDS = {
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}
_CALL_FIELDS = frozenset({"id", "type", "function"})
_FUNCTION_FIELDS = frozenset({"name", "arguments"})
_PORTABLE_ID = re.compile(r"[a-zA-Z0-9]{9}")

_START = "the beginning"
_ROLES_AFTER = {
    _START: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
_ALTERNATE = 'llama.cpp: "Conversation roles must alternate user/assistant/user/assistant/..."'
_ORDER_REFUSED_BY = {
    ("tool", "user"): "Mistral: \"Unexpected role 'user' after role 'tool'\"",
    ("user", "tool"): "Mistral: \"Unexpected role 'tool' after role 'user'\"",
    (
        _START,
        "tool",
    ): "OpenAI: \"messages with role 'tool' must be a response to a message with 'tool_calls'\"",
    ("system", "assistant"): 'Gemini: "function call turn comes immediately after a user turn"',
    (_START, "assistant"): 'Gemini: "function call turn comes immediately after a user turn"',
}
_SYSTEM_REFUSED_BY = 'vLLM: "System message must be at the beginning."'
_UNKNOWN_KEY = 'Mistral: "Extra inputs are not permitted"'
_NO_ANSWER = (
    "OpenAI: \"An assistant message with 'tool_calls' must be followed by tool messages responding to each"
    " 'tool_call_id'\""
)


def problems(
    body: object, *, allowed_extras: frozenset[str] = frozenset(), known_ids: Container[str] | None = None
) -> list[str]:
    """Return what the servers refuse in the parsed body of a request, one line for each; empty: nothing.

    `allowed_extras` are the keys that this server adds to its own messages, calls and functions, so that it accepts
    them back in assistant messages; `content` among them means that it sends its content as a list of parts.
    `known_ids` are the ids of the calls that this server sent, and accepts back whatever their form; every other id
    must have the form that all servers accept. Without it, all ids are accepted that most servers accept.
    """
    if not isinstance(body, dict):
        return ["the body is not a JSON object"]
    found = [*_body_problems(body), *tools_problems(body)]
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return [*found, "messages is not a list with at least one message (OpenAI: \"[] is too short - 'messages'\")"]
    return [*found, *history_problems(messages, allowed_extras=allowed_extras, known_ids=known_ids)]


def history_problems(
    messages: Sequence[Any],
    *,
    allowed_extras: frozenset[str] = frozenset(),
    known_ids: Container[str] | None = None,
    is_open: bool = False,
) -> list[str]:
    """Return what the servers refuse in the messages of a request.

    `is_open`: more messages follow, so that the last calls may be without results, and the last message may be one
    after which no answer can follow.
    """
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else message
        if not isinstance(message, dict) or not isinstance(role, str) or role not in _FIELDS:
            refused_by = 'DeepSeek: "unknown variant, expected one of `system`, `user`, `assistant`, `tool`"'
            return [f"messages[{at}].role is {_shown(role)} ({refused_by})"]
    found: list[str] = []
    for at, message in enumerate(messages):
        found += _message_problems(f"messages[{at}]", message, allowed_extras, known_ids)
    found += _order_problems([message["role"] for message in messages], is_open=is_open)
    found += _pairing_problems(messages, is_open=is_open)
    return found


def _body_problems(body: dict[str, Any]) -> Iterator[str]:
    for key, value in body.items():
        if value is None:
            yield f"{_shown(key)} is null; leave it out ({_UNKNOWN_KEY})"
        elif key not in ("messages", "tools") and not (is_encodable(key) and is_encodable(value)):
            yield _half_pair(_shown(key))
    if not isinstance(body.get("model"), str) or not body["model"]:
        yield 'model is not a name (OpenAI: "you must provide a model parameter")'
    if "stream_options" in body and body.get("stream") is not True:
        yield "stream_options without stream (OpenAI: \"only allowed when 'stream' is enabled\")"
    if "tools" not in body:
        for key in ("tool_choice", "parallel_tool_calls"):
            if key in body:
                yield f"{key} without tools (OpenAI: \"only allowed when 'tools' are specified\")"


# --- one message ------------------------------------------------------------------------------------------------------


def _message_problems(
    place: str, message: dict[str, Any], extras: frozenset[str], known_ids: Container[str] | None
) -> Iterator[str]:
    role = message["role"]
    is_assistant = role == "assistant"
    yield from _key_problems(place, message, _FIELDS[role], extras if is_assistant else frozenset())
    yield from _content_problems(place, message, extras)
    if role == "tool":
        yield from _id_problems(f"{place}.tool_call_id", message.get("tool_call_id"), known_ids)
    elif is_assistant and "tool_calls" in message:
        calls = message["tool_calls"]
        if not isinstance(calls, list) or not calls:
            yield f'{place}.tool_calls is not a list of calls; leave it out (OpenAI: "[] is too short")'
            return
        if len(calls) > MAX_CALLS:
            yield f'{place}.tool_calls has {len(calls)} calls (OpenAI: "array too long", the maximum is {MAX_CALLS})'
        for index, call in enumerate(calls):
            yield from _call_problems(f"{place}.tool_calls[{index}]", call, extras, known_ids)


def _key_problems(place: str, given: dict[str, Any], known: frozenset[str], extras: frozenset[str]) -> Iterator[str]:
    for key in sorted(given.keys() - known):
        if key == PRIVATE_KEY:
            yield f"{place}.{key} is the service's own and must not be sent ({_UNKNOWN_KEY})"
        elif key not in extras:
            yield f"{place}.{_shown(key)} is not a key of the API ({_UNKNOWN_KEY})"
        elif not is_encodable(given[key]):
            yield _half_pair(f"{place}.{key}")


def _content_problems(place: str, message: dict[str, Any], extras: frozenset[str]) -> Iterator[str]:
    content, is_assistant = message.get("content"), message["role"] == "assistant"
    place = f"{place}.content"
    if isinstance(content, str):
        if not content:
            yield f'{place} is empty (Gemini: "contents.parts must not be empty")'
        elif not is_encodable(content):
            yield _half_pair(place)
    elif "content" not in message:
        yield f'{place} is missing (DeepSeek: "missing field `content`")'
    elif content is None and is_assistant:
        if not message.get("tool_calls"):
            yield f'{place} is null without calls (Mistral: "must have either content or tool_calls, but not none")'
    elif isinstance(content, list) and content and is_assistant and "content" in extras:
        if not is_encodable(content):
            yield _half_pair(place)
    else:
        yield f'{place} is {_shown(content)} (DeepSeek: "invalid type, expected a string")'


def _call_problems(place: str, call: object, extras: frozenset[str], known_ids: Container[str] | None) -> Iterator[str]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        yield f'{place} has no function (DeepSeek: "missing field `function`")'
        return
    yield from _key_problems(place, call, _CALL_FIELDS, extras)
    yield from _key_problems(f"{place}.function", function, _FUNCTION_FIELDS, extras)
    yield from _id_problems(f"{place}.id", call.get("id"), known_ids)
    if call.get("type") != "function":
        yield f'{place}.type is {_shown(call.get("type"))}, not "function" (DeepSeek: "missing field `type`")'
    name = function.get("name")
    if not isinstance(name, str) or not FUNCTION_NAME.fullmatch(name):
        refused_by = 'Mistral: "must be a-z, A-Z, 0-9, or contain underscores and dashes, with a maximum length of 64"'
        yield f"{place}.function.name is {_shown(name)} ({refused_by})"
    if problem := _arguments_problem(function.get("arguments")):
        yield f"{place}.function.arguments {problem}"


def _arguments_problem(arguments: object) -> str:
    if not isinstance(arguments, str):
        return f'is {_shown(arguments)}, not text (OpenAI: "expected a string, but got an object instead")'
    try:
        parsed = _decode_strictly(arguments)
    except (ValueError, RecursionError):
        return f'is no JSON: {_shown(arguments)} (llama.cpp: "Failed to parse tool call arguments as JSON")'
    if not isinstance(parsed, dict):
        return f"is no JSON object: {_shown(arguments)} (Gemini: its arguments are a Struct; vLLM's templates: items())"
    has_escape = "\\u" in arguments or not arguments.isascii()
    return "has half of a surrogate pair (llama.cpp)" if has_escape and not is_encodable([arguments, parsed]) else ""


def _id_problems(place: str, id: object, known_ids: Container[str] | None) -> Iterator[str]:
    if not isinstance(id, str) or not id:
        yield f'{place} is {_shown(id)} (Mistral: "Tool call id has to be defined")'
    elif not is_encodable(id):
        yield _half_pair(place)
    elif known_ids is None:
        if len(id) > MAX_ID_CHARACTERS:
            yield f'{place} has {len(id)} characters (OpenAI: "string too long", the maximum is {MAX_ID_CHARACTERS})'
    elif id not in known_ids and not _PORTABLE_ID.fullmatch(id):
        refused_by = 'Mistral: "must be a-z, A-Z, 0-9, with a length of 9"'
        yield f"{place} {_shown(id)} was not sent by this server ({refused_by})"


# --- the order of the messages ----------------------------------------------------------------------------------------


def _order_problems(roles: Sequence[str], *, is_open: bool) -> Iterator[str]:
    before = _START
    for at, role in enumerate(roles):
        if role not in _ROLES_AFTER[before]:
            refused_by = _SYSTEM_REFUSED_BY if role == "system" else _ORDER_REFUSED_BY.get((before, role), _ALTERNATE)
            yield f"messages[{at}].role is {role} after {before} ({refused_by})"
        before = role
    if not is_open and before not in ("user", "tool"):
        refused_by = 'Mistral: "Expected last role User or Tool"; Gemini: "Requests ending with a model turn"'
        yield f"messages[{len(roles) - 1}].role is {before}, and it is the last ({refused_by})"


def _pairing_problems(messages: Sequence[dict[str, Any]], *, is_open: bool) -> Iterator[str]:
    """Each call has exactly one result, in the tool messages that follow it directly."""
    open_ids: list[object] = []
    all_ids: set[str] = set()
    for at, message in enumerate(messages):
        if message["role"] == "tool":
            id = message.get("tool_call_id")
            if id in open_ids:
                open_ids.remove(id)
            else:
                yield f'messages[{at}] answers no open call {_shown(id)} (Mistral: "Unexpected tool call id")'
            continue
        yield from _unanswered(at, open_ids)
        open_ids = _call_ids(message)
        for id in open_ids:
            if isinstance(id, str):
                if id in all_ids:
                    yield f'messages[{at}] has the id {_shown(id)} a second time (Mistral: "Duplicate tool call id")'
                all_ids.add(id)
    if not is_open:
        yield from _unanswered(len(messages), open_ids)


def _unanswered(at: int, open_ids: Sequence[object]) -> Iterator[str]:
    if open_ids:
        ids = ", ".join(map(_shown, open_ids))
        yield f"before messages[{at}], no tool message answers {ids} ({_NO_ANSWER})"


def _call_ids(message: dict[str, Any]) -> list[object]:
    calls = message.get("tool_calls") if message["role"] == "assistant" else None
    return [call.get("id") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


# --- texts ------------------------------------------------------------------------------------------------------------


def _half_pair(place: str) -> str:
    return f'{place} has half of a surrogate pair (DeepSeek: "lone leading surrogate in hex escape")'


def _shown(value: object) -> str:
    """Return a value as part of a line: as JSON in ASCII, cut."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else text[:80] + "…"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decode_strictly = json.JSONDecoder(parse_constant=_refuse_constant).decode
