"""Loads the tools and resources that `AURA_TOOLS` and the entry points `aura.tools` name.

Importing a module runs its code, so only modules that the operator has named or installed are imported.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from app.errors import ConfigurationError
from app.ports.tools import Tool
from app.tools.definitions import NAME, ResourceDefinition, ToolDefinition, place_of
from app.tools.functions import Dependencies, FunctionTool
from app.tools.resources import ToolResources

ENTRY_POINTS = "aura.tools"
Loaded = ToolDefinition[..., Any] | ResourceDefinition[..., Any] | Tool
_TOOL_ATTRIBUTES = ("name", "title", "arguments", "needs_approval", "idempotent", "timeout_seconds", "question", "run")


@dataclass(frozen=True, slots=True)
class PluggedIn:
    """The tools of other packages, in the order in which they are offered, and their resources."""

    tools: list[Tool] = field(default_factory=list)
    resources: ToolResources = field(default_factory=lambda: ToolResources(Dependencies({})))


def load(names: Iterable[str], *, with_entry_points: bool) -> list[Loaded]:
    """Import what these names name: `package.module:name`, or `package.module` for all of a module.

    Raises `ConfigurationError` with the name, the file and line, the cause and the remedy.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:  # the command `aura` does not search it, `python -m app` does
        sys.path.append(folder)
    loaded: list[Loaded] = []
    for name in names:
        loaded += _load(name, f"AURA_TOOLS: {name}")
    if with_entry_points:
        for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
            package = entry.dist.name if entry.dist is not None else "an installed package"
            loaded += _load(entry.value, f"the entry point {entry.name} of {package}: {entry.value}")
    return list({id(item): item for item in loaded}.values())


def _load(name: str, label: str) -> list[Loaded]:
    module_name, _, attribute = (part.strip() for part in name.partition(":"))
    module = _import(module_name, label)
    if not attribute:
        found: list[Loaded] = [
            item for item in vars(module).values() if isinstance(item, ToolDefinition | ResourceDefinition)
        ]
        if not found:
            raise ConfigurationError(f"{label}: the module has no function with @tool; name one as {name}:function")
        return found
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise ConfigurationError(f"{label}: {module_name} has no {attribute!r}{_similar(module, attribute)}")
        target = getattr(target, part)
    return [*resources_beside(target), checked(target, label)]


def _import(name: str, label: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ConfigurationError:
        raise  # a decorator in the module has refused a function, and its message names the place
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            cause = f"there is no module {error.name!r} (the working directory {Path.cwd()} is searched too)"
            raise ConfigurationError(f"{label}: {cause}; correct the name or install its package") from None
        raise ConfigurationError(f"{label}: {_where(error)}{error}; install it") from None
    except (Exception, SystemExit) as error:  # the module is other people's code
        raise ConfigurationError(f"{label}: {_where(error)}{type(error).__name__}: {error}") from error


def _where(error: BaseException) -> str:
    """Return the file and line in which the import of a module failed."""
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or '?').name} line {error.lineno}: "
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    return f"{Path(frames[-1].filename).name} line {frames[-1].lineno}: " if frames else ""


def _similar(module: ModuleType, attribute: str) -> str:
    tools = [name for name, item in vars(module).items() if isinstance(item, ToolDefinition)]
    return f"; its tools are {', '.join(tools)}" if tools else f"; decorate {attribute} with @tool"


def resources_beside(target: Any) -> list[ResourceDefinition[..., Any]]:
    """Return the resources in the module of a tool: the tool may need them without naming them in a setting."""
    if not isinstance(target, ToolDefinition):
        return []
    module = sys.modules[target.function.__module__]
    return [item for item in vars(module).values() if isinstance(item, ResourceDefinition)]


def checked(target: Any, label: str) -> Loaded:
    """Return a tool or a resource, or an object of a tool class. Raises `ConfigurationError`."""
    if isinstance(target, ToolDefinition | ResourceDefinition):
        return target
    if inspect.isclass(target):
        try:
            target = target()
        except Exception as error:  # other people's code
            cause = f"{place_of(target)} cannot be created without arguments ({type(error).__name__}: {error})"
            raise ConfigurationError(f"{label}: {cause}; name an object of the class") from error
    if callable(target) and not hasattr(target, "run"):
        raise ConfigurationError(f"{label}: {place_of(target)} has no @tool: decorate it")
    missing = [name for name in _TOOL_ATTRIBUTES if not hasattr(target, name)]
    if missing:
        cause = f"{place_of(type(target))} is not a tool: it has no {', '.join(missing)} (app/ports/tools.py)"
        raise ConfigurationError(f"{label}: {cause}")
    if wrong := _wrong_attribute(target):
        raise ConfigurationError(f"{label}: {place_of(type(target))}: {wrong}")
    tool: Tool = target
    return tool


def _wrong_attribute(target: Any) -> str:
    """Return what is wrong with the attributes of a tool, and the remedy; empty if nothing is."""
    if not isinstance(target.name, str) or not NAME.fullmatch(target.name):
        return f"the name {target.name!r} cannot be offered to models: use up to 64 of a–z A–Z 0–9 _ -"
    if not inspect.isclass(target.arguments) or not issubclass(target.arguments, BaseModel):
        return "its arguments are not a class of pydantic's BaseModel: name the class itself"
    seconds = target.timeout_seconds
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        return f"timeout_seconds is {seconds!r}: a number above 0 is required, or None"
    return ""


def plug_in(loaded: Sequence[Loaded], parts: Mapping[type, Any]) -> PluggedIn:
    """Return the loaded tools, each with what its parameters need. `parts` of the service are among that, by type.

    Raises `ConfigurationError`.
    """
    resources = Dependencies(parts)
    lifecycle = ToolResources(resources)
    lifecycle.add([item for item in loaded if isinstance(item, ResourceDefinition)])
    tools: list[Tool] = []
    needed: set[type] = set()
    for item in loaded:
        if isinstance(item, ToolDefinition):
            made = FunctionTool(item, resources)
            needed |= made.needed
            tools.append(made)
        elif not isinstance(item, ResourceDefinition):
            tools.append(item)
            if isinstance(item, AbstractAsyncContextManager):
                lifecycle.add_manager(item)
    lifecycle.keep(needed)
    return PluggedIn(tools, lifecycle)
