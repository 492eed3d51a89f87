"""The machine's drawing in every format, as bytes with their media type; PNG through resvg, which is in its wheel."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Literal

import resvg_py

from app.errors import FormatUnavailable
from statemachine.views import diagram
from statemachine.views.snapshot import RunSnapshot
from statemachine.views.svg import svg

DiagramFormat = Literal["mermaid", "dot", "svg", "png", "json", "table"]

MEDIA_TYPES: dict[DiagramFormat, str] = {
    "mermaid": "text/vnd.mermaid; charset=utf-8",
    "dot": "text/vnd.graphviz; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "json": "application/json",
    "table": "text/plain; charset=utf-8",
}
FORMATS: tuple[DiagramFormat, ...] = tuple(MEDIA_TYPES)

_RENDER = """
import sys, resvg_py
sys.stdout.buffer.write(resvg_py.svg_to_bytes(svg_string=sys.stdin.buffer.read().decode(), zoom=2))
"""
"""A process of its own: resvg keeps Python's lock for the 0.3 s it draws, and no stream would move meanwhile."""
_FONTS = (
    *("Inter", "Segoe UI", "Helvetica Neue", "Arial", "Noto Sans", "Liberation Sans", "Roboto", "DejaVu Sans"),
    *("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic"),
)
"""What looks right, best first; a letter that the font lacks resvg finds in any other of the machine."""


def draw(format: DiagramFormat, snapshot: RunSnapshot | None = None) -> bytes:
    """The machine, or a run in it. Raises `FormatUnavailable`: a PNG on a machine that has no font."""
    if snapshot is None:
        return _machine(format)
    return _png(snapshot) if format == "png" else diagram.render(format, snapshot).encode()


@cache
def _machine(format: DiagramFormat) -> bytes:
    """Always the same: drawn once."""
    return _png(None) if format == "png" else diagram.render(format).encode()


def _png(snapshot: RunSnapshot | None) -> bytes:
    family = _font()
    if family is None:
        raise FormatUnavailable("a PNG needs a font and this machine has none; install one, or take svg")
    drawing = svg(snapshot, korean=_has_korean(family), fonts=f"'{family}'")
    return subprocess.run(
        [sys.executable, "-I", "-c", _RENDER], input=drawing.encode(), capture_output=True, check=True
    ).stdout


_NO_FONT = "no font has this name"


@cache
def _font() -> str | None:
    """The first font that is here, or whatever resvg takes instead; None: there is nothing to take."""
    blank, instead = _letter("", _NO_FONT), _letter("A", _NO_FONT)
    found = next((family for family in _FONTS if _letter("A", family) not in (blank, instead)), None)
    return found or (_NO_FONT if instead != blank else None)


@cache
def _has_korean(family: str) -> bool:
    """Without a font that has them all syllables are the same empty box."""
    return _letter("가", family) != _letter("힣", family)


def _letter(letter: str, family: str) -> bytes:
    text = f'<text x="2" y="30" font-size="28" font-family="\'{family}\'">{letter}</text>'
    return resvg_py.svg_to_bytes(
        svg_string=f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40">{text}</svg>'
    )
