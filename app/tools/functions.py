"""A decorated function as a tool of the registry: its arguments from its signature, its dependencies by type."""

from __future__ import annotations

import inspect
import string
import typing
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any

import docstring_parser
from docstring_parser import ParseError
from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.fields import FieldInfo
from pydantic_core import SchemaError

from app.ports.tools import ToolContext
from app.tools.arguments import json_schema
from app.tools.definitions import DefinitionInvalid, ResourceDefinition, ToolDefinition, place_of

_CONFIG = ConfigDict(extra="forbid", protected_namespaces=())
_NO_SCHEMA = (PydanticSchemaGenerationError, PydanticUserError, SchemaError, NameError, TypeError, ValueError)
_ARGUMENT_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class FunctionTool:
    """One decorated function (`ports.tools.Tool`)."""

    def __init__(self, definition: ToolDefinition[..., Any], resources: Dependencies) -> None:
        """`resources` has the types of the dependencies now, and their values once they have started.

        Raises `DefinitionInvalid`.
        """
        function, marks = definition.function, definition.marks
        documentation = _documentation(function)
        self.name = definition.name
        self.title = marks.title or self.name.replace("_", " ").strip()
        self.description = marks.description or documentation.summary or self.title
        self.source = place_of(function)
        self.needs_approval = marks.needs_approval
        self.idempotent = marks.idempotent
        self.outward = marks.outward
        self.untrusted = marks.untrusted
        self.timeout_seconds = marks.timeout_seconds
        self._function = function
        self._question = marks.question
        self._resources = resources
        hints = parameter_types(function)
        self._context_names = [name for name, kind in hints.items() if kind is ToolContext]
        self._dependencies = {name: kind for name, kind in hints.items() if resources.provides(kind)}
        filled_in = {*self._context_names, *self._dependencies}
        arguments = {name: kind for name, kind in hints.items() if name not in filled_in}
        self._names = list(arguments)
        self.arguments = _arguments_model(function, arguments, documentation.parameters)
        _check_question(function, self._question, self._names)

    @property
    def needed(self) -> set[type]:
        """The types of the resources that the function needs."""
        return set(self._dependencies.values())

    def question(self, arguments: Any) -> str:
        if not self._question:
            return f"{self.title}: 실행하시겠습니까?"
        return self._question.format(**{name: getattr(arguments, name) for name in self._names})

    async def run(self, arguments: Any, context: ToolContext) -> Any:
        filled_in = {name: self._resources.get(kind) for name, kind in self._dependencies.items()}
        filled_in |= dict.fromkeys(self._context_names, context)
        return await self._function(**{name: getattr(arguments, name) for name in self._names}, **filled_in)


class Dependencies:
    """What the service fills in for parameters, by their types. The values are there once they have started."""

    def __init__(self, values: Mapping[type, Any]) -> None:
        """`values` are the parts of the service that tools may use."""
        self._values: dict[type, Any] = dict(values)
        self._types: set[type] = set(values)

    def declare(self, kind: type) -> None:
        """Announce a type whose value follows at the start."""
        self._types.add(kind)

    def provides(self, kind: Any) -> bool:
        """Whether a parameter of this type is filled in."""
        return isinstance(kind, type) and kind in self._types

    def put(self, kind: type, value: Any) -> None:
        self._values[kind] = value

    def get(self, kind: type) -> Any:
        return self._values[kind]


class _Documentation(typing.NamedTuple):
    """The content of a docstring: its first paragraph, and the descriptions of the parameters by their names."""

    summary: str
    parameters: Mapping[str, str]


def _documentation(function: Callable[..., Any]) -> _Documentation:
    text = inspect.getdoc(function) or ""
    summary = " ".join(text.split("\n\n")[0].split())
    try:
        parsed = docstring_parser.parse(text)
    except ParseError:  # the text is in no known style, so nothing of it describes a parameter
        return _Documentation(summary, {})
    described = {each.arg_name: " ".join((each.description or "").split()) for each in parsed.params}
    return _Documentation(summary, described)


def parameter_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the type of each parameter, in order. Raises `DefinitionInvalid` where one has none."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # noqa: BLE001 - a type is any expression, so evaluating it can raise anything
        cause = f"the type of a parameter cannot be resolved: {type(error).__name__}: {error}"
        raise DefinitionInvalid(function, cause) from None
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in _ARGUMENT_KINDS:
            raise DefinitionInvalid(function, f"the parameter {parameter} has no name that a model could give: name it")
        if name not in hints:
            raise DefinitionInvalid(function, f"the parameter `{name}` has no type: add one, such as `{name}: str`")
    return {name: hints[name] for name in inspect.signature(function).parameters}


