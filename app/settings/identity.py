"""The settings of identity: who may do what, the secrets that prove it, the record of who did what, and for how long
ended runs are kept."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from app.settings.types import NameList, Names, SearchServerUrl, parse_json

SECRET_BYTES = 32
"""RFC 7518 §3.2: an HS256 key has at least the size of the hash."""
_DIFFERENT_CHARACTERS = 10
_ORIGIN = re.compile(r"https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:\d{1,5})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _strong_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    size = len(text.encode())
    if size < SECRET_BYTES:
        raise ValueError(f"it has {size} bytes, HS256 needs at least {SECRET_BYTES}; `openssl rand -hex 32` makes one")
    if len(set(text)) < _DIFFERENT_CHARACTERS:
        raise ValueError(
            f"it has fewer than {_DIFFERENT_CHARACTERS} different characters, so it can be guessed;"
            " `openssl rand -hex 32` makes one"
        )
    return secret


def _origins(origins: Names) -> Names:
    """Check that each is what a browser sends as `Origin`. Raises `ValueError` with the wrong one."""
    for origin in sorted(origins):
        if origin == "*":
            raise ValueError("* is not possible: name each origin whose pages may read answers")
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin[:80]} is no origin: https://host[:port] in lower case is required, without a path"
            )
        if origin.endswith(_DEFAULT_PORTS[origin.partition(":")[0]]):
            raise ValueError(f"{origin[:80]}: browsers leave out the default port; leave it out, too")
    return origins


def _split_secrets(secrets: Any) -> Any:
    """Return the secrets of a text: separated by commas, or a JSON list where one of them contains a comma."""
    if not isinstance(secrets, str):
        return secrets
    if not secrets.startswith("["):
        return tuple(part.strip() for part in secrets.split(",") if part.strip())
    listed = parse_json(secrets)
    if not isinstance(listed, list) or not all(isinstance(secret, str) for secret in listed):
        raise ValueError("a JSON list of texts is required, or texts separated by commas")
    return tuple(listed)


def _strong_secrets(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for number, secret in enumerate(secrets, start=1):
        try:
            _strong_secret(secret)
        except ValueError as error:
            raise ValueError(f"secret {number}: {error}") from None
    return secrets


TokenSecret = Annotated[SecretStr, AfterValidator(_strong_secret)]
TokenSecrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_split_secrets), AfterValidator(_strong_secrets)]


def _days_of_tenants(text: Any) -> Any:
    """Return the days of each tenant. Raises `ValueError` with the number of the wrong entry."""
    if not isinstance(text, str):
        return text
    if text.startswith("{"):
        return parse_json(text)
    days: dict[str, str] = {}
    for number, entry in enumerate(filter(str.strip, text.split(",")), start=1):
        tenant, equals, value = (part.strip() for part in entry.rpartition("="))
        if not tenant or not equals or not re.fullmatch(r"\d+(\.\d+)?", value):
            raise ValueError(f"entry {number}: tenant=days is required, such as tenant1=30,tenant2=365")
        if tenant in days:
            raise ValueError(f"entry {number}: the tenant {tenant} has an entry already")
        days[tenant] = value
    return days


DaysOfTenants = Annotated[dict[str, Annotated[float, Field(ge=0)]], BeforeValidator(_days_of_tenants)]
"""`tenant1=30,tenant2=0`, or a JSON object where the id of a tenant contains a comma."""


class ArchiveSettings(BaseModel):
    """The archive of ended runs."""

    aura_archive_url: SearchServerUrl | None = Field(
        default=None,
        description="`postgresql://user:password@host/database`: ended runs are [kept](#the-archive) there",
    )
    aura_archive_days: float = Field(default=90, gt=0, description="days that a run is kept there after its end")
    aura_archive_tenant_days: DaysOfTenants = Field(
        default={}, description="other days of single tenants, `tenant1=30,tenant2=365`; 0: its runs are not archived"
    )


class IdentitySettings(BaseModel):
    """Who may do what, and the record of who did what. They come first in `Settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    jwt_secret: TokenSecret = Field(description="HS256 key of the platform's tokens, at least 32 bytes")
    jwt_secrets_accepted: TokenSecrets = Field(
        default=(), description="further keys that are [accepted](#rotation-of-the-secret)"
    )
    aura_decision_key: TokenSecret | None = Field(
        default=None,
        description="key shared with the Main Service, at least 32 bytes; decisions through Redis then need its MAC",
    )
    aura_accept_unsigned: bool = Field(
        default=False, description="read runs and requests without a MAC, while an older release is replaced"
    )
    aura_approver_roles: NameList = Field(
        default=frozenset({"admin", "approver"}), description="roles that may decide any request of their tenant"
    )
    aura_cors_origins: Annotated[NameList, AfterValidator(_origins)] = Field(
        default=frozenset(),
        description="[origins](../web/BROWSERS.md#cors) of pages that may read answers; none: CORS is off",
    )
    aura_jwt_leeway_seconds: float = Field(
        default=60, ge=0, description="seconds that a token's `iat` may lie in the future"
    )
    aura_jwt_audience: str | None = Field(default=None, description="a token's `aud` must be or contain this")
    aura_jwt_issuer: str | None = Field(default=None, description="a token's `iss` must be this")
    aura_jwt_max_lifetime_seconds: int = Field(
        default=0, ge=0, description="seconds from a token's `iat` to its `exp`, at most; 0: no limit"
    )

    # the record of decisions
    aura_auditor_roles: NameList = Field(
        default=frozenset({"admin", "auditor"}), description="roles that may read the record of their tenant"
    )
    aura_audit_key: TokenSecret | None = Field(
        default=None, description="secret of the record's MACs, at least 32 bytes; without it `JWT_SECRET`"
    )
    aura_audit_url: SearchServerUrl | None = Field(
        default=None, description="`postgresql://user:password@host/database`: a copy of the record is kept there"
    )
    aura_audit_retention_days: float = Field(default=400, ge=1, description="days that an entry of it is kept")

    @property
    def token_secrets(self) -> tuple[str, ...]:
        """Return the keys that a token may be signed with: the one that signs first."""
        return tuple(secret.get_secret_value() for secret in (self.jwt_secret, *self.jwt_secrets_accepted))

    @property
    def token_rules(self) -> tuple[str | None, str | None, int]:
        """Return the audience, the issuer and the longest lifetime that tokens must have."""
        return self.aura_jwt_audience, self.aura_jwt_issuer, self.aura_jwt_max_lifetime_seconds

    @property
    def audit_secrets(self) -> tuple[str, ...]:
        """Return the secrets that an entry of the record may be sealed with: the one that seals first."""
        own = () if self.aura_audit_key is None else (self.aura_audit_key.get_secret_value(),)
        return (*own, *self.token_secrets)
