"""The JSON schema of a tool of an MCP server: what the model reads of it, and the check of arguments against it.

The schema is a text of the server. So its size and depth are bounded, nothing that it refers to is fetched, and what
checking may cost is bounded: patterns have a time limit, and a limited number of rules is applied.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import referencing
import regex
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, extend, validator_for
from pydantic import RootModel, model_validator
from pydantic_core import PydanticCustomError
from referencing.exceptions import Unresolvable

from app.text import hidden
from app.tools.mcp import texts

MAX_BYTES = 16 * 1024
MAX_DEPTH = 24
_MAX_WHOLE_BYTES = 2 * MAX_BYTES
"""With the parts that are not offered to the model."""
_MAX_RULES = 50_000
"""Rules that are applied in one check, about half a second of them. References can branch without an end."""
_PATTERN_SECONDS = 0.05
_ALL_PATTERNS_SECONDS = 0.2
_MAX_REPETITIONS = 100_000
"""The library writes each required repetition out, some 300 bytes each: `(?:a{1000}){1000}` takes 300 MB."""
_REPETITION = regex.compile(r"\{\s*([0-9]+)")
_ESCAPED = regex.compile(r"(?s)\\.")
_OTHER_DIALECT = regex.compile(r"\(\?(?![:=!<])")
"""Flags, recursion and the like, which JSON Schema's patterns do not have."""
_MAX_ERRORS = 5
_MAX_RULE_CHARACTERS = 120
_MAX_TEXT_CHARACTERS = 1024
_NOT_OFFERED = frozenset({"$schema", "$id", "$anchor", "$comment", "$vocabulary", "x-mcp-header"})
_NOT_OFFERED_AT_THE_TOP = frozenset({"anyOf", "oneOf", "allOf", "not", "enum", "const", "if", "then", "else"})
"""Model servers refuse these beside the type of the whole. Arguments are checked against them all the same."""
_UNBOUNDED = frozenset({"propertyNames", "uniqueItems"})
_WITH_PATTERNS = frozenset({"patternProperties", "additionalProperties", "unevaluatedProperties"})
_NAMED_SCHEMAS = ("properties", "$defs", "definitions", "dependentSchemas")
_TYPES = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


class SchemaRefused(ValueError):
    """A tool with this schema cannot be offered; the message is the cause."""


class ServerArguments(RootModel[dict[str, Any]]):
    """The arguments of a tool of an MCP server: a JSON object. `arguments_model` makes a class for each schema."""


def arguments_model(schema: Any) -> type[ServerArguments]:
    """Return the class of arguments for the `inputSchema` of a tool. Raises `SchemaRefused`."""
    offered = _offered(schema)
    check = _Check(schema)

    class Arguments(ServerArguments):
        @classmethod
        def model_json_schema(cls, *_: Any, **__: Any) -> dict[str, Any]:
            return offered

        @model_validator(mode="after")
        def _fulfil_the_schema(self) -> Arguments:
            check(self.root)
            return self

    return Arguments


def _offered(schema: Any) -> dict[str, Any]:
    """Return the schema as model servers accept it."""
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise SchemaRefused("its arguments are not an object")
    if _depth(schema) > MAX_DEPTH:
        raise SchemaRefused(f"its schema is nested more than {MAX_DEPTH} levels deep")
    if _size(schema) > _MAX_WHOLE_BYTES:
        raise SchemaRefused(f"its schema has more than {_MAX_WHOLE_BYTES // 1024} KiB")
    top = {key: value for key, value in schema.items() if key not in _NOT_OFFERED_AT_THE_TOP}
    cleaned = _cleaned(top)
    properties = cleaned.get("properties")
    offered = {**cleaned, "type": "object", "properties": properties if isinstance(properties, dict) else {}}
    if _size(offered) > MAX_BYTES:
        raise SchemaRefused(f"its schema has more than {MAX_BYTES // 1024} KiB")
    return offered


def _size(schema: dict[str, Any]) -> int:
    return len(json.dumps(schema, ensure_ascii=False).encode("utf-8", "replace"))


