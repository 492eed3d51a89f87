"""`aura serve` reads a file `.env` (§8): the environment wins, and an error names the line and no value."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import main
from app.cli.env_file import with_env_file
from app.errors import ConfigurationError
from app.settings import Settings
from tests.harness.service import SECRET


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_file_in_the_working_directory_is_read(folder: Path) -> None:
    (folder / ".env").write_text(
        f"# the platform\nexport JWT_SECRET='{SECRET}'\nOPENAI_MODEL=\"gpt-4o\"\n\n"
        "HITL_TIMEOUT_SECONDS=60 # short\nSPRING_PROFILES_ACTIVE=dev\nAURA_PLATFORM_URI=http://aura:9000\n"
    )
    settings = Settings.from_environment(with_env_file({"PATH": "/bin"}, None))
    assert settings.jwt_secret.get_secret_value() == SECRET
    assert (settings.openai_model, settings.hitl_timeout_seconds) == ("gpt-4o", 60)


def test_without_a_file_the_environment_is_all(folder: Path) -> None:
    assert with_env_file({"A": "1"}, None) == {"A": "1"}
    (folder / ".env").mkdir()  # a container makes it where the file to mount is missing
    assert with_env_file({"A": "1"}, None) == {"A": "1"}


def test_environment_wins_over_the_file(folder: Path) -> None:
    (folder / ".env").write_text("OPENAI_MODEL=file\nREDIS_HOST=file\nMAIN_SERVICE_URL=http://file\n")
    merged = with_env_file({"openai_model": "environment", "MAIN_SERVICE_URL": ""}, None)
    settings = Settings.from_environment({**merged, "JWT_SECRET": SECRET})
    assert (settings.openai_model, settings.redis_host, settings.main_service_url) == ("environment", "file", None)


def test_named_file_is_read_in_place_of_the_default_one(folder: Path) -> None:
    (folder / ".env").write_text("OPENAI_MODEL=default\nREDIS_HOST=default\n")
    (folder / "other").write_bytes("\ufeffOPENAI_MODEL=other\r\n".encode())
    assert with_env_file({}, Path("other")) == {"OPENAI_MODEL": "other"}
    assert with_env_file({}, Path(os.devnull)) == {}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"A=1\n\nJWT_SECRET='s3cret\n", "line 3 is not NAME=value"),
        (b"A=1\n=s3cret\n", "line 2 is not NAME=value"),
        (b"A=s3cret\xff", "it is not UTF-8 (byte 9)"),
        (b"A=s3cret\0", "zero byte"),
        (b"A=" + b"s3cret" * 200_000, "more than 1 MiB"),
    ],
)
def test_file_that_cannot_be_read_stops_the_start_without_its_values(folder: Path, content: bytes, cause: str) -> None:
    (folder / ".env").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        with_env_file({}, None)
    message = str(caught.value)
    assert ".env: " in message
    assert cause in message
    assert "s3cret" not in message
    assert "\n" not in message


def serve(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_serve_reads_the_file_and_names_what_is_wrong_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JWT_SECRET", raising=False)
    assert "JWT_SECRET: it is required" in serve()
    (folder / ".env").write_text(f"JWT_SECRET={SECRET}\nAURA_HEARTBEAT_SECOND=3\n")
    assert "AURA_HEARTBEAT_SECOND: there is no such setting; did you mean AURA_HEARTBEAT_SECONDS?" in serve()
    (folder / "other").write_text(f"JWT_SECRET={SECRET}\nGITHUB_TOKEN=gh\u2013token\n")
    assert "GITHUB_TOKEN: its character 3 is not ASCII" in serve("--env-file", "other")
    assert "missing: No such file or directory" in serve("--env-file", "missing")


def test_other_commands_read_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JWT_SECRET", raising=False)
    (folder / ".env").write_text(f"JWT_SECRET={SECRET}\n")
    result = CliRunner().invoke(main, ["token", "--user", "u1", "--tenant", "t1"])
    assert result.exit_code == 2
    assert "JWT_SECRET" in result.stderr
