"""README.md shows the machine that runs."""

from __future__ import annotations

from pathlib import Path

from statemachine.diagram import README_BEGIN, README_END, readme_section

README = Path(__file__).parents[1] / "README.md"


def test_the_diagram_in_the_readme_is_the_table_that_runs() -> None:
    """Where it is not: put the output of `aura diagram` between the markers, fenced as `mermaid`."""
    text = README.read_text(encoding="utf-8")
    assert text.count(README_BEGIN) == text.count(README_END) == 1
    shown = text.split(README_BEGIN)[1].split(README_END)[0]
    assert shown == f"\n{readme_section()}"
