"""Reads JSON that a client or a model wrote, and refuses what JSON parsers understand in different ways.

Refused are duplicate keys, NaN and Infinity, numbers that do not fit, and nesting that is too deep to be stored.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, NoReturn

_KEY_CHARACTERS = 100
_NUMBER_CHARACTERS = 20


class JsonInvalid(ValueError):
    """The text is not strict JSON. The message is the cause as a phrase, such as `NaN is not a JSON number`."""


def parse(text: str | bytes, *, max_depth: int) -> Any:
    """Returns the value that the JSON text holds; bytes are UTF-8, UTF-16 or UTF-32.

    Raises `JsonInvalid` for anything else, and for objects and arrays in more than `max_depth` levels.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
        value = _decode(decoded)
    except JsonInvalid:
        raise
    except json.JSONDecodeError as error:
        raise JsonInvalid(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise JsonInvalid("the text is not UTF-8") from None
    except RecursionError:
        raise JsonInvalid(_too_deep(max_depth)) from None
    except ValueError:  # an integer with more digits than Python converts
        raise JsonInvalid("a number has too many digits") from None
    check_depth(value, max_depth)
    return value


def check_depth(value: Any, max_depth: int) -> None:
    """Raises `JsonInvalid` if objects and arrays are nested in more than `max_depth` levels; `[]` is one level."""
    level = [value]
    for _ in range(max_depth):  # level by level, so that no depth can exhaust the stack
        level = [item for container in level for item in _items(container) if isinstance(item, dict | list)]
        if not level:
            return
    raise JsonInvalid(_too_deep(max_depth))


def _items(container: Any) -> Any:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, list) else ()


def _too_deep(max_depth: int) -> str:
    return f"objects and arrays are nested more than {max_depth} levels deep"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise JsonInvalid(f"the key {duplicate[:_KEY_CHARACTERS]!r} occurs more than once")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise JsonInvalid(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise JsonInvalid(f"{text[:_NUMBER_CHARACTERS]} is too large a number")
    return number


# `json.loads` would make a decoder for each call
_decode = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
).decode
