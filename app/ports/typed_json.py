"""Describes the JSON of a core struct as a `TypedDict`, so that pydantic can generate its JSON Schema."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, get_args, get_origin

from msgspec import Struct, structs
from pydantic import Field, with_config
from typing_extensions import TypedDict  # pydantic requires this one below Python 3.12


def struct_as_typed_dict(struct: type[Struct]) -> Any:
    """Return a `TypedDict` with the struct's name, docstring and encoded field names."""
    fields = {field.encode_name: _field_type(field) for field in structs.fields(struct)}
    typed_dict = TypedDict(struct.__name__, fields)  # type: ignore[misc]
    typed_dict.__doc__ = struct.__doc__
    return with_config(extra="forbid")(typed_dict)


def _field_type(field: structs.FieldInfo) -> Any:
    """Return the field's type for pydantic: nested structs are converted, fields with default None are optional."""
    type_ = field.type
    if isinstance(type_, type) and issubclass(type_, Struct):
        type_ = struct_as_typed_dict(type_)
    if get_origin(type_) is tuple and issubclass(get_args(type_)[0], Struct):
        type_ = list[struct_as_typed_dict(get_args(type_)[0])]  # type: ignore[misc]
    if get_origin(type_) is Annotated:
        type_, bounds = get_args(type_)
        type_ = Annotated[type_, Field(ge=bounds.ge, le=bounds.le)]
    return NotRequired[type_] if field.default is None else type_
