"""The README files of the repository, the pages beside them, and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FOLDERS = ("app", "fixtures", "statemachine", "tests")
_FILE = re.compile(r"`(?P<path>[\w/]+\.py)`:\n\n```python\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

_PAGES = (ROOT / "app" / "web" / "BROWSERS.md",)

READMES = [
    ROOT / "README.md",
    *(path for folder in _FOLDERS for path in sorted((ROOT / folder).rglob("README.md"))),
    *_PAGES,
]


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced code block: its language and its text, without the fences."""

    readme: Path
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{name(self.readme)}:{self.line}"


def name(path: Path) -> str:
    """Return the path from the root of the repository, as a test id."""
    return path.relative_to(ROOT).as_posix()


def blocks_of(readme: Path) -> Iterator[Block]:
    text = readme.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        yield Block(readme, text.count("\n", 0, found.start()) + 1, found["language"], found["text"])


def files_of(readme: Path) -> dict[str, str]:
    """Return the files that a README shows: the blocks whose introduction ends with a path, such as `shop/tools.py`:"""
    return {found["path"]: found["text"] for found in _FILE.finditer(readme.read_text(encoding="utf-8"))}


def prose_of(readme: Path) -> str:
    """Return the text of a README without its code blocks."""
    return _FENCE.sub("", readme.read_text(encoding="utf-8"))
