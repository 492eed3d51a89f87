"""Options that commands share: the service and the user, the screen's context, decisions, the output file."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from app.client.client import AuraClient

Command = TypeVar("Command", bound=Callable[..., Any])
Parsed = TypeVar("Parsed")


def issue_token_from_settings(user: str, tenant: str, role: str | None, hours: float) -> str:
    """Issue a token, signed with the `JWT_SECRET` of the environment. Raises `ConfigurationError` if it is not set."""
    from app.errors import ConfigurationError
    from app.settings import Settings
    from app.web.auth import issue_token
    from app.web.token_keys import TokenRules

    settings = Settings.from_environment()
    secret, rules = settings.jwt_secret.get_secret_value(), TokenRules(*settings.token_rules)
    lifetime = int(hours * 3600)
    if 0 < rules.max_lifetime_seconds < lifetime:
        raise ConfigurationError(
            f"AURA_JWT_MAX_LIFETIME_SECONDS: the service would refuse a token of {lifetime} s,"
            f" at most {rules.max_lifetime_seconds} s are allowed"
        )
    return issue_token(
        secret, user_id=user, tenant_id=tenant, role=role, now=time.time(), lifetime_seconds=lifetime, rules=rules
    )


@dataclass(frozen=True, slots=True)
class ServiceAccess:
    """The address of a running service, and the token or the claims with which a command calls it."""

    url: str
    token: str | None
    user: str | None
    tenant: str | None
    role: str | None

    def client(self) -> AuraClient:
        """A client of the service.

        Raises `click.UsageError` where neither a token nor a user is given, or the address or the token is invalid.
        """
        from app.client.client import AuraClient, Credentials
        from app.client.responses import ClientError

        token = self.token
        if token is None:
            if not self.user or not self.tenant:
                raise click.UsageError(
                    "no user is given: pass --token JWT, or pass --user and --tenant and set JWT_SECRET"
                )
            token = issue_token_from_settings(self.user, self.tenant, self.role, hours=1)
        try:
            return AuraClient(self.url, Credentials.from_token(token))
        except ClientError as error:
            raise click.UsageError(str(error)) from error

    def fetch(self, path: str, parse: Callable[[bytes], Parsed], **parameters: str) -> Parsed:
        """Get `path` with the query `parameters` and parse the body.

        Where the service cannot be reached, refuses the request, or the body cannot be parsed, the command prints one
        line to stderr and exits with code 2.
        """
        from app.client.responses import ClientError

        client = self.client()

        async def fetch() -> bytes:
            async with client:
                return await client.fetch(path, **parameters)

        try:
            return parse(asyncio.run(fetch()))
        except ClientError as error:
            click.echo(f"aura: {error}", err=True)
            sys.exit(2)


_ACCESS_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--url",
        default="http://127.0.0.1:9000",
        show_default=True,
        help="Call the service at this address, or the gateway at its /api.",
    ),
    click.option("--token", metavar="JWT", help="Use this token. Without it, one is issued from --user and --tenant."),
    click.option("--user", help="Set `sub` of the issued token, which JWT_SECRET signs."),
    click.option("--tenant", help="Set `tenant_id` of the issued token."),
    click.option("--role", help="Set `role` of the issued token."),
)


def access_options(command: Command) -> Command:
    """Adds `--url --token --user --tenant --role`; the command receives them as its argument `access`."""

    @wraps(command)
    def with_access(
        *, url: str, token: str | None, user: str | None, tenant: str | None, role: str | None, **others: Any
    ) -> Any:
        return command(access=ServiceAccess(url, token, user, tenant, role), **others)

    decorated: Any = with_access
    for option in reversed(_ACCESS_OPTIONS):
        decorated = option(decorated)
    return cast("Command", decorated)


def _parse_context(_: click.Context, __: click.Parameter, text: str | None) -> dict[str, Any]:
    """Parse JSON text, or the JSON file that `@file` names. Raises `click.BadParameter`."""
    if not text:
        return {}
    try:
        value = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except OSError as error:
        raise click.BadParameter(f"{text[1:]}: {error.strerror}") from error
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.BadParameter("a JSON object is required")
    return value


context_option = click.option(
    "--context", metavar="JSON|@FILE", callback=_parse_context, help="Send this JSON object as the screen's context."
)
approve_option = click.option("--approve", "verdict", flag_value="approve", help="Approve every request.")
reject_option = click.option("--reject", "verdict", flag_value="reject", help="Reject every request.")
reason_option = click.option("--reason", help="Give this reason; needs --reject.")

output_option = click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file. [default: the terminal]"
)


def write_output(content: bytes, output: Path | None) -> None:
    """Write the bytes to the file, or to stdout where no file is given. Raises `click.FileError`."""
    if output is None:
        click.echo(content, nl=False)
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise click.FileError(str(output), error.strerror or "it cannot be written") from error
