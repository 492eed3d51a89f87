"""Replaces `${NAME}`, `${NAME:-default}` and `${env:NAME}` in the texts of a server by variables of the environment.

It remembers which values are secret: those of variables and fields with names of secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_ANY_REFERENCE = re.compile(r"\$\{([^}]{0,60})\}")
_SECRET_NAME = re.compile(
    r"key|token|secret|passw|pwd|credential|auth|signature|cookie|session|private|dsn|connection_?string|_pat$|^pat$",
    re.IGNORECASE,
)
_OWN_SECRETS = frozenset({"JWT_SECRET", "JWT_SECRETS_ACCEPTED"})
_MIN_SECRET_CHARACTERS = 6
"""Shorter values are ordinary words, and masking them would mask these."""


def is_secret_name(name: str) -> bool:
    """Whether a variable, a field or a header of this name has a secret as its value."""
    return _SECRET_NAME.search(name) is not None


class Variables:
    """The environment, whose names are in upper case, and the secrets that were read from it or beside it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._secrets: dict[str, None] = {}

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(self._secrets)

    def replace(self, text: str, *, is_secret: bool = False) -> str:
        """Return the text with its variables replaced. Raises `ValueError`, which names a variable that is missing."""
        replaced = _VARIABLE.sub(self._value, text)
        for reference in _ANY_REFERENCE.finditer(text):
            if not _VARIABLE.fullmatch(reference[0]):
                raise ValueError(
                    f"{reference[0]} cannot be replaced: only ${{NAME}}, ${{NAME:-default}} and ${{env:NAME}} can"
                )
        if is_secret:
            self.add_secret(replaced)
        return replaced

    def add_secret(self, value: str) -> None:
        """Remember a value that nobody may see; of `Bearer …` also the part behind the word."""
        for part in (value, value.partition(" ")[2].strip()):
            if len(part) >= _MIN_SECRET_CHARACTERS:
                self._secrets[part] = None

    def _value(self, found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        if name.upper().startswith("AURA_") or name.upper() in _OWN_SECRETS:
            raise ValueError(f"{name} is a setting of this service, which no MCP server may get; use another variable")
        value = self._environment.get(name.upper()) or default
        if value is None:
            raise ValueError(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        if is_secret_name(name):
            self.add_secret(value)
        return value