def _cleaned(schema: Any) -> Any:
    """Return a schema without keys that are not for the model, with short texts, and with items for each array."""
    if isinstance(schema, list):
        return [_cleaned(item) for item in schema]
    if isinstance(schema, str):
        return texts.clean(schema, _MAX_TEXT_CHARACTERS)
    if not isinstance(schema, dict):
        return schema
    cleaned: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NOT_OFFERED:
            continue
        if any(True for _ in hidden.find_hidden(key)):
            raise SchemaRefused("a name in its schema has hidden characters")
        if key in _NAMED_SCHEMAS and isinstance(value, dict):
            cleaned[key] = dict(_named(value))
        else:
            cleaned[key] = _cleaned(value)
    if cleaned.get("type") == "array" and "items" not in cleaned:
        cleaned["items"] = {}
    return cleaned


def _named(schemas: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas of properties, of which any name is possible, also one such as `$id`."""
    for name, schema in schemas.items():
        if any(True for _ in hidden.find_hidden(name)):
            raise SchemaRefused("a name in its schema has hidden characters")
        if isinstance(schema, bool):
            yield name, {} if schema else {"not": {}}  # the same as objects, which each model server accepts
        else:
            yield name, _cleaned(schema)


def _depth(value: Any, limit: int = MAX_DEPTH) -> int:
    if limit < 0 or not isinstance(value, dict | list):
        return 0
    items = value.values() if isinstance(value, dict) else value
    return 1 + max((_depth(item, limit - 1) for item in items), default=0)


class _TooCostly(Exception):
    """The check was given up."""


class _Check:
    """Checks arguments against one schema. The server checks them too, so what is too costly here is left to it."""

    def __init__(self, schema: dict[str, Any]) -> None:
        _check_form(schema)
        try:
            kind = validator_for(schema, default=Draft202012Validator)
        except ValueError:  # of an address that is none
            raise SchemaRefused("its schema is not valid: $schema") from None
        self._applied = 0
        self._pattern_seconds = 0.0
        rules = {**kind.VALIDATORS, "pattern": self._check_pattern}
        bounded: Any = extend(kind, {name: self._counted(rule) for name, rule in rules.items()})  # type: ignore[no-untyped-call]
        self._validator: Validator = bounded(_without_unbounded_rules(schema), registry=referencing.Registry())

    def __call__(self, arguments: dict[str, Any]) -> None:
        """Raise an error with the first causes, without the values of the arguments."""
        self._applied, self._pattern_seconds = 0, 0.0
        errors = []
        try:
            for error in self._validator.iter_errors(arguments):
                errors.append(_describe(error))
                if len(errors) == _MAX_ERRORS:
                    break
        except _TooCostly:
            return
        except (RecursionError, Unresolvable):
            errors = ["the schema of the tool refers to something that does not exist, or to itself"]
        if errors:
            raise PydanticCustomError("schema", "{errors}", {"errors": "; ".join(errors)})

    def _counted(self, rule: Any) -> Any:
        """Return a rule that counts how often it is applied, and how many alternatives it tries."""

        def counted(validator: Any, given: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            self._applied += len(given) if isinstance(given, list) else 1
            if self._applied > _MAX_RULES:
                raise _TooCostly
            yield from rule(validator, given, instance, schema) or ()

        return counted

    def _check_pattern(self, _: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
        """The check of `pattern`, with a time limit; what is too costly or of another dialect is left to the server."""
        if not isinstance(instance, str) or not _can_be_compiled(pattern):
            return
        if self._pattern_seconds > _ALL_PATTERNS_SECONDS:
            raise _TooCostly
        began = time.monotonic()
        try:
            found = regex.search(pattern, instance, timeout=_PATTERN_SECONDS)
        except (regex.error, TimeoutError, RecursionError):
            return
        finally:
            self._pattern_seconds += time.monotonic() - began
        if not found:
            yield ValidationError("it does not have the form of the pattern")


def _can_be_compiled(pattern: str) -> bool:
    """Whether compiling a pattern takes little memory: a repetition in another one multiplies, so all are multiplied.

    A pattern of forty characters could else take all the memory of the machine.
    """
    pattern = _ESCAPED.sub("", pattern)
    counts = [found[1].lstrip("0") for found in _REPETITION.finditer(pattern)]
    if any(len(count) > len(str(_MAX_REPETITIONS)) for count in counts):
        return False
    return math.prod(int(count or 1) for count in counts) <= _MAX_REPETITIONS and not _OTHER_DIALECT.search(pattern)


def _check_form(schema: Any) -> None:
    """Check that the rules of a schema have the form that their check needs. Raises `SchemaRefused`.

    The library's own check takes a second for 16 KiB, in which the service would do nothing else.
    """
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise SchemaRefused("its schema is not valid: a part of it is not a schema")
    for rule, given in schema.items():
        if rule in _FORMS and not _FORMS[rule](given):
            raise SchemaRefused(f"its schema is not valid: {rule}")
        if rule in _NAMED_SCHEMAS:
            inner = list(given.values())
        elif rule in _SCHEMA_LISTS or (rule == "items" and isinstance(given, list)):
            inner = given
        else:
            inner = [given] if rule in _SCHEMAS else []
        for each in inner:
            _check_form(each)


def _is_type(given: Any) -> bool:
    names = given if isinstance(given, list) else [given]
    return all(isinstance(name, str) and name in _JSON_TYPES for name in names)


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _is_count(given: Any) -> bool:
    return _is_number(given) and given >= 0


def _is_text(given: Any) -> bool:
    return isinstance(given, str)


def _is_object(given: Any) -> bool:
    return isinstance(given, dict)


def _is_list(given: Any) -> bool:
    return isinstance(given, list)


_JSON_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = frozenset(
    {"items", "additionalItems", "contains", "additionalProperties", "not", "if", "then", "else"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_FORMS: dict[str, Callable[[Any], bool]] = {
    "type": _is_type,
    "required": lambda given: isinstance(given, list) and all(map(_is_text, given)),
    "multipleOf": lambda given: _is_number(given) and given > 0,
    **dict.fromkeys(("minimum", "maximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
    **dict.fromkeys(("minProperties", "maxProperties", "minContains", "maxContains"), _is_count),
    **dict.fromkeys(("pattern", "$ref", "$dynamicRef", "$schema", "$id"), _is_text),
    **dict.fromkeys((*_NAMED_SCHEMAS, "dependentRequired", "patternProperties"), _is_object),
    **dict.fromkeys(("enum", *_SCHEMA_LISTS), _is_list),
}
"""What the value of a rule must be. The rules that are not named here can have any value, or are not applied."""


def _without_unbounded_rules(schema: Any) -> Any:
    """Return the schema without rules whose cost has no limit: the server checks those."""
    if isinstance(schema, list):
        return [_without_unbounded_rules(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    dropped = _UNBOUNDED | _WITH_PATTERNS if "patternProperties" in schema else _UNBOUNDED
    kept = {}
    for key, value in schema.items():
        if key in _NAMED_SCHEMAS and isinstance(value, dict):
            kept[key] = {name: _without_unbounded_rules(inner) for name, inner in value.items()}
        elif key not in dropped:
            kept[key] = value if key in ("enum", "const", "default") else _without_unbounded_rules(value)
    return kept


def _describe(error: ValidationError) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:100]}" for step in error.absolute_path)
    place = f"{path.removeprefix('.')}: " if path else ""
    return texts.one_line(f"{place}{_cause(error)}", 300)


def _cause(error: ValidationError) -> str:
    """Return what is wrong, in words of ours: those of the library contain the value."""
    rule, given = error.validator, cast("Any", error.validator_value)
    match rule:
        case "type":
            wanted = " or ".join(given) if isinstance(given, list) else str(given)
            kind = _TYPES.get(type(error.instance), "a number")
            return f"the type {wanted} is required, not {kind}"
        case "required" if isinstance(error.instance, dict):
            missing = [name for name in given if name not in error.instance]
            return f"{', '.join(missing)} is required"
        case "additionalProperties" if isinstance(error.instance, dict) and isinstance(error.schema, dict):
            known = error.schema.get("properties", {})
            unknown = [name[:60] for name in error.instance if name not in known]
            return f"unknown: {', '.join(unknown[:_MAX_ERRORS])}; possible: {', '.join(known) or 'nothing'}"
        case "pattern" | "enum" | "const" | "minimum" | "maximum" | "minLength" | "maxLength" | "minItems" | "maxItems":
            return f"{rule} is {json.dumps(given, ensure_ascii=False)[:_MAX_RULE_CHARACTERS]}"
        case _:
            return f"the rule {rule} of the tool's schema is not fulfilled"
