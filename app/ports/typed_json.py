"""The JSON of a core struct as a `TypedDict`, so that pydantic can describe it in JSON Schema."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, get_args, get_origin

from msgspec import Struct, structs
from pydantic import Field, with_config
from typing_extensions import TypedDict  # pydantic requires this one below Python 3.12


def struct_as_typed_dict(struct: type[Struct]) -> Any:
    """The JSON of a struct, as a type that can be drawn."""
    fields = {field.encode_name: _drawable(field) for field in structs.fields(struct)}
    drawable = TypedDict(struct.__name__, fields)  # type: ignore[misc]
    drawable.__doc__ = struct.__doc__
    return with_config(extra="forbid")(drawable)


def _drawable(field: structs.FieldInfo) -> Any:
    kind = field.type
    if isinstance(kind, type) and issubclass(kind, Struct):
        kind = struct_as_typed_dict(kind)
    if get_origin(kind) is Annotated:
        kind, meta = get_args(kind)
        kind = Annotated[kind, Field(ge=meta.ge, le=meta.le)]
    return NotRequired[kind] if field.default is None else kind
