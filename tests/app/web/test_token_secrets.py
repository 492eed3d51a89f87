"""Several secrets at once, as in a rotation, and what else a token may be required to have."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from click.testing import CliRunner
from joserfc import jwt
from joserfc.jwk import OctKey
from werkzeug.datastructures import Headers

from app.cli import main
from app.errors import TokenInvalid
from app.ports.identity import Principal
from app.web.auth import Authenticator
from app.web.token_keys import TokenRules
from tests.app.web.test_auth import FrozenClock
from tests.harness.approvals import MakeSettings
from tests.harness.service import SECRET, headers, running

OLD, NEW, OTHER = SECRET, "the new secret of at least 32 bytes for tests", "a foreign secret of at least 32 bytes too"
NOW = 1_706_156_400


def token(secret: str, *, kid: str | None = None, **changes: Any) -> str:
    claims = {"sub": "u", "tenant_id": "t", "iat": NOW, "exp": NOW + 600, **changes}
    header = {"alg": "HS256"} if kid is None else {"alg": "HS256", "kid": kid}
    return jwt.encode(header, claims, OctKey.import_key(secret))


def authenticate(token: str, *secrets: str, rules: TokenRules | None = None) -> Principal:
    authenticator = Authenticator(secrets, FrozenClock(NOW), leeway_seconds=60, rules=rules or TokenRules())
    return authenticator.authenticate(Headers({"Authorization": f"Bearer {token}", "X-Tenant-ID": "t"}))


def thumbprint(secret: str) -> str:
    return str(OctKey.import_key(secret).thumbprint())


def test_a_token_of_each_accepted_secret_is_valid_and_of_no_other() -> None:
    for secret in (OLD, NEW):
        assert authenticate(token(secret), NEW, OLD).user_id == "u"
    with pytest.raises(TokenInvalid, match="BadSignatureError"):
        authenticate(token(OTHER), NEW, OLD)
    with pytest.raises(TokenInvalid):
        authenticate(token(OLD), NEW)


def test_a_kid_that_is_a_thumbprint_selects_its_secret_alone() -> None:
    assert authenticate(token(OLD, kid=thumbprint(OLD)), NEW, OLD).user_id == "u"
    with pytest.raises(TokenInvalid):
        authenticate(token(OLD, kid=thumbprint(NEW)), NEW, OLD)


@pytest.mark.parametrize("kid", ["2024-01", "", "../../dev/null", "x" * 300])
def test_any_other_kid_is_the_matter_of_the_issuer(kid: str) -> None:
    assert authenticate(token(OLD, kid=kid), NEW, OLD).user_id == "u"


def test_a_token_that_is_none_is_refused_with_several_secrets_too() -> None:
    for text in ("x", "a.b.c", "....", "é.é.é"):
        with pytest.raises(TokenInvalid):
            authenticate(text, NEW, OLD)


@pytest.mark.parametrize(
    ("rules", "claims", "named"),
    [
        (TokenRules(audience="aura"), {}, "aud"),
        (TokenRules(audience="aura"), {"aud": "mail"}, "aud"),
        (TokenRules(audience="aura"), {"aud": ["mail", "chat"]}, "aud"),
        (TokenRules(audience="aura"), {"aud": {"aura": 1}}, "aud"),
        (TokenRules(issuer="dwp"), {}, "iss"),
        (TokenRules(issuer="dwp"), {"iss": "dwp2"}, "iss"),
        (TokenRules(max_lifetime_seconds=599), {}, "exp"),
    ],
)
def test_a_token_for_others_from_others_or_for_too_long_is_refused(
    rules: TokenRules, claims: dict[str, Any], named: str
) -> None:
    with pytest.raises(TokenInvalid, match=f"{named}:"):
        authenticate(token(OLD, **claims), OLD, rules=rules)


def test_a_token_that_has_what_is_required_is_accepted() -> None:
    rules = TokenRules(audience="aura", issuer="dwp", max_lifetime_seconds=600)
    for audience in ("aura", ["mail", "aura"]):
        assert authenticate(token(OLD, aud=audience, iss="dwp"), OLD, rules=rules).tenant_id == "t"


async def test_a_rotation_refuses_no_request(settings: MakeSettings) -> None:
    """The recipe of `app/server/README.md`: accept the new secret, switch, drop the old one."""

    async def status(sent: dict[str, str], **secrets: Any) -> int:
        async with running(settings(**secrets)) as aura:
            return (await aura.client.get("/aura/runs", headers=sent)).status_code

    now = int(time.time())
    of_new = jwt.encode(
        {"alg": "HS256"},
        {"sub": "user1", "tenant_id": "tenant1", "iat": now, "exp": now + 600},
        OctKey.import_key(NEW),
    )
    old, new = headers(), {**headers(), "Authorization": f"Bearer {of_new}"}
    first: dict[str, Any] = {"jwt_secret": OLD, "jwt_secrets_accepted": NEW}
    second: dict[str, Any] = {"jwt_secret": NEW, "jwt_secrets_accepted": json.dumps([OLD])}
    third: dict[str, Any] = {"jwt_secret": NEW}
    assert [await status(old, **step) for step in (first, second, third)] == [200, 200, 401]
    assert [await status(new, **step) for step in (first, second, third)] == [200, 200, 200]


def test_aura_token_issues_what_the_service_requires() -> None:
    environment = {
        "JWT_SECRET": OLD,
        "AURA_JWT_AUDIENCE": "aura",
        "AURA_JWT_ISSUER": "dwp",
        "AURA_JWT_MAX_LIFETIME_SECONDS": "3600",
    }
    issued = CliRunner().invoke(main, ["token", "--user", "u", "--tenant", "t", "--hours", "1"], env=environment)
    claims = jwt.decode(issued.output.strip(), OctKey.import_key(OLD)).claims
    assert (claims["aud"], claims["iss"]) == ("aura", "dwp")
    refused = CliRunner().invoke(main, ["token", "--user", "u", "--tenant", "t"], env=environment)
    assert refused.exit_code == 2
    assert refused.output.startswith("aura: AURA_JWT_MAX_LIFETIME_SECONDS: ")
