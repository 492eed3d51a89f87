"""Reports the results as text, as JSON and as a chart."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.chart import draw_svg
from tests.bench.scenarios import ScenarioResult
from tests.bench.targets import TARGETS


def format_result(result: ScenarioResult) -> str:
    return "\n".join([f"{result.name}", *(f"  {line}" for line in result.lines)])


def format_table(results: Sequence[ScenarioResult]) -> str:
    """The figures beside their targets, as the README shows them."""
    found = _figures(results)
    lines = [
        "",
        "| work | `langchain` | OpenAI SDK | hand-tuned | at most | **ours** |",
        "|---|---|---|---|---|---|",
    ]
    for name, target in TARGETS.items():
        if name in found:
            ours = _number(found[name])
            lines.append(
                f"| {target.work} ({target.unit}) | {target.langchain} | {target.openai_sdk} | {target.hand_tuned} | "
                f"{target.at_most:g} | **{ours}**{'' if found[name] <= target.at_most else ' ✗'} |".replace(" ()", "")
            )
    return "\n".join(lines)


def _figures(results: Sequence[ScenarioResult]) -> dict[str, float]:
    """The figures of all scenarios; where several measured the same one, the largest."""
    found: dict[str, float] = {}
    for result in results:
        for name, value in result.figures.items():
            found[name] = max(value, found.get(name, 0.0))
    return found


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def to_json_object(results: Sequence[ScenarioResult]) -> dict[str, Any]:
    return {
        "machine": describe_machine(),
        "figures": {
            name: {"ours": value, "at_most": TARGETS[name].at_most if name in TARGETS else None}
            for name, value in _figures(results).items()
        },
        "scenarios": [asdict(result) for result in results],
    }


def write_chart(results: Sequence[ScenarioResult], path: Path) -> None:
    """Write the scaling curves as SVG. Raises `ValueError` where no measured scenario has a curve."""
    curves = {title: points for result in results for title, points in result.curves.items()}
    if not curves:
        raise ValueError("none of these scenarios has a curve")
    path.parent.mkdir(parents=True, exist_ok=True)
    caption = (
        f"python -m tests.bench {' '.join(result.name for result in results if result.curves)} · {describe_machine()}"
    )
    path.write_text(draw_svg(curves, caption), encoding="utf-8")


def describe_machine() -> str:
    return f"{os.cpu_count()} cores, CPython {platform.python_version()}"
