"""One-time links to the console: a code that is exchanged once, and soon, for a token."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from app.ports.clock import Clock

LIFETIME_SECONDS = 15 * 60


class OneTimeCodes:
    """Codes live in this process alone; the token is made when one is used."""

    def __init__(self, clock: Clock, token: Callable[[], str], *, lifetime_seconds: float = LIFETIME_SECONDS) -> None:
        self._clock = clock
        self._token = token
        self._lifetime_seconds = lifetime_seconds
        self._expires_at: dict[str, float] = {}
        self.used: Callable[[], None] = lambda: None
        """Called after each exchange: whoever gave the link out may give another."""

    def code(self) -> str:
        """A new one."""
        code = secrets.token_urlsafe(32)
        self._expires_at[code] = self._clock.now() + self._lifetime_seconds
        return code

    def exchange(self, code: str) -> str | None:
        """The token; None: the code was used, has expired, or never was."""
        expires_at = self._expires_at.pop(code, None)
        if expires_at is None or expires_at <= self._clock.now():
            return None
        token = self._token()
        self.used()
        return token
