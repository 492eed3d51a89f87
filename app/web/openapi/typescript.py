"""The types of the TypeScript client, from the event models and the answers' types: a piece of `app/client/client.ts`.

Events are as that client hands them on: the fields beside `type`, under their first names.
"""

from __future__ import annotations

import json
from typing import Any

from app.ports.responses import DecisionResult, RequestPage, RunDetails, RunPage, ServiceInfo, StoredApprovalRequest
from app.web.openapi.events import own_schema
from app.web.openapi.schemas import draw
from statemachine.checkpoint import JsonObject
from statemachine.events import EVENT_TYPES, VERSION, Event
from statemachine.views.timeline import Timeline

BEGIN = "// <generated>"
END = "// </generated>"
_PREFIX = "#/"
_ANSWERS = (RunPage, RequestPage, RunDetails, DecisionResult, StoredApprovalRequest, ServiceInfo, Timeline)
_WORDS = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def generated() -> str:
    """The lines between the marks."""
    envelope = [f'  version: "{VERSION}";', "  timestamp: number;", "  sessionId: string;"]
    parts = ["/** What every event has. */", "export interface EventBase {", *envelope, "}"]
    for type, event in EVENT_TYPES.items():
        own = own_schema(event, with_aliases=False)
        parts += _comment(event.__doc__ if event.__doc__ != Event.__doc__ else None)
        parts += [f"export interface {event.__name__}Event extends EventBase {{", f'  type: "{type}";']
        parts += [*_fields(own), "}"]
    names = [f"\n  | {event.__name__}Event" for event in EVENT_TYPES.values()]
    parts += ["/** Told apart by `type`. */", f"export type AuraEvent ={''.join(names)};"]
    parts += [f"const EVENT_TYPES: ReadonlySet<string> = new Set({json.dumps(list(EVENT_TYPES))});"]
    _, definitions = draw([(kind, "serialization") for kind in _ANSWERS], _PREFIX)
    for name, schema in definitions.items():
        parts += _comment(schema.get("description"))
        if "properties" in schema:
            parts += [f"export interface {name} {{", *_fields(schema), "}"]
        else:
            parts += [f"export type {name} = {_type(schema)};"]
    return "\n".join(parts) + "\n"


def with_types(source: str) -> str:
    """The client's source with the generated part as it should be."""
    head, _, rest = source.partition(BEGIN)
    return f"{head}{BEGIN}\n{generated()}{END}{rest.partition(END)[2]}"


def _comment(text: str | None) -> list[str]:
    return [f"/** {' '.join(text.split())} */"] if text else []


def _fields(schema: JsonObject) -> list[str]:
    required = set(schema.get("required", ()))
    return [
        f"  {name}{'' if name in required else '?'}: {_type(field)};" for name, field in schema["properties"].items()
    ]


def _type(schema: Any) -> str:
    """A schema of the kinds that our models make."""
    match schema:
        case {"$ref": reference}:
            return str(reference).removeprefix(_PREFIX)
        case {"const": value}:
            return json.dumps(value)
        case {"enum": values}:
            return " | ".join(json.dumps(value) for value in values)
        case {"anyOf": kinds}:
            return " | ".join(_type(kind) for kind in kinds)
        case {"type": "array", "items": items}:
            inner = _type(items)
            return f"({inner})[]" if " " in inner else f"{inner}[]"
        case {"type": "object"}:
            values = schema.get("additionalProperties")
            return f"Record<string, {_type(values) if isinstance(values, dict) else 'unknown'}>"
        case {"type": word}:
            return _WORDS[word]
        case _:
            return "unknown"
