"""The types of the Python client: its event classes and its response types, generated from the service's own.

They have no dependencies, so that the client is a distribution of its own. Names and order are those of the service.
"""

from __future__ import annotations

import inspect
import json
import keyword
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from msgspec import NODEFAULT, Struct, structs
from pydantic import TypeAdapter

from app.ports.typed_json import struct_as_typed_dict
from app.web.openapi.events import event_fields_schema
from app.web.openapi.schemas import generate_client_schemas
from statemachine.events import EVENT_TYPES, Event
from statemachine.stored import JsonObject

_PREFIX = "#/"
_MAX_LINE_LENGTH = 120
_TYPE_NAMES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_EVENTS_DOCSTRING = """\
The events of a run (§2.2): one class for each type. They are generated from the service's own by `.ci/clients`.

A later version of the service may add fields: match by name, as in `case Content(content=text)`.
"""
_RESPONSES_DOCSTRING = """\
The types of the `data` of JSON responses, generated from the service's own by `.ci/clients`.

Field names are those of the wire. Times are in Unix seconds.
"""


def generate_events() -> str:
    """Return the module `events.py`: a frozen dataclass for each event type, and for each struct in an event."""
    parts = [*_docstring(_EVENTS_DOCSTRING, ""), "", "from __future__ import annotations", ""]
    parts += ["from dataclasses import dataclass", "from typing import Any, ClassVar, Literal"]
    for struct in dict.fromkeys(struct for event in EVENT_TYPES.values() for struct in _nested_structs(event)):
        schema = TypeAdapter(struct_as_typed_dict(struct)).json_schema(mode="serialization")
        parts += _dataclass(struct, schema["properties"], [])
    for event in EVENT_TYPES.values():
        schema = event_fields_schema(event, with_aliases=False, prefix=_PREFIX)
        parts += _dataclass(event, schema["properties"], [f'TYPE: ClassVar[str] = "{event.TYPE}"', ""])
    first, *others = (event.__name__ for event in EVENT_TYPES.values())
    parts += ["", "", "Event = (", f"    {first}", *(f"    | {name}" for name in others), ")", '"""Any event."""', ""]
    listed = [f'    "{event.TYPE}": {event.__name__},' for event in EVENT_TYPES.values()]
    parts += ["EVENT_TYPES: dict[str, type[Event]] = {", *listed, "}", '"""Event type → its class."""']
    return "\n".join(parts) + "\n"


def generate_responses() -> str:
    """Return the module `response_types.py`: a `TypedDict` for each object in responses, and the types in these."""
    parts = [*_docstring(_RESPONSES_DOCSTRING, ""), "", "from __future__ import annotations", ""]
    parts += ["from typing import Any, Literal, NotRequired, TypedDict", ""]
    definitions = generate_client_schemas(_PREFIX)
    for name, schema in definitions.items():
        if "properties" not in schema:
            parts += [*_wrapped(f"{name} = {_type(schema, 'list[{}]')}"), *_docstring(schema.get("description"), "")]
    objects = {name: schema for name, schema in definitions.items() if "properties" in schema}
    bases = {name: _base(schema, objects) for name, schema in objects.items()}
    for name in sorted(objects, key=lambda name: _depth(name, bases)):  # a class follows its base
        parts += _typed_dict(name, objects[name], bases[name], objects)
    return "\n".join(parts) + "\n"


MODULES: dict[str, Callable[[], str]] = {"events": generate_events, "response_types": generate_responses}
"""The generated modules in `app/client`, and what generates each."""


_MIN_SHARED_FIELDS = 5
"""Fewer fields are in two objects by chance."""


def _base(schema: JsonObject, objects: dict[str, JsonObject]) -> str | None:
    """Return the name of the largest object whose fields the schema has all, with the same types; None without one."""
    own = _fields(schema)
    shared = [
        name
        for name, other in objects.items()
        if _MIN_SHARED_FIELDS <= len(_fields(other)) < len(own) and _fields(other).items() <= own.items()
    ]
    return max(shared, key=lambda name: len(_fields(objects[name])), default=None)


def _depth(name: str, bases: Mapping[str, str | None]) -> int:
    """Return how many classes are above a class."""
    base = bases[name]
    return 0 if base is None else 1 + _depth(base, bases)


