"""Turns the result of an MCP call into the result of a tool: text and structured content, and notes on the rest."""

from __future__ import annotations

import json
from typing import Any

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from app.tools.mcp import texts
from app.tools.results import DATA_NOTICE
from statemachine.stored import JsonObject

_MAX_TEXT_CHARACTERS = 256 * 1024
"""The registry cuts to far less; this bounds what is processed until then."""
_MAX_NAME_CHARACTERS = 300


def result_of(server: str, answered: CallToolResult) -> JsonObject:
    """Return the result as the model reads it, with the notice that it is data of others."""
    result: JsonObject = {"notice": f"This is the answer of the MCP server {server!r}. {DATA_NOTICE}"}
    text, structured = _text(answered), answered.structured_content
    if structured is not None:
        result["structured"] = _bounded(structured)
    if text and not _repeats(text, structured):
        result["text"] = text
    return result


def error_text(answered: CallToolResult) -> str:
    """Return the text of a result that is an error."""
    return texts.error(_text(answered))


def _text(answered: CallToolResult) -> str:
    joined = "\n\n".join(filter(None, map(_block, answered.content)))
    return texts.clean(joined, _MAX_TEXT_CHARACTERS)


def _block(block: Any) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            return f"[{block.type} of the type {_short(block.mime_type)}, {_size(block.data)}; it is not shown]"
        case ResourceLink():
            return f"[link to {_short(block.name)}: {_short(str(block.uri))}]"
        case EmbeddedResource(resource=TextResourceContents() as resource):
            return f"[{_short(str(resource.uri))}]\n{resource.text}"
        case EmbeddedResource(resource=BlobResourceContents() as resource):
            kind = _short(resource.mime_type or "unknown")
            return f"[{_short(str(resource.uri))} of the type {kind}, {_size(resource.blob)}; it is not shown]"
        case _:
            return "[content of a kind that is not known here]"


def _size(base64_text: str) -> str:
    return f"{len(base64_text) * 3 // 4:,} bytes"


def _short(text: str) -> str:
    return texts.one_line(text, _MAX_NAME_CHARACTERS)


def _repeats(text: str, structured: Any) -> bool:
    """Whether the text repeats the structured content: as its JSON, or as the one text in it."""
    if structured is None:
        return False
    if isinstance(structured, dict) and list(structured.values()) == [text]:
        return True
    try:
        return bool(json.loads(text) == structured)
    except (ValueError, RecursionError):
        return False


def _bounded(structured: Any) -> Any:
    """Return structured content without hidden characters: the JSON of one that is too large is cut as a text."""
    encoded = json.dumps(structured, ensure_ascii=False)
    if len(encoded) > _MAX_TEXT_CHARACTERS:
        return texts.clean(encoded, _MAX_TEXT_CHARACTERS)
    return _without_hidden(structured)


def _without_hidden(value: Any) -> Any:
    match value:
        case str():
            return texts.clean(value, _MAX_TEXT_CHARACTERS)
        case dict():
            return {texts.clean(str(key), _MAX_NAME_CHARACTERS): _without_hidden(item) for key, item in value.items()}
        case list():
            return [_without_hidden(item) for item in value]
        case _:
            return value
