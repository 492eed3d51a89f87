"""Python types as JSON Schema, one way for every document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from statemachine.checkpoint import JsonObject

Direction = Literal["validation", "serialization"]
"""What is read from a client, or what is written to one."""


class JsonSchemaGenerator(GenerateJsonSchema):
    """No made-up titles and defaults; what is written is written whole, but for what may be null."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        if self.mode == "serialization" and field["type"] == "model-field":
            return field["schema"].get("default", ...) is not None
        return super().field_is_required(field, total)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonObject:
        drawn = super().default_schema(schema)
        if self.mode == "serialization" or drawn.get("default", ...) is None:
            drawn.pop("default", None)
        return drawn

    def json_schema(self, schema: core_schema.JsonSchema) -> JsonObject:
        """`Json[...]` is text that holds JSON, whichever way it goes."""
        held = self.generate_inner(schema.get("schema") or core_schema.any_schema())
        return {"type": "string", "contentMediaType": "application/json", "contentSchema": held}


Types = dict[tuple[Any, Direction], JsonObject]
Definitions = dict[str, JsonObject]


def draw(types: Iterable[tuple[Any, Direction]], prefix: str) -> tuple[Types, Definitions]:
    """The schema of each type, and the definitions that they refer to, as `{prefix}{name}`."""
    inputs = [((kind, direction), direction, TypeAdapter(kind)) for kind, direction in dict.fromkeys(types)]
    schemas, shared = TypeAdapter.json_schemas(
        inputs, ref_template=prefix + "{model}", schema_generator=JsonSchemaGenerator
    )
    return {key: schema for (key, _), schema in schemas.items()}, shared.get("$defs", {})
