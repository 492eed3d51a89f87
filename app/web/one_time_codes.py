"""One-time codes, which the console exchanges for a token within a short time."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from app.ports.clock import Clock

LIFETIME_SECONDS = 15 * 60


class OneTimeCodes:
    """Issues codes and exchanges them. They are kept in memory, so only the process that issued a code accepts it."""

    def __init__(
        self, clock: Clock, create_token: Callable[[], str], *, lifetime_seconds: float = LIFETIME_SECONDS
    ) -> None:
        """`create_token` is called at each exchange and returns a JWT."""
        self._clock = clock
        self._create_token = create_token
        self._lifetime_seconds = lifetime_seconds
        self._expires_at: dict[str, float] = {}
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each exchange, so that another code can be issued."""
        self._listeners.append(listener)

    def issue(self) -> str:
        """Return a new code, which is valid for the lifetime and for one exchange."""
        code = secrets.token_urlsafe(32)
        self._expires_at[code] = self._clock.now() + self._lifetime_seconds
        return code

    def exchange(self, code: str) -> str | None:
        """Invalidate the code and return a token; None where the code is invalid, expired or already used."""
        expires_at = self._expires_at.pop(code, None)
        if expires_at is None or expires_at <= self._clock.now():
            return None
        token = self._create_token()
        for listener in self._listeners:
            listener()
        return token
