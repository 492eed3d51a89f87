"""A text file with the instructions that the model gets (`AURA_SYSTEM_PROMPT_FILE`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

MAX_PROMPT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class PromptFile:
    """The text of a file as it was when the settings were read, without white space at its ends."""

    path: str
    text: str = field(repr=False)

    @classmethod
    def read(cls, path: str) -> Self:
        """Read a UTF-8 text file. Raises `ValueError` with the file, the cause and the remedy."""
        path = path.strip()
        content = _read_bytes(path)
        if len(content) > MAX_PROMPT_BYTES:
            raise ValueError(
                f"{path} has more than {MAX_PROMPT_BYTES} bytes; shorten it: each request to the model has it"
            )
        try:
            text = content.decode("utf-8-sig").replace("\r\n", "\n").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text (its byte {error.start} is not); save it as UTF-8") from None
        if not text:
            raise ValueError(f"{path} is empty; write the instructions into it, or name no file")
        return cls(path, text)

    @classmethod
    def of_setting(cls, value: Any) -> Any:
        """Read the file where the value of a setting is a path; other values are left to its type."""
        return cls.read(value) if isinstance(value, str) else value


def _read_bytes(path: str) -> bytes:
    """Return the content of a file, at most one byte more than a prompt may have. Raises `ValueError`."""
    try:
        if not Path(path).exists():
            raise ValueError(f"{path} does not exist (the working directory is {Path.cwd()}); correct the path")
        if not Path(path).is_file():  # a pipe or a device could be endless
            raise ValueError(f"{path} is not a file; name a text file")
        with Path(path).open("rb") as file:
            return file.read(MAX_PROMPT_BYTES + 1)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); give the service a file that it may read"
        ) from None
