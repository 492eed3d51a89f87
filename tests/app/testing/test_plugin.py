"""The pytest plugin in runs of its own: what it adds to them, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import ROOT

pytestmark = pytest.mark.slow

TESTS = """
import sys

from app.tools import tool


def test_the_service_is_not_imported_before_it_is_used():
    assert not {"app.bootstrap", "app.testing.service"} & set(sys.modules)


def test_that_fails(aura):
    @tool(needs_approval=True, question="{count}개를 더하시겠습니까?")
    async def add(count: int) -> int:
        return count

    aura.use(add).model.calls("add", count=3).answers("never used")
    assert aura.run("더해줘").waiting is None


def test_that_leaves_a_turn(aura):
    aura.model.answers("하나").answers("둘")
    assert aura.run("안녕").answer == "하나"


def test_that_follows(aura):
    aura.model.answers("셋")
    assert aura.run("안녕").answer == "셋"
    assert len(aura.client().runs()["runs"]) == 1
"""


def test_a_run_without_other_plugins_reports_what_the_service_did(tmp_path: Path) -> None:
    (tmp_path / "test_tools.py").write_text(TESTS, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "app.testing.plugin", "-rA", "test_tools.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert "1 failed, 3 passed, 1 error" in ran.stdout, ran.stdout
    assert "hitl: 3개를 더하시겠습니까?" in ran.stdout
    assert "ERROR test_tools.py::test_that_leaves_a_turn" in ran.stdout
    assert '1 turn(s) of the scripted model were not used (the service sent 1 request(s)): answers "둘"' in ran.stdout
    assert 'answers "never used"' not in ran.stdout, "the failed assertion is the one to read"
