"""Options that commands share: the service and the user, the screen's context, decisions, the output file."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from app.client.client import AuraClient
    from app.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])
Parsed = TypeVar("Parsed")

env_file_option = click.option(
    "--env-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read settings from this file. The environment wins. [default: .env, if there is one]",
)


def read_settings(env_file: Path | None) -> Settings:
    """Return the settings as `aura serve` reads them, for a command that only shows what they offer.

    Such a command neither issues nor checks a token, so it needs no `JWT_SECRET`. Raises `ConfigurationError`.
    """
    from app.cli.env_file import with_env_file
    from app.settings import Settings, environment_of_process

    environment = with_env_file(environment_of_process(), env_file)
    if not any(name.upper() == "JWT_SECRET" and value for name, value in environment.items()):
        environment["JWT_SECRET"] = secrets.token_hex(32)
    return Settings.from_environment(environment)


_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MAX_TOKEN_BYTES = 64 * 1024


def issue_token_from_settings(user: str, tenant: str, role: str | None, hours: float, email: str | None = None) -> str:
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
        secret,
        user_id=user,
        tenant_id=tenant,
        role=role,
        now=time.time(),
        lifetime_seconds=lifetime,
        email=email,
        rules=rules,
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
                    "no user is given: set AURA_TOKEN or pass --token-file FILE,"
                    " or pass --user and --tenant and set JWT_SECRET"
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


_TOKEN_FILE = click.Path(dir_okay=False, path_type=Path)
_ACCESS_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--url",
        default="http://127.0.0.1:9000",
        show_default=True,
        help="Call the service at this address, or the gateway at its /api.",
    ),
    click.option(
        "--token-file",
        type=_TOKEN_FILE,
        metavar="FILE",
        help="Use the token in this file, which only you may be able to read. Without a token, one is issued from"
        " --user and --tenant.",
    ),
    click.option(
        "--token",
        metavar="JWT",
        envvar="AURA_TOKEN",
        show_envvar=True,
        help="Use this token. Other users of this machine can read it on a command line, but not in the environment.",
    ),
    click.option("--user", help="Set `sub` of the issued token, which JWT_SECRET signs."),
    click.option("--tenant", help="Set `tenant_id` of the issued token."),
    click.option("--role", help="Set `role` of the issued token."),
)


def access_options(command: Command) -> Command:
    """Adds `--url --token-file --token --user --tenant --role`; the command receives them as its argument `access`."""

    @wraps(command)
    def with_access(
        *,
        url: str,
        token_file: Path | None,
        token: str | None,
        user: str | None,
        tenant: str | None,
        role: str | None,
        **others: Any,
    ) -> Any:
        chosen = _choose_token(token_file, token, is_issued=bool(user or tenant or role))
        return command(access=ServiceAccess(url, chosen, user, tenant, role), **others)

    decorated: Any = with_access
    for option in reversed(_ACCESS_OPTIONS):
        decorated = option(decorated)
    return cast("Command", decorated)


def _choose_token(file: Path | None, token: str | None, *, is_issued: bool) -> str | None:
    """Return the token that the caller means; None where it is to be issued. The command line overrules AURA_TOKEN.

    Raises `click.UsageError` where the command line names more than one identity.
    """
    if click.get_current_context().get_parameter_source("token") is ParameterSource.ENVIRONMENT:
        token = None if file is not None or is_issued else token
    given = {"--token": token is not None, "--token-file": file is not None, "--user, --tenant and --role": is_issued}
    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise click.UsageError(f"{' and '.join(names)} contradict each other: give one of them")
    text = _read_token(file) if file is not None else token
    if text is None:
        return None
    text = text.strip()
    if not text.isascii() or len(text.split()) != 1:
        raise click.UsageError("the token is not a JWT: it is empty, or has spaces or other characters in it")
    return text


def _read_token(file: Path) -> str:
    """Read a file that holds a token. Raises `click.UsageError` where others have any right to it.

    This is an error and no warning, as for the private keys of ssh: a program that can read the file can approve in
    its owner's name, and one that can write to it can make its owner act as somebody else.
    """
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode  # of the file that is read: a path may lead to another one by now
            if mode & _OTHERS:
                raise click.UsageError(f"{file}: others may use this token (mode {mode & 0o777:04o}): chmod 600 {file}")
            raw = opened.read(_MAX_TOKEN_BYTES)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error
    return raw.decode("utf-8", "replace")


def decision_options(command: Command) -> Command:
    """Adds `--approve --reject --reason`; the command receives its arguments `verdict` and `reason`."""

    @click.option("--approve", is_flag=True, help="Approve every request.")
    @click.option("--reject", is_flag=True, help="Reject every request.")
    @click.option("--reason", help="Give this reason; needs --reject.")
    @wraps(command)
    def with_decision(*, approve: bool, reject: bool, reason: str | None, **others: Any) -> Any:
        if approve and reject:
            raise click.UsageError("--approve and --reject contradict each other: give one of them")
        if reason is not None and not reject:
            raise click.UsageError("--reason needs --reject")
        verdict: Literal["approve", "reject"] | None = "approve" if approve else "reject" if reject else None
        return command(verdict=verdict, reason=reason, **others)

    return cast("Command", with_decision)


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
