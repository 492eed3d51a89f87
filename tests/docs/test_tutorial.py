"""The tutorial, walked through as a reader would: its files are written, its commands run, and its output appears."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.readmes import ROOT

TUTORIAL = ROOT / "app" / "TUTORIAL.md"
_BLOCK = re.compile(
    r"(?:^`(?P<file>[\w./-]+)`\n\n)?^```(?P<language>[a-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Step:
    """A file to write, a script to run, or lines that the script before has printed."""

    kind: str
    text: str
    file: str | None


def steps() -> Iterator[Step]:
    for found in _BLOCK.finditer(TUTORIAL.read_text(encoding="utf-8")):
        yield Step("file" if found["file"] else found["language"], found["text"], found["file"])


def environment() -> dict[str, str]:
    """Return the environment of a shell in which this interpreter's virtual environment is active."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AURA_", "OPENAI_", "PYTEST_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"}


@pytest.mark.slow
def test_the_tutorial_can_be_walked_through(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="the extra mcp is not installed")
    output = ""
    checked = 0
    for step in steps():
        if step.file is not None:
            path = tmp_path / step.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
        elif step.kind == "sh" and "venv" not in step.text:  # the installation is this test's own environment
            done = subprocess.run(
                ["bash", "-euc", step.text], cwd=tmp_path, env=environment(), capture_output=True, check=False
            )
            output = (done.stdout + done.stderr).decode()
            assert done.returncode == 0, f"{step.text}\n{output}"
        elif step.kind == "text":
            for line in step.text.splitlines():
                assert line in output, f"{line!r} is not in:\n{output}"
                checked += 1
    assert checked == 13


def test_the_pages_that_the_tutorial_names_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TUTORIAL.read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (TUTORIAL.parent / link).exists()]
