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
    """Return a checkpoint of version 1, 2 or 3 as one of version 4, or None if it is none of these.

    Versions 1 and 2 stored what people see of a call beside its arguments. Those and version 3 stored what the model
    reads of a call with the call too, and not only in the conversation.
    """
    version = version_of(text)
    if version not in (1, 2, 3):
        return None
    stored: dict[str, Any] = json.loads(text)
    calls = stored.get("calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            call.pop("answer", None)
            if version < 3:
                call["secret_fields"] = find_masked(call.get("arguments"), call.pop("shown_arguments", {}))
    return stored
