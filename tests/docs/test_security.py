"""The table of attacks names tests that exist."""

from __future__ import annotations

import re

from tests.docs.readmes import ROOT

_TABLE = ROOT / "app" / "web" / "SECURITY.md"
_HEADER = "| attack | what happens | test |"
_TEST = re.compile(r"`(test_\w+)`")


def test_each_attack_names_a_test_that_exists() -> None:
    rows = [line for line in _TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert rows[0] == _HEADER
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"def (test_\w+)\(", sources))
    for row in rows[1:]:
        named = set(_TEST.findall(row))
        assert named, f"the row names no test: {row}"
        assert named <= defined, f"there is no such test: {sorted(named - defined)}"
