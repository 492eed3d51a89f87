"""Reads the answer text of the current model turn from the frames of a run's log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def streamed_text(bodies: Iterable[bytes]) -> str:
    """Return the answer text of the last model turn. `bodies` are all frame bodies of the run, in order."""
    parts: list[str] = []
    for body in bodies:
        event = decode_body(body)
        fields = event.get("data") or event
        if event.get("type") == "timeline_step_update" and fields["metadata"]["to"] == "content":
            parts.clear()
        elif event.get("type") == "content":
            parts.append(fields["content"])
    return "".join(parts)


def decode_body(body: bytes) -> dict[str, Any]:
    """Return the event in a frame body, of any shape; empty for the end marker."""
    data = body.partition(b"data: ")[2].rstrip(b"\n")
    return {} if data == b"[DONE]" else dict(json.loads(data))
