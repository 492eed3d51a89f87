"""Rules for the tools of a chat completions request; `request_rules` has those of the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_DECLARED_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
_MAX_TOOLS = 128
_MAX_DESCRIPTION_CHARACTERS = 1024
_TOOL_FIELDS = frozenset({"type", "function"})
_FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict"})

_correct_tools: list[Any] = []
"""The tools that were found correct last. Nearly all requests have the same, and comparing them costs a fiftieth."""

_encode = json.JSONEncoder(ensure_ascii=False, default=repr).encode


def tools_problems(body: dict[str, Any]) -> list[str]:
    """Return what the servers refuse in the tools of a request, one line for each; a request may have none."""
    if "tools" not in body:
        return []
    tools = body["tools"]
    if not isinstance(tools, list) or not tools:
        return ["tools is not a list of tools; leave it out (OpenAI: \"[] is too short - 'tools'\")"]
    if tools == _correct_tools:
        return []
    found = list(_problems(tools))
    if not found:
        _correct_tools[:] = tools
    return found


def is_encodable(value: object) -> bool:
    """Return whether a text, or JSON, can be encoded as UTF-8: it cannot where it has half of a surrogate pair."""
    text = value if isinstance(value, str) else _encode(value)
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problems(tools: list[Any]) -> Iterator[str]:
    if len(tools) > _MAX_TOOLS:
        yield f'tools has {len(tools)} tools (OpenAI: "array too long", the maximum is {_MAX_TOOLS})'
    if not is_encodable(tools):
        yield "tools has half of a surrogate pair"
    names: set[str] = set()
    for at, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            yield f'tools[{at}] is not of the type "function" (DeepSeek: "missing field `type`")'
            continue
        for key in sorted((tool.keys() - _TOOL_FIELDS) | (function.keys() - _FUNCTION_FIELDS)):
            yield f'tools[{at}] has the unknown key {key!r} (Mistral: "Extra inputs are not permitted")'
        name = function.get("name")
        if not isinstance(name, str) or not _DECLARED_NAME.fullmatch(name):
            refused_by = 'Gemini: "Invalid function name. Must start with a letter or an underscore."'
            yield f"tools[{at}].function.name is {name!r} ({refused_by})"
        elif name in names:
            yield f'tools[{at}].function.name is {name!r} again (Gemini: "Duplicate function declaration found")'
        else:
            names.add(name)
        yield from _function_problems(f"tools[{at}].function", function)


def _function_problems(place: str, function: dict[str, Any]) -> Iterator[str]:
    description = function.get("description", "")
    if not isinstance(description, str) or len(description) > _MAX_DESCRIPTION_CHARACTERS:
        limit = f"the maximum is {_MAX_DESCRIPTION_CHARACTERS}"
        yield f'{place}.description is not a text, or too long (OpenAI: "string too long", {limit})'
    schema = function.get("parameters")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        yield f'{place}.parameters is not of the type object (OpenAI: "schema must be of \'type: "object"\'")'
    elif not isinstance(schema.get("properties"), dict):
        yield f'{place}.parameters has no properties (OpenAI: "object schema missing properties")'
    elif _has_array_without_items(schema):
        yield f'{place}.parameters has an array without items (OpenAI: "array schema missing items")'


def _has_array_without_items(schema: object) -> bool:
    if isinstance(schema, list):
        return any(map(_has_array_without_items, schema))
    if not isinstance(schema, dict):
        return False
    is_one = schema.get("type") == "array" and "items" not in schema
    return is_one or any(map(_has_array_without_items, schema.values()))
