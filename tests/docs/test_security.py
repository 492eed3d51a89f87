"""The table of attacks names tests that exist."""

from __future__ import annotations

import re

from tests.docs.readmes import ROOT

TABLE = ROOT / "app" / "web" / "SECURITY.md"


def test_every_test_that_the_table_of_attacks_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE.read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert named - set(re.findall(r"def (test_\w+)", sources)) == set()
    assert len(named) > 20
