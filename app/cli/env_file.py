"""The settings of a file `.env` (CONTRACT §8), which `aura serve` reads; `python-dotenv` knows the format."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from app.errors import ConfigurationError

DEFAULT_FILE = Path(".env")
_MAX_BYTES = 1024 * 1024


def with_env_file(environment: Mapping[str, str], path: Path | None) -> dict[str, str]:
    """Return the environment, and below it what the file `path` says, or `.env` in the working directory if there is
    one.

    A variable that is set in the environment wins, even if it is empty; names are compared without case. Raises
    `ConfigurationError` with the file and the line of an error, and never a value.
    """
    if path is None and not DEFAULT_FILE.is_file():
        return dict(environment)
    given = {name.upper() for name in environment}
    read = _read(path or DEFAULT_FILE)
    return {**{name: value for name, value in read.items() if name.upper() not in given}, **environment}


def _read(path: Path) -> dict[str, str]:
    text = _text(path)
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            lines = binding.original.string
            line = binding.original.line + lines[: len(lines) - len(lines.lstrip())].count("\n")
            raise ConfigurationError(f"{path}: line {line} is not NAME=value; quote a value that has quotes or spaces")
    values = dotenv_values(stream=io.StringIO(text))
    return {name: value for name, value in values.items() if value is not None}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or 'it cannot be read'}") from None
    if len(raw) > _MAX_BYTES:
        raise ConfigurationError(f"{path}: it has more than 1 MiB, which no file of settings has")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: it is not UTF-8 (byte {error.start + 1}); save it as UTF-8") from None
    if "\0" in text:
        raise ConfigurationError(f"{path}: it has a zero byte, which no variable can hold; save it as UTF-8")
    return text
