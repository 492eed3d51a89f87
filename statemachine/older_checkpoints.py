"""Reads what earlier releases saved: the schema versions before the present one, as JSON of the present one."""

from __future__ import annotations

import json
from typing import Any

from statemachine.masking import find_masked


def version_of(text: str | bytes) -> int:
    """Return the schema version of a saved checkpoint, or 0 if it has none."""
    try:
        version = json.loads(text)["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0


def upgrade(text: str | bytes) -> dict[str, Any] | None:
    """Return a checkpoint of version 1 or 2 as one of version 3, or None if it is none of these.

    Those versions stored what people see of a call beside its arguments.
    """
    if version_of(text) not in (1, 2):
        return None
    stored: dict[str, Any] = json.loads(text)
    calls = stored.get("calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            call["secret_fields"] = find_masked(call.get("arguments"), call.pop("shown_arguments", {}))
    return stored
