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
