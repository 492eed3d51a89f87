"""Python types as JSON Schema, one way for every document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, NotRequired, get_args, get_origin

from msgspec import Struct, structs
from pydantic import Field, TypeAdapter, with_config
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from statemachine.checkpoint import JsonObject

Direction = Literal["validation", "serialization"]
"""What is read from a client, or what is written to one."""


class Drawing(GenerateJsonSchema):
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


def written(struct: type[Struct]) -> Any:
    """The JSON of a struct, as a type that can be drawn."""
    fields = {field.encode_name: _drawable(field) for field in structs.fields(struct)}
    drawable = TypedDict(struct.__name__, fields)  # type: ignore[misc]
    drawable.__doc__ = struct.__doc__
    return with_config(extra="forbid")(drawable)


def _drawable(field: structs.FieldInfo) -> Any:
    kind = field.type
    if isinstance(kind, type) and issubclass(kind, Struct):
        kind = written(kind)
    if get_origin(kind) is Annotated:
        kind, meta = get_args(kind)
        kind = Annotated[kind, Field(ge=meta.ge, le=meta.le)]
    return NotRequired[kind] if field.default is None else kind


Types = dict[tuple[Any, Direction], JsonObject]
Definitions = dict[str, JsonObject]


def draw(types: Iterable[tuple[Any, Direction]], prefix: str) -> tuple[Types, Definitions]:
    """The schema of each type, and the definitions that they refer to, as `{prefix}{name}`."""
    inputs = [((kind, direction), direction, TypeAdapter(kind)) for kind, direction in dict.fromkeys(types)]
    schemas, shared = TypeAdapter.json_schemas(inputs, ref_template=prefix + "{model}", schema_generator=Drawing)
    return {key: schema for (key, _), schema in schemas.items()}, shared.get("$defs", {})
