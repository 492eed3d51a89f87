"""The events as JSON Schema (draft 2020-12), from the models that the service writes them with (§2.2).

One definition for each type: the fields with their aliases, flat, under `data`, or both, as `AURA_EVENT_SHAPE` says.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from app.ports.typed_json import struct_as_typed_dict
from app.web.openapi.schemas import JsonSchemaGenerator
from statemachine.checkpoint import JsonObject
from statemachine.events import EVENT_TYPES, VERSION, Event
from statemachine.frames import Shape

DIALECT = "https://json-schema.org/draft/2020-12/schema"
EVENT = "Event"


def event_definitions(shape: Shape, prefix: str) -> dict[str, JsonObject]:
    """`Event` (any of them, told apart by `type`) and each type; references begin with `prefix`."""
    definitions = {f"{name.__name__}Event": event_schema(name, shape) for name in EVENT_TYPES.values()}
    mapping = {type: f"{prefix}{model.__name__}Event" for type, model in EVENT_TYPES.items()}
    anyone: JsonObject = {
        "title": EVENT,
        "description": "The JSON of one `data:` line of a stream; the last one is not JSON but `[DONE]`.",
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": "type", "mapping": mapping},
    }
    return {EVENT: anyone, **definitions}


def events_schema(shape: Shape) -> JsonObject:
    """The document at `/aura/events.schema.json`."""
    definitions = event_definitions(shape, "#/$defs/")
    anyone = definitions.pop(EVENT)
    return {"$schema": DIALECT, **anyone, "title": "Events of Aura", "$defs": definitions}


def event_schema(event: type[Event], shape: Shape) -> JsonObject:
    """One type as it comes on the wire."""
    own = own_schema(event)
    envelope: JsonObject = {
        "type": {"const": event.TYPE},
        "version": {"const": VERSION},
        "timestamp": {"type": "integer", "description": "Unix seconds"},
        "sessionId": {"type": "string"},
    }
    properties, required = dict(envelope), list(envelope)
    if shape != "nested":
        properties |= own["properties"]
        required += own["required"]
    if shape != "flat":
        properties["data"] = own
        required.append("data")
    schema: JsonObject = {"type": "object", "title": event.__name__ + "Event"}
    if event.__doc__ and event.__doc__ is not Event.__doc__:
        schema["description"] = " ".join(event.__doc__.split())
    return schema | {
        "properties": properties,
        "required": list(dict.fromkeys(required)),
        "additionalProperties": False,
    }


def own_schema(event: type[Event], *, with_aliases: bool = True) -> JsonObject:
    """The fields that are the event's own."""
    model = TypeAdapter(struct_as_typed_dict(event)).json_schema(
        mode="serialization", schema_generator=JsonSchemaGenerator
    )
    properties: JsonObject = dict(model["properties"])
    for name in event.OMITTED_WHEN_NONE:  # where it is there, it is not null
        (properties[name],) = (kind for kind in properties[name]["anyOf"] if kind != {"type": "null"})
    required = [name for name in properties if name not in event.OMITTED_WHEN_NONE]
    for name, aliases in event.ALIASES.items() if with_aliases else ():
        for alias in aliases:
            properties[alias] = properties[name] | {"description": f"the same as {name}"}
            required.append(alias)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
