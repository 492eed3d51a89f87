"""Which room may import which room and which library, checked in the sources."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import TypeGuard

from hypercorn.config import Config

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("app", "statemachine") for path in sorted((ROOT / folder).rglob("*.py"))]
CLIENT = ROOT / "app" / "client"
"""The Python client, whose modules are a distribution too: only there imports are relative."""
ALL = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]

# room of `app` → the other rooms it may import; every room may import itself and the core. A room that is missing here
# has no place in the design yet.
ADAPTER = {"ports", "errors", "http", "retry", "crypto"}
MAY_IMPORT: dict[str, set[str]] = {
    **{room: set() for room in ("errors", "logs", "ports", "http", "text", "console", "crypto")},
    "agents": {"ports", "errors", "settings"},
    "clock": {"ports"},
    "retry": {"errors"},
    "settings": {"errors", "ports"},
    "runs": {"ports", "errors", "retry"},
    "tools": {"ports", "errors", "text", "crypto"},
    **dict.fromkeys(("redis", "model", "integrations"), ADAPTER),
    "knowledge": {*ADAPTER, "postgres"},
    "postgres": {"errors"},
    "web": {"runs", "ports", "errors", "console", "crypto", "retry"},
    "audit": {"ports", "errors", "crypto", "postgres"},
    "archive": {"ports", "errors", "postgres"},
    "server": {"bootstrap", "web", "settings", "logs", "errors"},
    "client": set(),
    "testing": {"bootstrap", "client", "clock", "dev", "server", "settings", "tools", "web"},
    "__main__": {"cli"},
}
ANYTHING = {"bootstrap", "cli", "dev"}
STARTERS = {"server", "cli", "dev", "testing", "__main__"}

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
    "quart": {"web", "bootstrap", "testing"},
    "hypercorn": {"server", "web"},  # there only the types of its ASGI
    "resvg_py": {"web"},
    "regex": {"text", "tools"},
    "mcp": {"tools", "dev"},
    "mcp_types": {"tools"},
    "jsonschema": {"tools"},
    "idna": {"text"},
    "confusable_homoglyphs": {"text"},
}


def name(path: Path) -> str:
    """The path from the root."""
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    """`runs` for app/runs.py, `redis` for app/redis/keys.py, `` for app/__init__.py."""
    inner = path.relative_to(ROOT).parts[1:]
    return "" if inner == ("__init__.py",) else inner[0].removesuffix(".py")


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Every node of the file's syntax tree. A test looks at all files: one test for each file would take far longer."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imports(path: Path) -> set[str]:
    """Every module the file imports, wherever in it; `from app import logs` is `app.logs`."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level == 1 and path.parent == CLIENT:
                found.add(f"app.client.{node.module}")
                continue
            assert node.level == 0, f"{name(path)} has a relative import"
            assert node.module
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner if node.module in ("app", "statemachine") else {node.module}
    return found


def rooms_imported(path: Path) -> set[str]:
    return {module.split(".")[1] for module in imports(path) if module.startswith("app.")}


def libraries_imported(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


APP = [path for path in SOURCES if path.is_relative_to(ROOT / "app")]
CORE = [path for path in SOURCES if path not in APP]


def test_the_core_imports_no_io_and_no_other_library() -> None:
    allowed = {"statemachine", "msgspec", "pydantic", "transitions"} | sys.stdlib_module_names
    # the core has no clock, no randomness, no I/O
    effects = {"asyncio", "logging", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time"}
    foreign = {name(path): libraries_imported(path) - (allowed - effects) for path in CORE}
    assert CORE
    assert not {path: libraries for path, libraries in foreign.items() if libraries}


def test_a_room_of_app_imports_only_its_allowed_rooms() -> None:
    inside = [path for path in APP if room(path) and room(path) not in ANYTHING]
    unknown = {room(path) for path in inside} - set(MAY_IMPORT)
    assert not unknown, "these have no place in the design: give each one in MAY_IMPORT"
    foreign = {name(path): rooms_imported(path) - MAY_IMPORT[room(path)] - {room(path)} for path in inside}
    assert not {path: rooms for path, rooms in foreign.items() if rooms}


def test_a_library_is_imported_only_by_its_adapter() -> None:
    foreign = {
        (name(path), library)
        for path in APP
        for library in libraries_imported(path) & set(ONLY_IN)
        if room(path) not in ONLY_IN[library]
    }
    assert not foreign, "these files must not know these libraries"


def test_the_client_imports_nothing_but_itself_and_what_its_distribution_declares() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    files = sorted(CLIENT.glob("*.py"))
    absolute = {
        alias.name for path in files for node in nodes(path) if isinstance(node, ast.Import) for alias in node.names
    }
    absolute |= {
        str(node.module)
        for path in files
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.level == 0
    }
    assert files
    assert {module.split(".")[0] for module in absolute} <= sys.stdlib_module_names | declared


def test_only_the_starting_rooms_import_the_wiring() -> None:
    others = [path for path in APP if room(path) not in STARTERS]
    assert not [name(path) for path in others if rooms_imported(path) & {"bootstrap", "cli"} - {room(path)}]


def test_the_wiring_does_not_import_the_rooms_that_start_it() -> None:
    wiring = [path for path in APP if room(path) == "bootstrap"]
    assert wiring
    assert not [name(path) for path in wiring if rooms_imported(path) & (STARTERS | {"client"})]


def test_the_environment_is_read_by_the_settings_alone() -> None:
    names = {"environ", "environb", "getenv", "getenvb"}
    readers = {
        name(path)
        for path in SOURCES
        for node in nodes(path)
        if (isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os")
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {it.name for it in node.names})
    }
    assert readers <= {"app/settings/__init__.py"}


def test_files_functions_and_classes_are_short() -> None:
    """At most 400 lines in a file; of the sources 40 in a function, and 250 lines or 20 methods in a class."""
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL}
    assert not {path: count for path, count in lines.items() if count > 400}
    assert not [f"{name(path)}: {node.name}" for path in SOURCES for node in nodes(path) if _is_long(node)]


def _is_long(node: ast.AST) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    count = (node.end_lineno or node.lineno) - node.lineno + 1
    if not isinstance(node, ast.ClassDef):
        return count > 40
    return count > 250 or sum(isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) for item in node.body) > 20


def test_few_modules_lie_loose_in_app() -> None:
    loose = [path.stem for path in (ROOT / "app").glob("*.py") if path.stem not in ("__init__", "__main__")]
    assert len(loose) <= 4, loose


def test_the_top_level_is_fixed() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert folders - {"artifacts", "dist", "build", "htmlcov"} <= {"app", "statemachine", "tests", "fixtures"}
    assert not list((ROOT / "fixtures").rglob("*.py")), "fixtures are data"


def test_every_key_of_hypercorn_toml_is_one_that_hypercorn_knows() -> None:
    keys = tomllib.loads((ROOT / "hypercorn.toml").read_text(encoding="utf-8"))
    assert keys["bind"] == ["0.0.0.0:9000"]
    assert [key for key in keys if not hasattr(Config, key)] == []
