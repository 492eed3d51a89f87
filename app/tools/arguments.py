"""A tool's arguments: from the JSON of the model or of an approver to the validated model and back.

Secrets are stored and passed to the tool in plain text, and are masked in everything that people see.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python

from statemachine import strict_json
from statemachine.masking import MASK
from statemachine.stored import JsonObject

LIMIT_BYTES = 64 * 1024
LIMIT_DEPTH = 32
_MAX_ERRORS_SHOWN = 5

ModelT = TypeVar("ModelT", bound=BaseModel)
_Secret = Secret[Any] | SecretStr | SecretBytes
_SECRET_TYPES = (Secret, SecretStr, SecretBytes)


class ArgumentsInvalid(ValueError):
    """The arguments are not valid; the message names the fields and never contains the value of one."""


def parse(raw: str) -> JsonObject:
    """Returns the object in a model's arguments text, which is empty for blank text. Raises `ArgumentsInvalid`."""
    check_size(raw)
    if not raw.strip():
        return {}
    try:
        value = strict_json.parse(raw, max_depth=LIMIT_DEPTH)
    except strict_json.JsonInvalid as error:
        raise ArgumentsInvalid(f"the arguments are not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArgumentsInvalid(f"the arguments must be one JSON object, not {_json_type(value)}")
    return value


def is_small_enough(text: str) -> bool:
    """Whether the arguments text has at most `LIMIT_BYTES` bytes in UTF-8."""
    return len(text.encode("utf-8", "replace")) <= LIMIT_BYTES


def check_size(text: str) -> None:
    """Raises `ArgumentsInvalid` if the arguments text has more than `LIMIT_BYTES` bytes in UTF-8."""
    if not is_small_enough(text):
        raise ArgumentsInvalid(f"the arguments have more than {LIMIT_BYTES} bytes")


def validate(model: type[ModelT], arguments: JsonObject) -> ModelT:
    """Validates the arguments by the rules of JSON, also where Python code built them. Raises `ArgumentsInvalid`."""
    try:
        strict_json.check_depth(arguments, LIMIT_DEPTH)
        text = _encode(arguments)
    except strict_json.JsonInvalid as error:
        raise ArgumentsInvalid(f"the arguments are not valid JSON: {error}") from None
    except (ValueError, TypeError, RecursionError):
        raise ArgumentsInvalid("the arguments contain a value that JSON does not have") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        # `from None`: pydantic's own message repeats the input, which may be a secret.
        raise ArgumentsInvalid(_describe(error)) from None
    except Exception as error:  # noqa: BLE001 - a tool's own validator failed on a value that it did not expect
        raise ArgumentsInvalid(f"the arguments cannot be checked ({type(error).__name__})") from None


def dump(arguments: BaseModel) -> tuple[JsonObject, JsonObject]:
    """Returns the arguments as JSON twice, defaults included: with secrets in plain text, and with secrets masked.

    What an approver sees is all that the tool gets: a default that another version of the tool has changes nothing.

    Raises `ArgumentsInvalid` for a number that is not finite: pydantic reads the text "NaN" as a number; and where a
    serializer of the tool fails.
    """
    try:
        dumped = arguments.model_dump(mode="json", by_alias=True)
        original = arguments.model_dump(by_alias=True)
    except Exception as error:  # noqa: BLE001 - a tool's own serializer failed on a value that it did not expect
        raise ArgumentsInvalid(f"the arguments cannot be written as JSON ({type(error).__name__})") from None
    try:
        _encode(dumped)
    except ValueError:
        raise ArgumentsInvalid("the arguments contain a number that is not finite") from None
    plain = _replace_secrets(dumped, original, _value_of)
    return plain, _replace_secrets(dumped, original, lambda _: MASK)


def restore_unchanged(edited: Any, shown: Any, original: Any) -> Any:
    """Returns an approver's edit, with each value that is still as it was `shown` replaced by the `original` one.

    Values in a list are restored only if its length is unchanged, so that no secret moves to another item.
    """
    if isinstance(edited, dict) and isinstance(shown, dict) and isinstance(original, dict):
        return {
            key: restore_unchanged(value, shown[key], original[key]) if key in shown and key in original else value
            for key, value in edited.items()
        }
    if isinstance(edited, list) and isinstance(shown, list) and isinstance(original, list):
        if len(edited) != len(shown):
            return edited
        return [original[i] if value == shown[i] else value for i, value in enumerate(edited)]
    return original if edited == shown and isinstance(edited, str) else edited


def find_masked_field(arguments: BaseModel) -> str | None:
    """Returns the path of the first secret whose value is the mask itself, which an approver has sent back."""
    return next((path for path, secret in _secrets(arguments.model_dump()) if secret == MASK), None)


class _CompactSchema(GenerateJsonSchema):
    """Leaves out titles, which repeat the names and cost tokens."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def model_schema(self, schema: Any) -> dict[str, Any]:
        generated = super().model_schema(schema)
        generated.pop("title", None)
        generated.pop("description", None)
        return generated


def json_schema(model: type[BaseModel]) -> JsonObject:
    """Returns the JSON schema of a tool's arguments, without titles and without the description of the whole."""
    return model.model_json_schema(schema_generator=_CompactSchema)


# `json.dumps` would make an encoder for each call
_encode = json.JSONEncoder(allow_nan=False).encode


def _json_type(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


def _describe(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    shown = [f"{_path(item['loc']) or 'arguments'}: {item['msg']}" for item in errors[:_MAX_ERRORS_SHOWN]]
    if len(errors) > _MAX_ERRORS_SHOWN:
        shown.append(f"and {len(errors) - _MAX_ERRORS_SHOWN} more")
    return "; ".join(shown)


def _path(location: tuple[int | str, ...]) -> str:
    """Returns a location as text, such as `accounts[0].password`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step[:100]}"
    return text.removeprefix(".")


def _value_of(secret: _Secret) -> Any:
    """Returns the value of a secret as JSON."""
    return to_jsonable_python(secret.get_secret_value())


def _replace_secrets(dumped: Any, original: Any, replacement: Callable[[_Secret], Any]) -> Any:
    """Returns `dumped` with a value of our choice for each secret: pydantic itself can only dump its own mask."""
    if isinstance(original, _SECRET_TYPES):
        return replacement(original)
    if isinstance(dumped, dict) and isinstance(original, dict):
        return {
            key: _replace_secrets(item, inner, replacement)
            for (key, item), inner in zip(dumped.items(), original.values(), strict=True)
        }
    if isinstance(dumped, list) and isinstance(original, list | tuple | set | frozenset):
        return [_replace_secrets(item, inner, replacement) for item, inner in zip(dumped, original, strict=True)]
    return dumped


def _secrets(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Returns `(path, secret)` for each secret inside the value."""
    if isinstance(value, _SECRET_TYPES):
        return [(path, _value_of(value))]
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _secrets(item, f"{path}.{key}".removeprefix("."))]
    if isinstance(value, list | tuple | set | frozenset):
        return [found for i, item in enumerate(value) for found in _secrets(item, f"{path}[{i}]")]
    return []
