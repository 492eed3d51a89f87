"""Tools of other packages: `AURA_TOOLS`, entry points, and errors that name the module and the line."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.tools import loading
from app.tools.definitions import ResourceDefinition, ToolDefinition
from app.tools.loading import load, plug_in

MODULE = '''
from collections.abc import AsyncIterator
from app.tools import tool, resource
from tests.harness.tools import NoteTool

class Stock: ...

class Kept(NoteTool):
    """Keep a note."""

class Unfit:
    def __init__(self, port): ...

note = NoteTool("a_note")
spaced = NoteTool("a note")
untyped, timeless = NoteTool(), NoteTool()
untyped.arguments = dict
timeless.timeout_seconds = "5"
number = 7

@resource
async def stock() -> AsyncIterator[Stock]:
    yield Stock()

@tool()
async def order(item: str, stock: Stock) -> str:
    """Order an item."""
    return item

async def plain() -> None: ...
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a package in the working directory, with good modules and others."""
    name = re.sub(r"\W", "_", f"shop_{request.node.name}")
    folder = tmp_path / name
    folder.mkdir()
    for module, text in {
        "__init__": "",
        "good": MODULE,
        "empty": "number = 7\n",
        "broken": "x = 1\ny = unknown\n",
        "leaving": "import sys\n\nsys.exit('no settings')\n",
        "wrong": "x = (\n",
        "lacking": "import module_that_is_nowhere\n",
        "refused": "from app.tools import tool\n\n\n@tool()\ndef order() -> None: ...\n",
    }.items():
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def names(found: list[loading.Loaded]) -> list[str]:
    return [str(getattr(item, "__name__", None) or getattr(item, "name", "")) for item in found]


def test_a_function_is_loaded_with_the_resources_beside_it(package: str) -> None:
    found = load([f"{package}.good:order"], with_entry_points=False)
    assert names(found) == ["stock", "order"]
    assert [type(item) for item in found] == [ResourceDefinition, ToolDefinition]
    assert [tool.name for tool in plug_in(found, {}).tools] == ["order"]


def test_a_module_is_loaded_whole_and_everything_once(package: str) -> None:
    found = load([f"{package}.good", f"{package}.good:order"], with_entry_points=False)
    assert names(found) == ["stock", "order"]


def test_objects_and_classes_of_tools_are_loaded(package: str) -> None:
    found = load([f"{package}.good:note", f"{package}.good:Kept"], with_entry_points=False)
    assert names(found) == ["a_note", "write_note"]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("{}.missing:order", r"there is no module '{}\.missing' \(the working directory .* is searched too\)"),
        ("{}.good:ordr", r"{}\.good has no 'ordr'; its tools are order"),
        ("{}.empty:order", r"{}\.empty has no 'order'; decorate order with @tool"),
        ("{}.empty", r"the module has no function with @tool; name one as {}\.empty:function"),
        ("{}.broken:order", r"broken\.py line 2: NameError: name 'unknown' is not defined"),
        ("{}.leaving", r"leaving\.py line 3: SystemExit: no settings"),
        ("{}.wrong:order", r"wrong\.py line 1: SyntaxError"),
        ("{}.lacking:order", r"lacking\.py line 1: No module named 'module_that_is_nowhere'; install it"),
        ("{}.good:plain", r"{}\.good:plain \(.*good\.py line \d+\) has no @tool: decorate it"),
        ("{}.good:number", r"int is not a tool: it has no name, title, arguments"),
        ("{}.good:spaced", r"NoteTool .*: the name 'a note' cannot be offered to models"),
        ("{}.good:untyped", r"NoteTool .*: its arguments are not a class of pydantic's BaseModel"),
        ("{}.good:timeless", r"NoteTool .*: timeout_seconds is '5': a number above 0 is required"),
        ("{}.good:Unfit", r"Unfit .* cannot be created without arguments \(TypeError.*name an object of the class"),
    ],
)
def test_what_cannot_be_loaded_is_named_with_cause_and_remedy(package: str, name: str, cause: str) -> None:
    named = name.format(package)
    with pytest.raises(ConfigurationError, match=cause.replace("{}", package)) as raised:
        load([named], with_entry_points=False)
    assert raised.value.cause.startswith(f"AURA_TOOLS: {named}: ")
    assert "\n" not in raised.value.cause


def test_what_a_decorator_refuses_is_named_with_its_line(package: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{package}\.refused:order \(.*refused\.py line 4\): a tool is an"):
        load([f"{package}.refused"], with_entry_points=False)


def test_entry_points_are_loaded_where_the_settings_allow_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("shop", f"{package}.good:order", "aura.tools")]
    monkeypatch.setattr(loading, "entry_points", lambda group: points if group == "aura.tools" else [])
    assert names(load([], with_entry_points=True)) == ["stock", "order"]
    assert load([], with_entry_points=False) == []
    points[0] = EntryPoint("shop", f"{package}.good:missing", "aura.tools")
    with pytest.raises(ConfigurationError, match=r"the entry point shop of an installed package: .* has no 'missing'"):
        load([], with_entry_points=True)