def _fields(schema: JsonObject) -> dict[str, str]:
    """Return the types of the fields of an object by their names."""
    required = set(schema.get("required", ()))
    types = {name: _type(of, "list[{}]") for name, of in schema["properties"].items()}
    return {name: type if name in required else f"NotRequired[{type}]" for name, type in types.items()}


def _typed_dict(name: str, schema: JsonObject, base: str | None, objects: dict[str, JsonObject]) -> Iterator[str]:
    """Yield the lines of a `TypedDict`, without the fields that its base has."""
    yield from ("", "", f"class {name}({base or 'TypedDict'}):")
    yield from _class_docstring(schema.get("description"))
    inherited = {} if base is None else _fields(objects[base])
    for field, type in _fields(schema).items():
        if field not in inherited:
            yield from _wrapped(f"    {_checked(field)}: {type}")


def _nested_structs(struct: type[Struct]) -> Iterator[type[Struct]]:
    """Yield the structs in the arrays of a struct."""
    for field in structs.fields(struct):
        yield from (it for it in get_args(field.type) if isinstance(it, type) and issubclass(it, Struct))


def _dataclass(struct: type[Struct], properties: JsonObject, head: list[str]) -> Iterator[str]:
    """Yield the lines of the dataclass of a struct: its names in Python, its defaults, the types of its schema."""
    yield from ("", "", "@dataclass(frozen=True, slots=True, kw_only=True)", f"class {struct.__name__}:")
    yield from _class_docstring(struct.__doc__ if struct.__doc__ != Event.__doc__ else None)
    yield from (f"    {line}" if line else "" for line in head)
    for field in structs.fields(struct):
        type = _type(properties[field.encode_name], "tuple[{}, ...]")
        if field.default is None and type != "Any" and not type.endswith("None"):
            type += " | None"  # the schema leaves it out where such a field is absent instead of null
        yield from _wrapped(f"    {_checked(field.name)}: {type}{_default(field)}")


def _default(field: structs.FieldInfo) -> str:
    """Return the default of a field as it follows its type."""
    default = field.default if field.default_factory is NODEFAULT else field.default_factory()
    if default is NODEFAULT:
        return ""
    return f" = {json.dumps(default) if isinstance(default, str) else repr(default)}"


def _type(schema: Any, array: str) -> str:
    """Return the type of a schema, for those kinds of schema that the service's types generate."""
    match schema:
        case {"$ref": reference}:
            return str(reference).removeprefix(_PREFIX)
        case {"const": value}:
            return f"Literal[{_literal(value)}]"
        case {"enum": values}:
            return f"Literal[{', '.join(map(_literal, values))}]"
        case {"anyOf": alternatives}:
            return " | ".join(_type(alternative, array) for alternative in alternatives)
        case {"type": "array", "items": items}:
            return array.format(_type(items, array))
        case {"type": "object"}:
            values = schema.get("additionalProperties")
            return f"dict[str, {_type(values, array) if isinstance(values, dict) else 'Any'}]"
        case {"type": name}:
            return _TYPE_NAMES[name]
        case _:
            return "Any"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _checked(name: str) -> str:
    """Return a name that may be a field's. Raises `ValueError` for others."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"a field of the Python client cannot be called {name!r}")
    return name


def _wrapped(line: str) -> list[str]:
    """Return a line, or where it is too long the lines of its literal with one value each."""
    if len(line) <= _MAX_LINE_LENGTH:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    head, _, rest = line.partition("Literal[")
    values, _, tail = rest.partition("]")
    return [f"{head}Literal[", *(f"{indent}    {value}," for value in values.split(", ")), f"{indent}]{tail}"]


def _class_docstring(text: str | None) -> list[str]:
    lines = _docstring(text, "    ")
    return [*lines, ""] if lines else []


def _docstring(text: str | None, indent: str) -> list[str]:
    """Return the lines of a docstring, wrapped at the length of a line."""
    if not text:
        return []
    paragraphs = [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n")]
    paragraphs[0] = f'"""{paragraphs[0]}'
    if len(paragraphs) == 1 and len(indent + paragraphs[0]) <= _MAX_LINE_LENGTH - 3:
        return [f'{indent}{paragraphs[0]}"""']
    wrapper = textwrap.TextWrapper(
        _MAX_LINE_LENGTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [line for paragraph in paragraphs for line in ("", *wrapper.wrap(paragraph))]
    return [*lines[1:], f'{indent}"""']
