"""Which room may import which room and which library, checked in the sources."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypercorn.config import Config

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("app", "statemachine") for path in sorted((ROOT / folder).rglob("*.py"))]
ALL = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]

# room of `app` → the other rooms it may import; every room may import itself and the core. A room that is missing here
# has no place in the design yet.
ADAPTER = {"ports", "errors", "http", "retry", "crypto"}
MAY_IMPORT: dict[str, set[str]] = {
    **{room: set() for room in ("errors", "logs", "ports", "http", "text", "console", "crypto", "prompt_file")},
    "setting_types": {"ports"},
    "clock": {"ports"},
    "retry": {"errors"},
    "settings": {"errors", "prompt_file", "setting_types", "identity_settings"},
    "identity_settings": {"setting_types"},
    "runs": {"ports", "errors", "retry"},
    "tools": {"ports", "errors", "text"},
    **dict.fromkeys(("redis", "model", "integrations"), ADAPTER),
    "knowledge": {*ADAPTER, "postgres"},
    "postgres": {"errors"},
    "web": {"runs", "ports", "errors", "console", "crypto", "retry"},
    "audit": {"ports", "errors", "crypto", "postgres"},
    "archive": {"ports", "errors", "postgres"},
    "server": {"bootstrap", "web", "settings", "logs", "errors"},
    "client": {"ports"},
    "__main__": {"cli"},
}
ANYTHING = {"bootstrap", "cli", "dev"}
STARTERS = {"server", "cli", "dev", "__main__"}

# library → the only rooms of `app` that may import it
ONLY_IN = {
    "redis": {"redis", "dev"},
    "hiredis": {"redis"},
    "openai": {"model", "knowledge"},
    "apsw": {"knowledge"},
    "sqlite_vec": {"knowledge"},
    "psycopg": {"postgres", "knowledge", "audit", "archive"},
    "psycopg_pool": {"archive"},
    "cryptography": {"crypto"},
    "aiohttp": {"http"},
    "msgspec": {"model", "web", "ports", "logs"},
    "quart": {"web", "bootstrap"},
    "hypercorn": {"server", "web"},  # there only the types of its ASGI
    "resvg_py": {"web"},
    "regex": {"text", "tools"},
    "idna": {"text"},
    "confusable_homoglyphs": {"text"},
}


def name(path: Path) -> str:
    """The path from the root, as a test id."""
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    """`runs` for app/runs.py, `redis` for app/redis/keys.py, `` for app/__init__.py."""
    inner = path.relative_to(ROOT).parts[1:]
    return "" if inner == ("__init__.py",) else inner[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module the file imports, wherever in it; `from app import logs` is `app.logs`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} has a relative import"
            assert node.module
            if node.module in ("app", "statemachine"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def rooms_imported(path: Path) -> set[str]:
    return {module.split(".")[1] for module in imports(path) if module.startswith("app.")}


def libraries_imported(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


APP = [path for path in SOURCES if path.is_relative_to(ROOT / "app")]


@pytest.mark.parametrize("path", [path for path in SOURCES if path not in APP], ids=name)
def test_the_core_imports_no_io_and_no_other_library(path: Path) -> None:
    foreign = libraries_imported(path) - sys.stdlib_module_names
    assert foreign <= {"statemachine", "msgspec", "pydantic", "transitions"}
    effects = {"asyncio", "logging", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time"}
    assert not libraries_imported(path) & effects, "the core has no clock, no randomness, no I/O"


@pytest.mark.parametrize("path", APP, ids=name)
def test_a_room_of_app_imports_only_its_allowed_rooms(path: Path) -> None:
    own = room(path)
    if own in ANYTHING or not own:
        return
    assert own in MAY_IMPORT, f"{own} has no place in the design: give it one in MAY_IMPORT"
    assert rooms_imported(path) <= MAY_IMPORT[own] | {own}


@pytest.mark.parametrize("path", APP, ids=name)
def test_a_library_is_imported_only_by_its_adapter(path: Path) -> None:
    for library in libraries_imported(path) & set(ONLY_IN):
        assert room(path) in ONLY_IN[library], f"{library} must not be known here"


@pytest.mark.parametrize("path", APP, ids=name)
def test_only_the_starting_rooms_import_the_wiring(path: Path) -> None:
    assert room(path) in STARTERS or not rooms_imported(path) & {"bootstrap", "cli"} - {room(path)}


@pytest.mark.parametrize("path", [path for path in APP if room(path) == "bootstrap"], ids=name)
def test_the_wiring_does_not_import_the_rooms_that_start_it(path: Path) -> None:
    assert not rooms_imported(path) & (STARTERS | {"client"})


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_environment_is_read_by_the_settings_alone(path: Path) -> None:
    readers = {"environ", "environb", "getenv", "getenvb"}
    read = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in readers and ast.unparse(node.value) == "os")
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and readers & {it.name for it in node.names})
    ]
    assert not read or name(path) == "app/settings.py"


@pytest.mark.parametrize("path", ALL, ids=name)
def test_files_functions_and_classes_are_short(path: Path) -> None:
    """At most 400 lines in a file; of the sources 40 in a function, and 250 lines or 20 methods in a class."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    if path not in SOURCES:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert _line_count(node) <= 40, node.name
        elif isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
            assert _line_count(node) <= 250, node.name
            assert len(methods) <= 20, node.name


def _line_count(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_few_modules_lie_loose_in_app() -> None:
    loose = [path.stem for path in (ROOT / "app").glob("*.py") if path.stem not in ("__init__", "__main__")]
    assert len(loose) <= 8, loose


def test_the_top_level_is_fixed() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert folders - {"artifacts", "dist", "build", "htmlcov"} <= {"app", "statemachine", "tests", "fixtures"}
    assert not list((ROOT / "fixtures").rglob("*.py")), "fixtures are data"


def test_every_key_of_hypercorn_toml_is_one_that_hypercorn_knows() -> None:
    keys = tomllib.loads((ROOT / "hypercorn.toml").read_text(encoding="utf-8"))
    assert keys["bind"] == ["0.0.0.0:9000"]
    assert [key for key in keys if not hasattr(Config, key)] == []
