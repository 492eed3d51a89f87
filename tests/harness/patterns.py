"""Compares JSON values with patterns, which are JSON, too: the language of conditions and expectations in
`fixtures/model_streams/` (described in fixtures/README.md)."""

from __future__ import annotations

import json
import re
from typing import Any


def matches(pattern: Any, value: Any) -> bool:
    """Return whether the value has at least what the pattern names. `null` stands for a field that is absent."""
    match pattern:
        case {"$is": exact, **rest} if not rest:
            return bool(value == exact)
        case {"$not": inner, **rest} if not rest:
            return not matches(inner, value)
        case {"$json": inner, **rest} if not rest:
            return _is_json(value) and matches(inner, json.loads(value))
        case {"$matches": expression, **rest} if not rest:
            return isinstance(value, str) and re.search(expression, value) is not None
        case dict():
            return isinstance(value, dict) and all(matches(inner, value.get(name)) for name, inner in pattern.items())
        case list():
            return isinstance(value, list) and all(any(matches(inner, item) for item in value) for inner in pattern)
        case _:
            return bool(pattern == value)


def _is_json(value: Any) -> bool:
    try:
        json.loads(value)
    except (TypeError, ValueError):
        return False
    return True
