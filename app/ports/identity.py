"""The authenticated caller."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose token was verified. `token` is the JWT itself, `expires_at` its expiry in Unix seconds."""

    user_id: str
    tenant_id: str
    role: str | None = None
    email: str | None = None
    token: str = field(default="", repr=False, compare=False)
    expires_at: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from, for the record: the peer's address, and what the caller says of itself.

    `forwarded_for` is what a proxy has written, or the caller himself. Nothing is decided by these.
    """

    address: str | None = None
    forwarded_for: str | None = None
    caller_type: str | None = None


NO_ORIGIN = Origin()
