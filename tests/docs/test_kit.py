"""The kit for tests of tools, installed from the wheel: the test of the README runs in another project."""

from __future__ import annotations

import os
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.docs.readmes import ROOT, files_of
from tests.harness.archives import build_wheel, call

PROJECT = {**files_of(ROOT / "app/tools/README.md"), **files_of(ROOT / "app/testing/README.md")}


def test_the_test_of_the_readme_has_ten_lines() -> None:
    assert len(PROJECT["test_orders.py"].splitlines()) == 9
    assert "import aura" not in PROJECT["test_orders.py"]


@pytest.mark.slow
def test_the_test_of_the_readme_runs_in_a_project_that_has_installed_the_wheel(tmp_path: Path) -> None:
    """The dependencies are those of this environment, so that nothing is downloaded."""
    environment, project = tmp_path / "environment", tmp_path / "project"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", build_wheel(ROOT, tmp_path / "wheel"))
    site = sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    for shown, text in PROJECT.items():
        (project / shown).parent.mkdir(parents=True, exist_ok=True)
        (project / shown).write_text(text, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON", "COV_"))}
    where = call(python, "-c", "import app.testing; print(app.testing.__file__)", cwd=project, environment=kept)
    assert where.startswith(str(environment))
    ran = call(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project, environment=kept)
    assert "1 passed" in ran
