"""The limits of what an MCP server may send: the size of a message, and messages and bytes in some seconds."""

from __future__ import annotations

import time

MAX_MESSAGE_BYTES = 1024 * 1024
_WINDOW_SECONDS = 10.0
_MAX_MESSAGES = 5000
_MAX_BYTES = 32 * 1024 * 1024


class Flood(Exception):
    """The server sends more than it may; the message names the limit."""


class Inflow:
    """Counts what one connection receives, in windows of ten seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._messages = 0
        self._bytes = 0

    def count(self, size_bytes: int, messages: int = 1) -> None:
        """Count what arrived. Raises `Flood` if it is more than a server may send."""
        now = time.monotonic()
        if now - self._began > _WINDOW_SECONDS:
            self._began, self._messages, self._bytes = now, 0, 0
        self._messages += messages
        self._bytes += size_bytes
        if self._messages > _MAX_MESSAGES or self._bytes > _MAX_BYTES:
            raise Flood(
                f"it sent more than {_MAX_MESSAGES} messages or {_MAX_BYTES // 1024 // 1024} MiB"
                f" in {_WINDOW_SECONDS:g} s"
            )
