"""Options that commands share: who asks which service, the screen's context, what is said to approvals, the file."""

from __future__ import annotations

import json
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


def issue_token_from_settings(user: str, tenant: str, role: str | None, hours: float) -> str:
    from app.settings import Settings
    from app.web.auth import issue_token

    secret = Settings.from_environment().jwt_secret.get_secret_value()
    lifetime = int(hours * 3600)
    return issue_token(secret, user_id=user, tenant_id=tenant, role=role, now=time.time(), lifetime_seconds=lifetime)


@dataclass(frozen=True, slots=True)
class Asker:
    """Which service is asked, and on whose behalf."""

    url: str
    token: str | None
    user: str | None
    tenant: str | None
    role: str | None

    def client(self) -> AuraClient:
        """Raises `click.UsageError`: nobody is named, or the address or the token is none."""
        from app.client.client import AuraClient, Credentials
        from app.client.responses import ClientError

        token = self.token
        if token is None:
            if not self.user or not self.tenant:
                raise click.UsageError("say who asks: --token JWT, or --user and --tenant with JWT_SECRET set")
            token = issue_token_from_settings(self.user, self.tenant, self.role, hours=1)
        try:
            return AuraClient(self.url, Credentials.from_token(token))
        except ClientError as error:
            raise click.UsageError(str(error)) from error


_ASKER_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--url", default="http://127.0.0.1:9000", show_default=True, help="The service or the gateway's /api."
    ),
    click.option("--token", metavar="JWT", help="Whose run it is; or else:"),
    click.option("--user", help="`sub` of a token signed with JWT_SECRET."),
    click.option("--tenant", help="`tenant_id` of that token."),
    click.option("--role", help="`role` of that token."),
)


def asker_options(command: Command) -> Command:
    """`--url --token --user --tenant --role`, given to the command as `asker`."""

    @wraps(command)
    def called(
        *, url: str, token: str | None, user: str | None, tenant: str | None, role: str | None, **others: Any
    ) -> Any:
        return command(asker=Asker(url, token, user, tenant, role), **others)

    decorated: Any = called
    for option in reversed(_ASKER_OPTIONS):
        decorated = option(decorated)
    return cast("Command", decorated)


def _context(_: click.Context, __: click.Parameter, given: str | None) -> dict[str, Any]:
    """The screen's context from JSON text or from `@file`."""
    if not given:
        return {}
    try:
        value = json.loads(Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given)
    except OSError as error:
        raise click.BadParameter(f"{given[1:]}: {error.strerror}") from error
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.BadParameter("a JSON object is required")
    return value


context_option = click.option(
    "--context", metavar="JSON|@FILE", callback=_context, help="The screen's context, a JSON object."
)
approve_option = click.option("--approve", "verdict", flag_value="approve", help="Say yes to every approval.")
reject_option = click.option("--reject", "verdict", flag_value="reject", help="Say no to every approval.")

output_option = click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file. [default: the terminal]"
)


def deliver(content: bytes, output: Path | None) -> None:
    """To the file, or else to stdout as it is."""
    if output is None:
        click.echo(content, nl=False)
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise click.FileError(str(output), error.strerror or "it cannot be written") from error
