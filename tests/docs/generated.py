"""The generated parts of the documentation. `python -m tests.docs.generated` writes all of them again."""

from __future__ import annotations

from pathlib import Path

from app.settings import table
from statemachine.views.diagram import README_BEGIN, README_END, readme_section
from statemachine.views.snapshot import RunSnapshot
from statemachine.views.svg import svg
from tests.docs.readmes import ROOT
from tests.statemachine.runs import Run, risky, safe

PICTURE = ROOT / "fixtures" / "diagram" / "waiting.svg"

SECTIONS = {
    ROOT / "statemachine" / "README.md": (README_BEGIN, readme_section(), README_END),
    ROOT / "app" / "server" / "README.md": ("<!-- settings -->", f"{table()}\n", "<!-- /settings -->"),
}
"""README file → the marker before a section, the generated content, the marker after it."""


def picture() -> str:
    """Draw a run that has called a tool and waits for the approval of a mail, 59 seconds after the request."""
    run = Run()
    run.now += 1.4
    run.request_tools(safe("c1"))
    run.now += 0.3
    run.finish_call("c1")
    run.now += 2.1
    run.request_tools(risky("c2"))
    return svg(RunSnapshot.of(run.checkpoint, run.now + 59))


def section_of(readme: Path) -> str:
    """Return what a README shows between its two markers. Raises `ValueError` where a marker is not there once."""
    begin, _, end = SECTIONS[readme]
    _, rest = readme.read_text(encoding="utf-8").split(f"{begin}\n")
    section, _ = rest.split(end)
    return section


def write() -> None:
    PICTURE.write_text(picture(), encoding="utf-8")
    for readme, (begin, content, end) in SECTIONS.items():
        text = readme.read_text(encoding="utf-8")
        written = text.replace(f"{begin}\n{section_of(readme)}{end}", f"{begin}\n{content}{end}")
        readme.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    write()