def provided_type(definition: ResourceDefinition[..., Any]) -> type:
    """Return the type of what a resource yields. Raises `DefinitionInvalid` where its return type does not name it."""
    function = definition.function
    try:
        returned = typing.get_type_hints(function).get("return")
    except Exception as error:  # noqa: BLE001 - as above
        cause = f"its return type cannot be resolved: {type(error).__name__}: {error}"
        raise DefinitionInvalid(function, cause) from None
    origin, parts = typing.get_origin(returned), typing.get_args(returned)
    if not isinstance(origin, type) or not issubclass(origin, AsyncIterator) or not isinstance(parts[0], type):
        raise DefinitionInvalid(function, "its return type must name what it provides: `-> AsyncIterator[Pool]`")
    provided: type = parts[0]
    return provided


def _arguments_model(
    function: Callable[..., Any], types: Mapping[str, Any], descriptions: Mapping[str, str]
) -> type[BaseModel]:
    """Return the model of the arguments. Unknown arguments are refused, so that the model sees its mistake."""
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in types:
            continue
        if name.startswith("_"):
            raise DefinitionInvalid(function, f"the parameter `{name}` begins with `_`: rename it")
        if name.startswith("model_") and hasattr(BaseModel, name):
            raise DefinitionInvalid(function, f"the parameter `{name}` has a name that pydantic uses: rename it")
        is_described = any(isinstance(it, FieldInfo) and it.description for it in typing.get_args(types[name])[1:])
        kind = types[name]
        if descriptions.get(name) and not is_described:
            kind = Annotated[kind, Field(description=descriptions[name])]
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[name] = (kind, default)
        _check_default(function, name, kind, default)
    try:
        return _model_of(f"{function.__name__}_arguments", fields)
    except _NO_SCHEMA as error:
        raise DefinitionInvalid(function, _cause_of_no_schema(fields, error)) from None


def _model_of(name: str, fields: Mapping[str, Any]) -> type[BaseModel]:
    """Return a model whose JSON schema can be offered. Raises one of `_NO_SCHEMA`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a parameter may be named `copy` or `json`
        model: type[BaseModel] = create_model(name, __config__=_CONFIG, **fields)
    json_schema(model)
    return model


def _cause_of_no_schema(fields: Mapping[str, Any], error: Exception) -> str:
    """Return which parameter cannot be offered to a model, why, and the remedy."""
    for name, field in fields.items():
        try:
            _model_of("arguments", {name: field})
        except PydanticSchemaGenerationError:
            kind = getattr(field[0], "__name__", str(field[0]))
            remedy = "use a type that it has, or decorate with @resource the function that provides the value"
            return f"the parameter `{name}` has the type {kind}, which JSON does not have: {remedy}"
        except _NO_SCHEMA as found:
            return f"the parameter `{name}` has no JSON schema: {str(found).splitlines()[0]}; correct its type"
    return f"its arguments have no JSON schema: {str(error).splitlines()[0]}; correct their types"


def _check_default(function: Callable[..., Any], name: str, kind: Any, default: Any) -> None:
    """Refuse a default that the function could not get: it is checked like what the model writes, at each call."""
    if default is ... or isinstance(default, FieldInfo):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            adapter = TypeAdapter(kind)
    except _NO_SCHEMA:
        return  # the model of all arguments has the same fault
    try:
        adapter.validate_python(default)
    except ValidationError as error:
        cause = f"the default of `{name}` does not fit its type: {error.errors()[0]['msg']}"
        raise DefinitionInvalid(function, f"{cause}; correct it, or write `{name}: … | None`") from None


def _check_question(function: Callable[..., Any], question: str, names: list[str]) -> None:
    try:
        used = [name for _, name, _, _ in string.Formatter().parse(question) if name is not None]
    except ValueError as error:
        raise DefinitionInvalid(function, f"the question {question!r} is not a format text: {error}") from None
    for name in used:
        if name.split(".")[0].split("[")[0] not in names:
            known = ", ".join(f"{{{each}}}" for each in names) or "none"
            raise DefinitionInvalid(
                function, f"the question names {{{name}}}, which is not an argument; there are: {known}"
            )
