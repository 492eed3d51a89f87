"""README.md shows the machine that runs."""

from __future__ import annotations

from pathlib import Path

from statemachine.views.diagram import README_BEGIN, README_END, readme_section
from statemachine.views.snapshot import RunSnapshot
from statemachine.views.svg import svg
from tests.statemachine.runs import Run, risky, safe

README = Path(__file__).parents[1] / "README.md"
PICTURE = README.parent / "fixtures" / "diagram" / "waiting.svg"


def picture() -> str:
    """A run that looked something up and now asks whether a mail may be sent, 59 seconds after it asked."""
    run = Run()
    run.now += 1.4
    run.request_tools(safe("c1"))
    run.now += 0.3
    run.finish_call("c1")
    run.now += 2.1
    run.request_tools(risky("c2"))
    return svg(RunSnapshot.of(run.checkpoint, run.now + 59))


def test_the_diagram_in_the_readme_is_the_table_that_runs() -> None:
    """Where it is not: put the output of `aura diagram` between the markers, fenced as `mermaid`."""
    text = README.read_text(encoding="utf-8")
    assert text.count(README_BEGIN) == text.count(README_END) == 1
    shown = text.split(README_BEGIN)[1].split(README_END)[0]
    assert shown == f"\n{readme_section()}"


def test_the_picture_in_the_readme_is_the_machine_that_runs() -> None:
    """Where it is not: `python -m tests.test_readme` draws it again."""
    assert PICTURE.relative_to(README.parent).as_posix() in README.read_text(encoding="utf-8")
    assert PICTURE.read_text(encoding="utf-8") == picture()


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
