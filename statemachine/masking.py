"""The secrets in a call's arguments: where they are, and the arguments as people see them.

What people see is made from what runs, each time that it is shown. It is never stored beside it, so that the two cannot
differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

MASK = "***"

Path = list[str | int]
"""The place of a value: the keys and positions that lead to it."""


def mask_values(arguments: dict[str, Any], paths: Sequence[Path]) -> dict[str, Any]:
    """Return the arguments with a mask in place of each value at one of the paths. A path without a value is ignored.

    Without paths it is the same object. The empty path masks everything.
    """
    for path in paths:
        arguments = _masked(arguments, path) if path else {MASK: MASK}
    return arguments


def _masked(value: Any, path: Sequence[str | int]) -> Any:
    if not path:
        return MASK
    key, *rest = path
    if isinstance(value, dict) and key in value:
        return {**value, key: _masked(value[str(key)], rest)}
    if isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
        return [*value[:key], _masked(value[key], rest), *value[key + 1 :]]
    return value


def find_masked(value: Any, shown: Any) -> list[Path]:
    """Return the paths at which `shown` differs from the value: there the value is a secret.

    Where keys differ a key is a secret, and the whole object is masked. So is a list of another length.
    """
    return list(_differences(value, shown, []))


def _differences(value: Any, shown: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, dict) and isinstance(shown, dict) and value.keys() == shown.keys():
        for key, item in value.items():
            yield from _differences(item, shown[key], [*path, key])
    elif isinstance(value, list) and isinstance(shown, list) and len(value) == len(shown):
        for position, item in enumerate(value):
            yield from _differences(item, shown[position], [*path, position])
    elif value != shown:
        yield path
