"""The distribution `aura-client`: what its archives contain, and that the examples of the README files run with its
wheel where nothing of the service is installed."""

from __future__ import annotations

import re
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.docs.readmes import READMES, Block, blocks_of
from tests.harness.archives import Archives, build_wheel, call
from tests.test_architecture import CLIENT, ROOT

EXAMPLES = [block for readme in READMES for block in blocks_of(readme) if "from aura_client import" in block.text]
MODULES = {path.name for path in CLIENT.glob("*.py")} | {"py.typed"}


def project(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return fields


def test_both_distributions_have_one_version_licence_and_oldest_python() -> None:
    client, platform = project(CLIENT), project(ROOT)
    for name in ("version", "license", "requires-python"):
        assert client[name] == platform[name]
    assert (CLIENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_dependencies_of_the_client_are_those_of_the_service() -> None:
    """Its modules run in both, so a range may not differ."""
    assert set(project(CLIENT)["dependencies"]) <= set(project(ROOT)["dependencies"])


@pytest.mark.slow
def test_archives_contain_the_python_client_alone(client_archives: Archives, tmp_path: Path) -> None:
    with zipfile.ZipFile(client_archives.wheel) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
    assert packed == {f"aura_client/{name}" for name in MODULES}
    with tarfile.open(client_archives.sdist) as sdist:
        sources = {name.partition("/")[2] for name in sdist.getnames()}
        sdist.extractall(tmp_path, filter="data")
    own = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert sources - {".gitignore"} == MODULES | own  # hatchling adds the former where there is one
    (unpacked,) = tmp_path.iterdir()
    assert build_wheel(unpacked, tmp_path / "again").read_bytes() == client_archives.wheel.read_bytes()


@pytest.fixture(scope="module")
def python(client_archives: Archives, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel and what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    needed = project(CLIENT)["dependencies"]
    try:
        call(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock", *needed)
    except AssertionError as error:
        pytest.skip(f"{', '.join(needed)} cannot be downloaded: {str(error).splitlines()[0]}")
    call(python, "-m", "pip", "install", "--quiet", "--no-index", client_archives.wheel)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda block: block.id)
def test_example_runs_where_nothing_of_the_service_is_installed(
    example: Block, python: Path, demo_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "example.py").write_text(example.text, encoding="utf-8")
    output = call(python, "-I", "example.py", cwd=tmp_path, environment=demo_environment)
    assert re.search(r"[가-힣]", output), "the answer was printed"


@pytest.mark.slow
def test_examples_are_of_both_clients_and_in_the_root_readme() -> None:
    assert ROOT / "README.md" in {example.readme for example in EXAMPLES}
    for name in ("AuraClient", "SyncAuraClient"):
        assert any(re.search(rf"\b{name}\(", example.text) for example in EXAMPLES)


@pytest.mark.slow
def test_types_of_the_installed_client_hold_in_the_examples(python: Path, tmp_path: Path) -> None:
    for number, example in enumerate(EXAMPLES):
        (tmp_path / f"example{number}.py").write_text(example.text, encoding="utf-8")
    options = ("--strict", "--config-file=", "--python-executable", python, f"--cache-dir={tmp_path / 'cache'}")
    call(sys.executable, "-m", "mypy", *options, ".", cwd=tmp_path)


@pytest.mark.slow
def test_each_distribution_stays_whole_when_the_other_is_removed(
    python: Path, client_archives: Archives, tmp_path: Path
) -> None:
    platform = build_wheel(ROOT, tmp_path / "platform")
    pip = (python, "-m", "pip", "--quiet")
    call(*pip, "install", "--no-deps", "--no-index", platform)
    call(python, "-I", "-c", "import app.client, aura_client; assert app.client.Hitl is not aura_client.Hitl")
    call(*pip, "uninstall", "--yes", "aura-client")
    call(python, "-I", "-c", "from app.client import AuraClient, SyncAuraClient")
    call(*pip, "install", "--no-index", client_archives.wheel)
    call(*pip, "uninstall", "--yes", "aura-platform")
    call(python, "-I", "-c", "from aura_client import AuraClient, SyncAuraClient")
