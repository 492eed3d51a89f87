"""The table of attacks names tests that exist."""

from __future__ import annotations

import re

from tests.docs.readmes import ROOT

TABLE = ROOT / "app" / "web" / "SECURITY.md"


def test_every_attack_in_the_table_names_a_test_that_exists() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    attacks = [row for row in rows if not row.startswith(("| attack |", "|---"))]
    assert attacks
    for row in attacks:
        names = re.findall(r"`(test_\w+)`", row.rpartition("|")[0].rpartition("|")[2])
        assert names, f"no test: {row}"
        assert [name for name in names if f"def {name}(" not in sources] == []
