"""The whole answer of a run in its last `content` frame (§2.2): built when the frame is read, and not stored."""

from __future__ import annotations

import re

import msgspec

from statemachine.frames import RESULT_LIMIT_BYTES, compact_json
from statemachine.stored import JsonObject

_CONTENT = b"event: content\n"
_LAST = b'"chunk":false'  # nowhere else in a frame: inside of a text its quotes are escaped
_HEADING = re.compile(r"\s*#{1,6}[ \t]+(\S.*?)[ \t#]*(?:\n|$)")
_TITLE = "답변"
_MAX_TITLE_CHARACTERS = 120


# Nowhere else in a frame, for the same reason. Every reader looks at every frame, so the frame is not decoded for it.
_TEXT, _AFTER_TEXT = b'"content":', b',"format":'
_decode_text = msgspec.json.Decoder(str).decode


def answer_text(body: bytes) -> str:
    """Return the piece of the answer in a frame body of any shape; empty for another type."""
    if not body.startswith(_CONTENT):
        return ""
    start = body.index(_TEXT) + len(_TEXT)
    return _decode_text(body[start : body.index(_AFTER_TEXT, start)])


def is_last_content(body: bytes) -> bool:
    """Return whether a frame body has the last piece of an answer."""
    return body.startswith(_CONTENT) and _LAST in body


def with_result(body: bytes, answer: str) -> bytes:
    """Return the last `content` frame with the whole answer as `metadata.result`, unless that has over 16 KiB."""
    if not answer.strip() or len(answer.encode("utf-8", "replace")) > RESULT_LIMIT_BYTES:
        return body
    metadata: JsonObject = {"result": {"type": "markdown", "title": _title(answer), "content": answer}}
    return body.replace(_LAST, _LAST + b',"metadata":' + compact_json(metadata).encode("utf-8", "replace"))


def _title(answer: str) -> str:
    """Return the heading with which the answer begins, if it does."""
    heading = _HEADING.match(answer)
    return heading[1][:_MAX_TITLE_CHARACTERS] if heading else _TITLE
