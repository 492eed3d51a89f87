"""The TypeScript client as it is served: the types that are generated from the service's own, and the bundled modules.

The types describe events as that client yields them: the fields beside `type`, under their first names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from app.web.openapi.events import event_fields_schema
from app.web.openapi.schemas import generate_client_schemas
from statemachine.events import EVENT_TYPES, VERSION, Event
from statemachine.stored import JsonObject

MODULES = ("types", "errors", "frames", "connection", "stream", "visible", "client")
"""The modules in `app/client/src`, in the order of their bundle: each imports only from those before it."""
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.MULTILINE)
_INTERNAL_EXPORT = re.compile(r"^(/\*\* @internal .*\*/\n)export ", re.MULTILINE)
_USAGE = re.compile(r"\A/\*\*.*?\*/\n", re.DOTALL)
_PREFIX = "#/"
_TYPE_NAMES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def generate_types() -> str:
    """Return the module `types.ts`: the event types, and the types of JSON responses."""
    envelope = [f'  version: "{VERSION}";', "  timestamp: number;", "  sessionId: string;"]
    parts = ["// The types of events and responses, generated from the service's own by `.ci/clients`.", ""]
    parts += ["/** The fields that all events have. */", "export interface EventBase {", *envelope, "}"]
    for type, event in EVENT_TYPES.items():
        fields = event_fields_schema(event, with_aliases=False, prefix=_PREFIX)
        parts += _comment(event.__doc__ if event.__doc__ != Event.__doc__ else None)
        parts += [f"export interface {event.__name__}Event extends EventBase {{", f'  type: "{type}";']
        parts += [*_fields(fields), "}"]
    names = [f"\n  | {event.__name__}Event" for event in EVENT_TYPES.values()]
    parts += ["/** Any event; `type` is the name of its kind. */", f"export type AuraEvent ={''.join(names)};"]
    parts += ["/** @internal The event types that this client knows. */"]
    parts += [f"export const EVENT_TYPES: ReadonlySet<string> = new Set({json.dumps(list(EVENT_TYPES))});"]
    for name, schema in generate_client_schemas(_PREFIX).items():
        parts += _comment(schema.get("description"))
        if "properties" in schema:
            parts += [f"export interface {name} {{", *_fields(schema), "}"]
        else:
            parts += [f"export type {name} = {_type(schema)};"]
    return "\n".join(parts) + "\n"


def bundle(sources: Mapping[str, str]) -> str:
    """Return all modules as one TypeScript module without imports. `sources` maps each of `MODULES` to its text.

    Declarations that are marked `@internal` are not exported. The usage comment of the last module comes first.
    """
    usage = _USAGE.match(sources[MODULES[-1]])
    parts = [usage[0] if usage else ""]
    for name in MODULES:
        source = _IMPORT.sub("", _USAGE.sub("", sources[name])).strip()
        parts.append(f"// --- {name}.ts\n\n" + _INTERNAL_EXPORT.sub(r"\1", source) + "\n")
    return "\n".join(parts)


def _comment(text: str | None) -> list[str]:
    return [f"/** {' '.join(text.split())} */"] if text else []


def _fields(schema: JsonObject) -> list[str]:
    required = set(schema.get("required", ()))
    return [
        f"  {name}{'' if name in required else '?'}: {_type(field)};" for name, field in schema["properties"].items()
    ]


def _type(schema: Any) -> str:
    """Return the TypeScript type of a schema, for those kinds of schema that the service's types generate."""
    match schema:
        case {"$ref": reference}:
            return str(reference).removeprefix(_PREFIX)
        case {"const": value}:
            return json.dumps(value)
        case {"enum": values}:
            return " | ".join(json.dumps(value) for value in values)
        case {"anyOf": alternatives}:
            return " | ".join(_type(alternative) for alternative in alternatives)
        case {"type": "array", "items": items}:
            inner = _type(items)
            return f"({inner})[]" if " " in inner else f"{inner}[]"
        case {"type": "object"}:
            values = schema.get("additionalProperties")
            return f"Record<string, {_type(values) if isinstance(values, dict) else 'unknown'}>"
        case {"type": name}:
            return _TYPE_NAMES[name]
        case _:
            return "unknown"
