"""A text file with the instructions that the model gets (`AURA_SYSTEM_PROMPT_FILE`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from app.settings.text_files import read_text

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
        text = read_text(path, MAX_PROMPT_BYTES, "shorten it: each request to the model has it").strip()
        if not text:
            raise ValueError(f"{path} is empty; write the instructions into it, or name no file")
        return cls(path, text)

    @classmethod
    def of_setting(cls, value: Any) -> Any:
        """Read the file where the value of a setting is a path; other values are left to its type."""
        return cls.read(value) if isinstance(value, str) else value
