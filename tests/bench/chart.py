"""Draws the scaling curves as one SVG: one panel per curve, with a logarithmic axis for the amount of work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from tests.bench.scaling import Point

_WIDTH, _HEIGHT, _COLUMNS = 340, 190, 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 18, 34, 28
_STYLE = """
  text { font: 11px sans-serif; fill: #57606a } .title { font-weight: 600; fill: #24292f }
  .grid { stroke: #d0d7de; stroke-width: 1 } .line { fill: none; stroke: #0969da; stroke-width: 2 }
  .dot { fill: #0969da }
  @media (prefers-color-scheme: dark) { text { fill: #8b949e } .title { fill: #c9d1d9 } .grid { stroke: #30363d } }
"""


def draw_svg(curves: Mapping[str, Sequence[Point]], caption: str) -> str:
    rows = math.ceil(len(curves) / _COLUMNS)
    width, height = _WIDTH * min(_COLUMNS, len(curves)), _HEIGHT * rows + 22
    panels = [
        f'<g transform="translate({_WIDTH * (index % _COLUMNS)} {_HEIGHT * (index // _COLUMNS)})">'
        f"{_panel(title, points)}</g>"
        for index, (title, points) in enumerate(curves.items())
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(panels) + f'\n<text x="8" y="{height - 6}">{escape(caption)}</text>\n'
        "</svg>\n"
    )


def _panel(title: str, points: Sequence[Point]) -> str:
    top = _round_up(max(point.value for point in points))
    first, last = math.log10(points[0].at), math.log10(points[-1].at)

    def x(point: Point) -> float:
        return _LEFT + (math.log10(point.at) - first) / ((last - first) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text class="title" x="8" y="18">{escape(title)}</text>']
    for value in (0.0, top / 2, top):
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    path = " ".join(f"{x(point):.1f},{y(point.value):.1f}" for point in points)
    parts.append(f'<polyline class="line" points="{path}"/>')
    for point in points:
        parts.append(f'<circle class="dot" cx="{x(point):.1f}" cy="{y(point.value):.1f}" r="3"/>')
        parts.append(f'<text x="{x(point):.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{point.at:,}</text>')
    return "".join(parts)


def _round_up(value: float) -> float:
    """The next larger value of 1, 2, 4 or 10 times a power of ten."""
    power = 10 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 4, 10) if step * power >= value)
