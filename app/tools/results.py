"""What becomes of a tool's result before anybody reads it: JSON-safe, without secrets, short enough for the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from app.tools.arguments import MASK

_SECRET_MINIMUM_CHARACTERS = 6  # shorter ones would mask ordinary words
_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `dumps` makes an encoder each time
_DEPTH_LIMIT = 64  # a checkpoint holds some hundreds of levels, the result is only a part of one


class Scrubber:
    """Takes the service's secrets out of whatever a tool brings back."""

    def __init__(self, secrets: Sequence[str]) -> None:
        usable = {secret for secret in secrets if len(secret) >= _SECRET_MINIMUM_CHARACTERS}
        self._secrets = sorted(usable, key=len, reverse=True)  # one may be a part of another

    def text(self, text: str) -> str:
        """The text without secrets and without lone surrogates, which no UTF-8 can hold."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text if text.isascii() else text.encode("utf-8", "replace").decode()

    def json(self, value: Any, depth: int = _DEPTH_LIMIT) -> Any:
        """The same for a JSON value, keys too; what is nested deeper than a checkpoint can hold is left out."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict | list) and depth == 0:
            return "…[nested too deeply]"
        if isinstance(value, dict):
            return {self.text(key): self.json(item, depth - 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.json(item, depth - 1) for item in value]
        return value


def jsonable(value: Any) -> Any:
    """Any Python value as JSON: NaN is null, times are ISO 8601, what is unknown is its text. Raises `ValueError`."""
    return to_jsonable_python(value, inf_nan_mode="null", bytes_mode="base64", serialize_unknown=True)


def answer_text(result: Any) -> str:
    """How the model reads a result."""
    match result:
        case None:
            return "The tool finished; it gives no result."
        case str():
            return result
        case _:
            return _write(result)


def cut(text: str, limit_bytes: int) -> str:
    """The text, or as much of it as fits together with a mark that says how much is missing."""
    data = text.encode()
    if len(data) <= limit_bytes:
        return text
    kept = data[: max(0, limit_bytes - len(_mark(len(data), len(data)).encode()))].decode("utf-8", "ignore")
    return kept + _mark(len(kept.encode()), len(data))


def _mark(kept_bytes: int, whole_bytes: int) -> str:
    return f"…[truncated: {kept_bytes} of {whole_bytes} bytes]"
