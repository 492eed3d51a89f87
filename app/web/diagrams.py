"""Renders the state machine in every format, as bytes with a media type. PNG is rendered by resvg."""

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

_RENDER_SCRIPT = """
import sys, resvg_py
sys.stdout.buffer.write(resvg_py.svg_to_bytes(svg_string=sys.stdin.buffer.read().decode(), zoom=2))
"""
"""Runs in a separate process: resvg holds the GIL while it renders (0.3 s), which would block every stream."""
_FONTS = (
    *("Inter", "Segoe UI", "Helvetica Neue", "Arial", "Noto Sans", "Liberation Sans", "Roboto", "DejaVu Sans"),
    *("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic"),
)
"""Suitable font families, best first. resvg takes glyphs that a font lacks from any other installed font."""
UNKNOWN_FONT = "no font has this name"
"""A family that is not installed: resvg replaces it by a fallback font, if any font is installed."""


def draw(format: DiagramFormat, snapshot: RunSnapshot | None = None) -> bytes:
    """Render the state machine, or a run in it. Raises `FormatUnavailable` for a PNG where no font is installed."""
    if snapshot is None:
        return _draw_machine(format)
    return _render_png(snapshot) if format == "png" else diagram.render(format, snapshot).encode()


def clear_caches() -> None:
    """Forget rendered machines and detected fonts, for tests that replace either."""
    for cached in (_draw_machine, find_font, has_korean_glyphs):
        cached.cache_clear()


@cache
def _draw_machine(format: DiagramFormat) -> bytes:
    """Render the state machine without a run. The result never changes."""
    return _render_png(None) if format == "png" else diagram.render(format).encode()


def _render_png(snapshot: RunSnapshot | None) -> bytes:
    family = find_font()
    if family is None:
        raise FormatUnavailable("a PNG needs a font and none is installed; install one, or use the format svg")
    drawing = svg(snapshot, korean=has_korean_glyphs(family), fonts=f"'{family}'")
    return subprocess.run(
        [sys.executable, "-I", "-c", _RENDER_SCRIPT], input=drawing.encode(), capture_output=True, check=True
    ).stdout


@cache
def find_font() -> str | None:
    """Return the first suitable font family that is installed, else `UNKNOWN_FONT`; None if there are no fonts."""
    blank, fallback = render_letter("", UNKNOWN_FONT), render_letter("A", UNKNOWN_FONT)
    found = next((family for family in _FONTS if render_letter("A", family) not in (blank, fallback)), None)
    return found or (UNKNOWN_FONT if fallback != blank else None)


@cache
def has_korean_glyphs(family: str) -> bool:
    """Return whether Hangul can be rendered. Without a Korean font all syllables are the same empty box."""
    return render_letter("가", family) != render_letter("힣", family)


def render_letter(letter: str, family: str) -> bytes:
    """Return a PNG of one letter. Fonts are compared by these pictures."""
    text = f'<text x="2" y="30" font-size="28" font-family="\'{family}\'">{letter}</text>'
    return resvg_py.svg_to_bytes(
        svg_string=f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40">{text}</svg>'
    )
