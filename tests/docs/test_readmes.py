"""The README files are current: their length, links, names, and the parts that are generated."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.docs.generated import PICTURE, SECTIONS, picture, section_of
from tests.docs.readmes import READMES, ROOT, name, prose_of

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?<![\w/.])(?:app|statemachine|tests|fixtures)/[\w/.-]*\w")
_DOTTED = re.compile(r"`((?:app|statemachine|tests)(?:\.\w+)+)`")
_MAX_LINES = 180

every_readme = pytest.mark.parametrize("readme", READMES, ids=name)


def test_root_readme_is_short_enough_to_be_read_to_its_end() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= _MAX_LINES


@pytest.mark.parametrize("readme", SECTIONS, ids=name)
def test_generated_section_is_current(readme: Path) -> None:
    """If this fails, `python -m tests.docs.generated` writes the section again."""
    assert section_of(readme) == SECTIONS[readme][1]


def test_picture_in_the_root_readme_is_current() -> None:
    """If this fails, `python -m tests.docs.generated` draws the picture again."""
    assert f"]({name(PICTURE)})" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert PICTURE.read_text(encoding="utf-8") == picture()


@every_readme
def test_links_lead_to_files_of_the_repository(readme: Path) -> None:
    links = [link for link in _LINK.findall(prose_of(readme)) if not re.match(r"https?://", link)]
    assert [link for link in links if not (readme.parent / link.partition("#")[0]).exists()] == []


@every_readme
def test_anchors_of_links_are_headings(readme: Path) -> None:
    for link in _LINK.findall(prose_of(readme)):
        target, _, anchor = link.partition("#")
        if anchor and "://" not in link:
            text = ((readme.parent / target) if target else readme).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@every_readme
def test_paths_in_readmes_exist(readme: Path) -> None:
    paths = set(_PATH.findall(prose_of(readme)))
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@every_readme
def test_dotted_names_exist(readme: Path) -> None:
    names = set(_DOTTED.findall(prose_of(readme)))
    assert [dotted for dotted in sorted(names) if not _exists(dotted)] == []


def _exists(dotted: str) -> bool:
    """Return whether a name is a module, or an attribute of one, or an attribute of that."""
    module, _, attribute = dotted.rpartition(".")
    try:
        importlib.import_module(dotted)
    except ImportError:
        return bool(module) and _exists(module) and hasattr(_resolve(module), attribute)
    return True


def _resolve(dotted: str) -> object:
    module, _, attribute = dotted.rpartition(".")
    try:
        return importlib.import_module(dotted)
    except ImportError:
        return getattr(_resolve(module), attribute)
