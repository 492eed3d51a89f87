"""What was found, for people and for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.bar import BAR
from tests.bench.chart import svg
from tests.bench.scenarios import Outcome


def told(outcome: Outcome) -> str:
    return "\n".join([f"{outcome.name}", *(f"  {line}" for line in outcome.lines)])


def table(outcomes: Sequence[Outcome]) -> str:
    """The figures beside the bar's numbers, as the README has them."""
    found = _figures(outcomes)
    lines = [
        "",
        "| work | `langchain` | OpenAI SDK | hand-tuned | at most | **ours** |",
        "|---|---|---|---|---|---|",
    ]
    for name, bar in BAR.items():
        if name in found:
            ours = _number(found[name])
            lines.append(
                f"| {bar.work} ({bar.unit}) | {bar.langchain} | {bar.openai_sdk} | {bar.hand_tuned} | "
                f"{bar.at_most:g} | **{ours}**{'' if found[name] <= bar.at_most else ' ✗'} |".replace(" ()", "")
            )
    return "\n".join(lines)


def _figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The largest of a figure that several scenarios found."""
    found: dict[str, float] = {}
    for outcome in outcomes:
        for name, value in outcome.figures.items():
            found[name] = max(value, found.get(name, 0.0))
    return found


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "figures": {
            name: {"ours": value, "at_most": BAR[name].at_most if name in BAR else None}
            for name, value in _figures(outcomes).items()
        },
        "scenarios": [asdict(outcome) for outcome in outcomes],
    }


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Raises `ValueError` where no scenario that was run has a line."""
    curves = {title: points for outcome in outcomes for title, points in outcome.curves.items()}
    if not curves:
        raise ValueError("none of these scenarios draws a line")
    path.parent.mkdir(parents=True, exist_ok=True)
    caption = f"python -m tests.bench {' '.join(outcome.name for outcome in outcomes if outcome.curves)} · {machine()}"
    path.write_text(svg(curves, caption), encoding="utf-8")


def machine() -> str:
    return f"{os.cpu_count()} cores, CPython {platform.python_version()}"
