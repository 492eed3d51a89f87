"""The decorators `tool` and `resource`: what they keep of a function, and where it is, for errors.

They check nothing that needs other parts: a function becomes a tool when its dependencies are known (`functions.py`).
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from app.errors import ConfigurationError

P = ParamSpec("P")
ResultT = TypeVar("ResultT")
ProvidedT = TypeVar("ProvidedT")

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class DefinitionInvalid(ConfigurationError):
    """A function cannot be a tool or a resource. The message names the module, the line, the cause and the remedy."""

    def __init__(self, function: Callable[..., Any], cause: str) -> None:
        super().__init__(f"{place_of(function)}: {cause}")


@dataclass(frozen=True, slots=True)
class ToolMarks:
    """What a tool declares beside its signature (`ports.tools.Tool`). Empty texts stand for the function's own.

    - `name` and `description` are what the model reads, `title` is what people read.
    - `needs_approval`: a person is asked `question` before each call. `{parameter}` in it is replaced by the argument.
    - `idempotent`: repeating a call has no further effect. Any other call that a crash interrupts is repeated only if a
      person agrees.
    - `outward`: it sends something to others. Once a run has read text that others wrote, each call needs an approval.
    - `untrusted`: its result is text that others wrote.
    - `timeout_seconds`: for one call; None stands for `AURA_TOOL_TIMEOUT_SECONDS`.
    """

    name: str = ""
    title: str = ""
    description: str = ""
    question: str = ""
    needs_approval: bool = False
    idempotent: bool = False
    outward: bool = False
    untrusted: bool = False
    timeout_seconds: float | None = None


class ToolDefinition(Generic[P, ResultT]):
    """A function that `tool` has decorated. Calling it calls the function, as in its own tests."""

    def __init__(self, function: Callable[P, Awaitable[ResultT]], marks: ToolMarks) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.marks = marks

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[ResultT]:
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        return self.marks.name or self.function.__name__

    def __repr__(self) -> str:
        return f"<tool {self.name} of {place_of(self.function)}>"


class ResourceDefinition(Generic[P, ProvidedT]):
    """A function that `resource` has decorated: an asynchronous generator, which yields the resource once."""

    def __init__(self, function: Callable[P, AsyncIterator[ProvidedT]]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[ProvidedT]:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<resource {self.function.__name__} of {place_of(self.function)}>"


def tool(
    *undecorated: Callable[..., Any],
    name: str = "",
    title: str = "",
    description: str = "",
    question: str = "",
    needs_approval: bool = False,
    idempotent: bool = False,
    outward: bool = False,
    untrusted: bool = False,
    timeout_seconds: float | None = None,
) -> Callable[[Callable[P, Awaitable[ResultT]]], ToolDefinition[P, ResultT]]:
    """Make an asynchronous function a tool that the model may call; `AURA_TOOLS` then names it.

    The model reads the function's name, the first paragraph of its docstring (or `description`), and the types,
    defaults and descriptions of its parameters. Parameters of type `ToolContext`, and those of a type that a
    `resource` provides, are not arguments of the model: the service fills them in. `ToolMarks` explains the others.

    Raises `DefinitionInvalid` where the function cannot be a tool.
    """
    if undecorated:
        raise DefinitionInvalid(undecorated[0], "write `@tool()`, with parentheses; it takes arguments by their names")
    marks = ToolMarks(
        name, title, description, question, needs_approval, idempotent, outward, untrusted, timeout_seconds
    )
    return lambda function: _checked(ToolDefinition(function, marks))


def _checked(definition: ToolDefinition[P, ResultT]) -> ToolDefinition[P, ResultT]:
    function, seconds = definition.function, definition.marks.timeout_seconds
    if not hasattr(function, "__name__"):
        raise DefinitionInvalid(function, "it has no name of its own: write an `async def` that calls it")
    if not inspect.iscoroutinefunction(function):
        raise DefinitionInvalid(function, "a tool is an asynchronous function: write `async def`")
    if not NAME.fullmatch(definition.name):
        cause = f"the name {definition.name!r} cannot be offered to models: use up to 64 of a–z A–Z 0–9 _ -"
        raise DefinitionInvalid(function, cause)
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise DefinitionInvalid(function, f"timeout_seconds is {seconds!r}: it must be a number above 0")
    return definition


def resource(function: Callable[P, AsyncIterator[ProvidedT]]) -> ResourceDefinition[P, ProvidedT]:
    """Make an asynchronous generator function the provider of a resource, such as a pool of database connections.

    What it yields is passed to the tools that have a parameter of that type. It starts before the service takes its
    first run, and what stands behind the `yield` runs when the service stops. The return type names what it provides:
    `AsyncIterator[Pool]`. Its own parameters may be other resources.

    Raises `DefinitionInvalid` where the function cannot be a resource.
    """
    if not inspect.isasyncgenfunction(function):
        cause = "a resource is an asynchronous generator: `async def … -> AsyncIterator[Pool]` with one `yield`"
        raise DefinitionInvalid(function, cause)
    return ResourceDefinition(function)


def place_of(target: Callable[..., Any] | type) -> str:
    """Return where something is defined, such as `shop.tools:order_stock (shop/tools.py line 12)`."""
    name = f"{getattr(target, '__module__', '?')}:{getattr(target, '__qualname__', repr(target))}"
    try:
        file = inspect.getsourcefile(target)
        _, line = inspect.getsourcelines(target)
    except (OSError, TypeError):
        return name
    return name if file is None else f"{name} ({_short_path(file)} line {line})"


def _short_path(file: str) -> str:
    """Return the last two parts of a path: the rest is the machine's own."""
    return "/".join(file.replace("\\", "/").rsplit("/", 2)[-2:])
