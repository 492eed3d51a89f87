"""Decodes the JSON of an event into its class. It knows how the types of fields are written in `events`, not which."""

from __future__ import annotations

import dataclasses
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .events import EVENT_TYPES, Event

JsonObject = dict[str, Any]
"""JSON whose shape the service does not define: tool arguments, the context of the user's screen."""


def decode_event(type: str, fields: JsonObject) -> Event | None:
    """Return the typed event, without unknown fields; None for an unknown type, or a missing or invalid field."""
    event_class = EVENT_TYPES.get(type)
    try:
        return None if event_class is None else _decode_object(event_class, fields)
    except ValueError:
        return None


def _decode_object(cls: Any, value: Any) -> Any:
    """Return the dataclass of a JSON object; fields without a value have their default. Raises `ValueError`."""
    if not isinstance(value, dict):
        raise ValueError(f"not an object: {value!r}")
    arguments = {name: _decode(type, value[wire_name]) for name, wire_name, type in _fields(cls) if wire_name in value}
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(str(error)) from error


@cache
def _fields(cls: type[Any]) -> tuple[tuple[str, str, Any], ...]:
    """Return the name, the name on the wire, and the type of each field: `request_id` is `requestId` on the wire."""
    types = get_type_hints(cls)
    return tuple((field.name, _camel_case(field.name), types[field.name]) for field in dataclasses.fields(cls))


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _decode(type: Any, value: Any) -> Any:
    """Return a JSON value as this type. Raises `ValueError` where it is of another one."""
    match get_origin(type), get_args(type):
        case None, _:
            return _decode_plain(type, value)
        case origin, (item, *_) if origin is tuple and isinstance(value, list):
            return tuple(_decode(item, each) for each in value)
        case origin, (_, item) if origin is dict and isinstance(value, dict):
            return {name: _decode(item, each) for name, each in value.items()}
        case origin, constants if origin is Literal:
            if any(value == constant and value.__class__ is constant.__class__ for constant in constants):
                return value
        case origin, alternatives if origin in (UnionType, Union):  # the latter where a literal is in it
            if value is None and NoneType in alternatives:
                return None
            (alternative,) = (each for each in alternatives if each is not NoneType)
            return _decode(alternative, value)
    raise ValueError(f"not {type}: {value!r}")


def _decode_plain(type: Any, value: Any) -> Any:
    """Decode a type without arguments. An integer is a float too, and `true` is no number."""
    if type is Any:
        return value
    if dataclasses.is_dataclass(type):
        return _decode_object(type, value)
    if isinstance(value, type) and (type is bool or not isinstance(value, bool)):
        return value
    if type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"not {type}: {value!r}")
