"""A tool's arguments: from the model's or a person's JSON to the checked model and back, with and without secrets.

Refuses what JSON parsers let through in different ways: duplicate keys, NaN, numbers without end, depth without end.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isinf
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from statemachine.checkpoint import JsonObject

MASK = "***"
LIMIT_BYTES = 64 * 1024
LIMIT_DEPTH = 32
_ERRORS_TOLD = 5

ModelT = TypeVar("ModelT", bound=BaseModel)


class ArgumentsInvalid(ValueError):
    """Arguments that do not fit; the message names the fields and never holds a value."""


def parse(raw: str) -> JsonObject:
    """The object in a model's arguments text; no text at all means no arguments. Raises `ArgumentsInvalid`."""
    check_size(raw)
    if not raw.strip():
        return {}
    try:
        value = _read(raw)
        if not isinstance(value, dict):
            raise ArgumentsInvalid(f"the arguments must be one JSON object, not {_kind(value)}")
        _check_depth(value, LIMIT_DEPTH)
    except json.JSONDecodeError as error:
        raise ArgumentsInvalid(
            f"the arguments are not valid JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from error
    except RecursionError:
        raise ArgumentsInvalid(f"the arguments are nested more than {LIMIT_DEPTH} levels deep") from None
    except ArgumentsInvalid:
        raise
    except ValueError:  # an integer with more digits than Python converts
        raise ArgumentsInvalid("the arguments hold a number that is too long") from None
    return value


def fits(text: str) -> bool:
    """Whether arguments written like this are no longer than anybody needs."""
    return len(text.encode("utf-8", "replace")) <= LIMIT_BYTES


def check_size(text: str) -> None:
    """Raises `ArgumentsInvalid` where the text does not fit."""
    if not fits(text):
        raise ArgumentsInvalid(f"the arguments have more than {LIMIT_BYTES} bytes")


def validate(model: type[ModelT], arguments: JsonObject) -> ModelT:
    """The checked arguments, read by JSON's rules whoever built the object. Raises `ArgumentsInvalid`."""
    try:
        _check_depth(arguments, LIMIT_DEPTH)
        text = _write(arguments)
    except ArgumentsInvalid:
        raise
    except (ValueError, TypeError, RecursionError):
        raise ArgumentsInvalid("the arguments are not JSON") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        # `from None`: pydantic's own message repeats the input, which may be a secret.
        raise ArgumentsInvalid(_told(error)) from None
    except Exception as error:  # noqa: BLE001 - a validator of a tool that did not expect such a value
        raise ArgumentsInvalid(f"the arguments cannot be checked ({type(error).__name__})") from None


def dump(arguments: BaseModel) -> tuple[JsonObject, JsonObject]:
    """The arguments as they are stored and run, and as people see them: JSON, defaults left out; there secrets stand as
    they are, here they are masked. Raises `ArgumentsInvalid`: pydantic reads the text "NaN" as a number."""
    written = arguments.model_dump(mode="json", exclude_unset=True, by_alias=True)
    try:
        _write(written)
    except ValueError:
        raise ArgumentsInvalid("the arguments hold a number that is not finite") from None
    original = arguments.model_dump(exclude_unset=True, by_alias=True)
    return _filled(written, original, lambda secret: secret.get_secret_value()), _filled(written, original, _masked)


def keep_unchanged(edited: Any, shown: Any, real: Any) -> Any:
    """A person's edit with what was hidden from them put back: where a value is still as it was shown, it means the
    original. In a list only while its length is the same, so that no secret moves to another item."""
    if isinstance(edited, dict) and isinstance(shown, dict) and isinstance(real, dict):
        return {
            key: keep_unchanged(value, shown[key], real[key]) if key in shown and key in real else value
            for key, value in edited.items()
        }
    if isinstance(edited, list) and isinstance(shown, list) and isinstance(real, list):
        if len(edited) != len(shown):
            return edited
        return [real[i] if value == shown[i] else value for i, value in enumerate(edited)]
    return real if edited == shown and isinstance(edited, str) else edited


def masked_field(arguments: BaseModel) -> str | None:
    """The first secret whose value is the mask itself: somebody sent back what they were shown."""
    return next((place for place, secret in _secrets(arguments.model_dump()) if secret == MASK), None)


class _CompactSchema(GenerateJsonSchema):
    """Titles repeat the names; models pay for each token."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def model_schema(self, schema: Any) -> dict[str, Any]:
        written = super().model_schema(schema)
        written.pop("title", None)
        written.pop("description", None)
        return written


def json_schema(model: type[BaseModel]) -> JsonObject:
    """The JSON schema of a tool's arguments, without titles."""
    return model.model_json_schema(schema_generator=_CompactSchema)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ArgumentsInvalid(f"{twice[:100]}: the key stands more than once")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ArgumentsInvalid(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ArgumentsInvalid(f"{text[:20]} is too large a number")
    return number


# `json.loads` and `json.dumps` would make one each time
_read = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite_float
).decode
_write = json.JSONEncoder(allow_nan=False).encode


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        raise ArgumentsInvalid(f"the arguments are nested more than {LIMIT_DEPTH} levels deep")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        _check_depth(item, left - 1)


def _kind(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


def _told(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    told = [f"{_place(item['loc']) or 'arguments'}: {item['msg']}" for item in errors[:_ERRORS_TOLD]]
    if len(errors) > _ERRORS_TOLD:
        told.append(f"and {len(errors) - _ERRORS_TOLD} more")
    return "; ".join(told)


def _place(location: tuple[int | str, ...]) -> str:
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step[:100]}"
    return text.removeprefix(".")


def _masked(_: SecretStr) -> str:
    return MASK


def _filled(written: Any, original: Any, word: Callable[[SecretStr], str]) -> Any:
    """The JSON form with each secret's place filled: pydantic itself can only write its mask there."""
    if isinstance(original, SecretStr):
        return word(original)
    if isinstance(written, dict) and isinstance(original, dict):
        return {
            key: _filled(item, inner, word)
            for (key, item), inner in zip(written.items(), original.values(), strict=True)
        }
    if isinstance(written, list) and isinstance(original, list | tuple | set | frozenset):
        return [_filled(item, inner, word) for item, inner in zip(written, original, strict=True)]
    return written


def _secrets(value: Any, place: str = "") -> list[tuple[str, str]]:
    if isinstance(value, SecretStr):
        return [(place, value.get_secret_value())]
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _secrets(item, f"{place}.{key}".removeprefix("."))]
    if isinstance(value, list | tuple | set | frozenset):
        return [found for i, item in enumerate(value) for found in _secrets(item, f"{place}[{i}]")]
    return []
