"""Every shell, Python and JavaScript block of the README files runs as it is printed.

A block runs in a folder of its own with links to the sources, beside a running `aura demo`. The environment is prepared
as they expect: `SERVICE_URL`, `TOKEN`, `REDIS_PORT`, `PORT` and `JWT_SECRET` are set; `aura` and `python3` are from
this virtual environment; `aura_client` is in its wheel, as after `pip install ./app/client`. Of a block itself only the
preparation of the environment is replaced: where it makes a virtual environment and installs this project there, the
environment that runs the tests takes that place. The line that runs the tests is not executed.
The files that a README shows are in the folder, and pytest runs the blocks that are tests.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.conftest import AURA
from tests.docs.readmes import READMES, ROOT, Block, blocks_of, files_of
from tests.harness.archives import Archives

pytestmark = pytest.mark.slow

_SECONDS = 60
_LINKS = ("app", "fixtures", "hypercorn.toml", "statemachine", "tests", "pyproject.toml", "requirements.lock")
_PROGRAMS = ("curl", "redis-cli")
_RUN_BY = {"sh": "sh", "bash": "sh", "python": "python", "js": "js", "javascript": "js"}
_NOT_RUN = {"toml", "", "html", "json", "mermaid", "nginx", "text", "ts", "yaml"}

FILES = {path: text for readme in READMES for path, text in files_of(readme).items()}
BLOCKS = [block for readme in READMES for block in blocks_of(readme)]

_PYTHON3 = f"""#!/bin/sh
# Stands for the system's Python: a virtual environment is not made again, everything else runs.
if [ "$1 $2 $3" != "-m venv .venv" ]; then exec {sys.executable} "$@"; fi
mkdir -p .venv/bin
ln -sf {AURA} .venv/bin/aura
printf '#!/bin/sh\\n' > .venv/bin/pip && chmod +x .venv/bin/pip
"""

Execute = Callable[[Block], str]


@pytest.fixture
def execute(demo_environment: dict[str, str], client_archives: Archives, tmp_path: Path) -> Execute:
    """Run a block and return its output; fails unless the exit code is 0."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").write_text(_PYTHON3, encoding="utf-8")
    (programs / "python3").chmod(0o755)
    folder = tmp_path / "checkout"
    folder.mkdir()
    for linked in _LINKS:
        (folder / linked).symlink_to(ROOT / linked)
    for shown, text in FILES.items():
        (folder / shown).parent.mkdir(exist_ok=True)
        (folder / shown).write_text(text, encoding="utf-8")
    path = f"{programs}:{AURA.parent}:{demo_environment['PATH']}"
    environment = {**demo_environment, "PATH": path, "PYTHONPATH": f"{ROOT}:{client_archives.wheel}"}

    def run(block: Block) -> str:
        process = subprocess.run(
            _command(block, folder),
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=_SECONDS,
            check=False,
        )
        assert process.returncode == 0, process.stdout
        return process.stdout

    return run


def _command(block: Block, folder: Path) -> list[str]:
    match _RUN_BY[block.language]:
        case "sh":
            return ["bash", "-euo", "pipefail", "-c", block.text]
        case "python" if "def test_" in block.text:
            (folder / "test_example.py").write_text(block.text, encoding="utf-8")
            return [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "test_example.py"]
        case "python":
            (folder / "example.py").write_text(block.text, encoding="utf-8")
            return [sys.executable, "example.py"]
        case _:
            (folder / "example.mjs").write_text(block.text, encoding="utf-8")
            return ["node", "example.mjs"]


def _runs_the_tests(block: Block) -> bool:
    return block.text.rstrip().endswith("/pytest")


def test_every_block_names_a_known_language() -> None:
    assert {block.language for block in BLOCKS} <= set(_RUN_BY) | _NOT_RUN


def test_root_readme_has_both_commands_alone_in_their_blocks() -> None:
    commands = [block.text for block in BLOCKS if block.readme == ROOT / "README.md" and block.language == "sh"]
    assert [command.count("\n") for command in commands[:2]] == [1, 1]
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands[:2])


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in _RUN_BY and not _runs_the_tests(block)],
    ids=lambda block: block.id,
)
def test_block_runs_as_printed(block: Block, execute: Execute) -> None:
    needed = [program for program in _PROGRAMS if program in block.text]
    needed += ["node"] if _RUN_BY[block.language] == "js" else []
    for program in needed:
        if shutil.which(program) is None:
            pytest.skip(f"{block.id} needs {program}, which is not installed")
    assert "Traceback" not in execute(block)
