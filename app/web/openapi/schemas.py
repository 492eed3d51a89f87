"""Generates JSON Schema from Python types, in the same way for every document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from app.ports.responses import ApprovalDetails, DecisionResult, RequestPage, RunDetails, RunPage, ServiceInfo
from statemachine.stored import JsonObject
from statemachine.views.timeline import Timeline

_CLIENT_RESPONSES = (RunPage, RequestPage, RunDetails, DecisionResult, ApprovalDetails, ServiceInfo, Timeline)
"""The responses that the clients read, in TypeScript and in Python."""

Direction = Literal["validation", "serialization"]
"""Whether the service reads a type from requests or writes it to responses."""


class JsonSchemaGenerator(GenerateJsonSchema):
    """Omits generated titles and defaults. In responses every field is required unless its default is null."""

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
        generated = super().default_schema(schema)
        if self.mode == "serialization" or generated.get("default", ...) is None:
            generated.pop("default", None)
        return generated

    def json_schema(self, schema: core_schema.JsonSchema) -> JsonObject:
        """Describe `Json[...]` as text that contains JSON, in both directions."""
        content = self.generate_inner(schema.get("schema") or core_schema.any_schema())
        return {"type": "string", "contentMediaType": "application/json", "contentSchema": content}


TypeSchemas = dict[tuple[Any, Direction], JsonObject]
Definitions = dict[str, JsonObject]


def generate_schemas(types: Iterable[tuple[Any, Direction]], prefix: str) -> tuple[TypeSchemas, Definitions]:
    """Return the schema of each type, and the definitions that they refer to as `{prefix}{name}`."""
    inputs = [((type, direction), direction, TypeAdapter(type)) for type, direction in dict.fromkeys(types)]
    schemas, shared = TypeAdapter.json_schemas(
        inputs, ref_template=prefix + "{model}", schema_generator=JsonSchemaGenerator
    )
    return {key: schema for (key, _), schema in schemas.items()}, shared.get("$defs", {})


def generate_client_schemas(prefix: str) -> Definitions:
    """Return the definitions of all types in the responses that the clients read."""
    return generate_schemas([(type, "serialization") for type in _CLIENT_RESPONSES], prefix)[1]
