"""The events as JSON Schema (draft 2020-12), derived from the classes that the service encodes them with (§2.2).

There is one definition for each event type. Its fields and their aliases are beside `type`, under `data`, or both, as
`AURA_EVENT_SHAPE` selects.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from app.ports.typed_json import struct_as_typed_dict
from app.web.openapi.schemas import JsonSchemaGenerator
from statemachine.events import EVENT_TYPES, VERSION, Event
from statemachine.frames import Shape
from statemachine.stored import JsonObject

DIALECT = "https://json-schema.org/draft/2020-12/schema"
EVENT = "Event"
KNOWN_EVENT = "KnownEvent"
UNKNOWN_EVENT = "UnknownEvent"
_UNKNOWN: JsonObject = {
    "title": UNKNOWN_EVENT,
    "description": "An event of a type that a later version has, or of the names of the workspace page: ignore it.",
    "type": "object",
    "properties": {"type": {"type": "string"}},
    "required": ["type"],
    "additionalProperties": True,
}


def event_definitions(shape: Shape, prefix: str, *, is_strict: bool = False) -> dict[str, JsonObject]:
    """Return the definition `Event` (any type), `KnownEvent`, `UnknownEvent` and one for each type.

    References begin with `prefix`. With `is_strict` only what this version sends is valid; without it, also what a
    later one may add.
    """
    definitions = {f"{it.__name__}Event": event_schema(it, shape, is_strict=is_strict) for it in EVENT_TYPES.values()}
    mapping = {type: f"{prefix}{model.__name__}Event" for type, model in EVENT_TYPES.items()}
    known: JsonObject = {
        "title": KNOWN_EVENT,
        "description": "An event of a type that this version of the service has; `type` tells which.",
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": "type", "mapping": mapping},
    }
    names = [KNOWN_EVENT] if is_strict else [KNOWN_EVENT, UNKNOWN_EVENT]
    any_event: JsonObject = {
        "title": EVENT,
        "description": "The JSON of one `data:` line of a stream. The last line is not JSON but `[DONE]`.",
        "anyOf": [{"$ref": prefix + name} for name in names],
    }
    return {EVENT: any_event, KNOWN_EVENT: known, UNKNOWN_EVENT: _UNKNOWN, **definitions}


def events_schema(shape: Shape, *, is_strict: bool = False) -> JsonObject:
    """Return the document that is served at `/aura/events.schema.json`; `is_strict` as in `event_definitions`."""
    definitions = event_definitions(shape, "#/$defs/", is_strict=is_strict)
    any_event = definitions.pop(EVENT)
    return {"$schema": DIALECT, **any_event, "title": "Events of Aura", "$defs": definitions}


def event_schema(event: type[Event], shape: Shape, *, is_strict: bool) -> JsonObject:
    """Return the schema of one event type as it is sent."""
    fields = event_fields_schema(event) | {"title": f"{event.__name__}Fields"}
    if not is_strict:
        del fields["additionalProperties"]
    timestamp: JsonObject = {"type": "integer", "description": "The time of the event in Unix seconds."}
    envelope: JsonObject = {
        "type": {"const": event.TYPE},
        "version": {"const": VERSION},
        "timestamp": timestamp,
        "sessionId": {"type": "string"},
    }
    properties, required = dict(envelope), list(envelope)
    if shape != "nested":
        properties |= fields["properties"]
        required += fields["required"]
    if shape != "flat":
        properties["data"] = fields | {
            "properties": {"timestamp": timestamp, **fields["properties"]},
            "required": ["timestamp", *fields["required"]],
        }
        required.append("data")
    schema: JsonObject = {"type": "object", "title": event.__name__ + "Event"}
    if event.__doc__ and event.__doc__ is not Event.__doc__:
        schema["description"] = " ".join(event.__doc__.split())
    schema |= {"properties": properties, "required": list(dict.fromkeys(required))}
    return schema | ({"additionalProperties": False} if is_strict else {})


def event_fields_schema(event: type[Event], *, with_aliases: bool = True, prefix: str | None = None) -> JsonObject:
    """Return the schema of the event's own fields, without those that all events have.

    Structs inside of it are written out or, with a `prefix`, references that begin with it.
    """
    model = TypeAdapter(struct_as_typed_dict(event)).json_schema(
        mode="serialization", schema_generator=JsonSchemaGenerator, ref_template=(prefix or "") + "{model}"
    )
    properties: JsonObject = dict(model["properties"])
    if prefix is None:
        properties = {name: _written_out(field, model.get("$defs", {})) for name, field in properties.items()}
    for name in event.OMITTED_WHEN_NONE:  # such a field is absent instead of null
        (properties[name],) = (type for type in properties[name]["anyOf"] if type != {"type": "null"})
    required = [name for name in properties if name not in event.OMITTED_WHEN_NONE]
    for name, aliases in event.ALIASES.items() if with_aliases else ():
        for alias in aliases:
            properties[alias] = properties[name] | {"description": f"The same as `{name}`."}
            required.append(alias)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _written_out(schema: JsonObject, definitions: dict[str, JsonObject]) -> JsonObject:
    """Return the schema of a field with the definitions of the items of a list in it instead of references."""
    items = schema.get("items")
    return {**schema, "items": definitions[items["$ref"]]} if isinstance(items, dict) and "$ref" in items else schema
