"""Parses `AURA_MCP_SERVERS`: the JSON of other MCP clients, with further keys of ours.

Raises `ValueError` with the server and the key of an error, the cause and the remedy. No error repeats a value: it may
be a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from app.ports.mcp_servers import ClientCredentials, McpServer
from app.settings.text_files import did_you_mean, read_text
from app.settings.types import check_base_url, check_header_value, parse_json, secrets_in_url
from app.settings.variables import Variables, is_secret_name

_MAX_FILE_BYTES = 1024 * 1024
_MAX_SERVERS = 32
_MAX_TIMEOUT_SECONDS = 3600
_SERVER_NAME = re.compile(r"[A-Za-z](?:_?[A-Za-z0-9-])*")
"""It begins with a letter, as the names of functions must at some model servers. Without `__` inside and `_` at the
end, the first `__` of `server__tool` ends the server's name."""
_MAX_NAME_CHARACTERS = 32
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PLAIN_HEADERS = frozenset({"accept", "accept-language", "content-type", "user-agent"})
_CHILD_VARIABLES = ("PATH", "HOME", "LANG")

_COMMAND_KEYS = frozenset({"command", "args", "env", "cwd"})
_URL_KEYS = frozenset({"url", "headers", "oauth"})
_OUR_KEYS = frozenset({"trusted", "allow", "deny", "approval", "timeout_seconds", "disabled", "type", "transport"})
_KEYS = _COMMAND_KEYS | _URL_KEYS | _OUR_KEYS
_GRANTS_OF_OTHERS = frozenset({"autoapprove", "alwaysallow", "auto_approve", "always_allow", "autoallow"})
_OAUTH_KEYS = ("client_id", "client_secret", "issuer", "token_endpoint_auth_method", "scope")
_TRANSPORTS = {
    **dict.fromkeys(("stdio", "local"), "command"),
    **dict.fromkeys(("http", "streamable-http", "streamableHttp", "streamable_http"), "url"),
}
_AuthMethod = Literal["client_secret_basic", "client_secret_post"]


def parse_servers(text: str, environment: Mapping[str, str]) -> tuple[McpServer, ...]:
    """Return the servers of a JSON text that begins with `{`, or of a file, without those that are disabled.

    The names in `environment` are in upper case.
    """
    if text.startswith("{"):
        return _parse(text, environment)
    content = _read(Path(text))
    with _key(text):  # a file of this name exists, so it is not a secret
        return _parse(content, environment)


def _parse(text: str, environment: Mapping[str, str]) -> tuple[McpServer, ...]:
    given = parse_json(text)
    if isinstance(given, dict) and "mcpServers" in given:
        given = given["mcpServers"]
    if not isinstance(given, dict):
        raise ValueError('a JSON object is required, such as {"files": {"command": "mcp-server-files"}}')
    if len(given) > _MAX_SERVERS:
        raise ValueError(f"it has {len(given)} servers; {_MAX_SERVERS} are possible")
    servers = []
    for name, entry in given.items():
        _check_name(name)
        try:
            server = _server(name, entry, environment)
        except ValueError as error:
            raise ValueError(f"server {name}: {error}") from None
        if server is not None:
            servers.append(server)
    return tuple(servers)


def _read(path: Path) -> str:
    if path.suffix != ".json" and not _is_file(path):  # it may be JSON with a mistake, which can hold secrets
        raise ValueError("JSON that begins with { is required, or the path of its file; there is no such file")
    return read_text(str(path), _MAX_FILE_BYTES, "no list of servers has so many").strip()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # JSON is too long for a name
        return False


def _check_name(name: str) -> None:
    if len(name) > _MAX_NAME_CHARACTERS or not _SERVER_NAME.fullmatch(name):
        raise ValueError(
            f"the name of a server is not possible: 1 to {_MAX_NAME_CHARACTERS} letters, digits, - and _ are, which"
            " begin with a letter, without __ inside and _ at the end"
        )


def _server(name: str, entry: Any, environment: Mapping[str, str]) -> McpServer | None:
    if not isinstance(entry, dict):
        raise ValueError('a JSON object is required, such as {"command": "mcp-server-files"}')
    remarks = _check_keys(entry)
    if _boolean(entry, "disabled"):
        return None
    kind = _kind(entry)
    variables = Variables(environment)
    trusted = _boolean(entry, "trusted")
    ways = _command(entry, variables, environment) if kind == "command" else _remote(entry, variables)
    return McpServer(
        name=name,
        trusted=trusted,
        allow=_patterns(entry, "allow", ("*",)),
        deny=_patterns(entry, "deny", ()),
        approval=_approval(entry, trusted),
        timeout_seconds=_timeout(entry),
        secrets=variables.secrets,
        remarks=remarks,
        **ways,
    )


def _check_keys(entry: dict[str, Any]) -> tuple[str, ...]:
    """Refuse keys that look like misspelt ones of ours. Those of other clients are ignored; return remarks on them."""
    remarks, ignored = [], []
    for key in entry:
        if key in _KEYS:
            continue
        if key.lower() in _GRANTS_OF_OTHERS:
            remarks.append(
                f"{key} of other clients grants nothing here: tools need approval, unless the server is trusted and"
                " approval says otherwise"
            )
        elif near := did_you_mean(key.lower(), _KEYS, cutoff=0.75):
            raise ValueError(f"there is no key {key[:40]!r}{near}")
        else:
            ignored.append(key[:40])
    if ignored:
        remarks.append(f"keys of other clients are ignored: {', '.join(ignored)}")
    return tuple(remarks)


def _kind(entry: dict[str, Any]) -> str:
    """Return `command` or `url`: the key that names the server."""
    if "command" in entry and "url" in entry:
        raise ValueError("it has command and url; one of them is possible")
    if "command" not in entry and "url" not in entry:
        raise ValueError("command (a program that is started) or url (a remote server) is required")
    kind = "command" if "command" in entry else "url"
    for key in ("type", "transport"):
        transport = entry.get(key)
        if transport is None:
            continue
        if transport == "sse":
            raise ValueError(
                f"{key}: sse is the transport before 2025, which is not supported; use the server's address of"
                " streamable HTTP, often /mcp, with the type http"
            )
        if not isinstance(transport, str) or _TRANSPORTS.get(transport) is None:
            raise ValueError(f"{key}: stdio, http and streamable-http are possible")
        if _TRANSPORTS[transport] != kind:
            raise ValueError(f"{key}: it does not fit {kind}")
    for key in _URL_KEYS if kind == "command" else _COMMAND_KEYS:
        if key in entry:
            raise ValueError(f"{key}: it does not fit {kind}")
    return kind


def _command(entry: dict[str, Any], variables: Variables, environment: Mapping[str, str]) -> dict[str, Any]:
    args = entry.get("args", [])
    if not isinstance(args, list):
        raise ValueError("args: a list of texts is required")
    own = _texts(entry, "env", lambda name, text: variables.replace(text, is_secret=is_secret_name(name)))
    for name, value in own.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError("env: a name or a value is not possible for a variable")
    inherited = {name: environment[name] for name in _CHILD_VARIABLES if environment.get(name)}
    cwd = entry.get("cwd")
    if cwd is not None and not (isinstance(cwd, str) and Path(cwd).is_dir()):
        raise ValueError("cwd: a folder that exists is required")
    with _key("command"):
        command = variables.replace(_text(entry["command"]))
    with _key("args"):
        replaced = tuple(variables.replace(_text(arg, can_be_empty=True)) for arg in args)
    return {"command": command, "args": replaced, "environment": {**inherited, **own}, "cwd": cwd}


def _remote(entry: dict[str, Any], variables: Variables) -> dict[str, Any]:
    with _key("url"):
        url = check_base_url(variables.replace(_text(entry["url"])))
    for secret in secrets_in_url(url):
        variables.add_secret(secret)
    headers = _texts(entry, "headers", lambda name, text: _header(variables, name, text))
    with _key("oauth"):
        oauth = None if entry.get("oauth") is None else _oauth(entry["oauth"], variables)
    if oauth is not None and any(name.lower() == "authorization" for name in headers):
        raise ValueError("it has oauth and a header Authorization; one of them is possible")
    return {"url": url, "headers": headers, "oauth": oauth}


def _header(variables: Variables, name: str, text: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError("the name of a header is not possible")
    value = variables.replace(text, is_secret=name.lower() not in _PLAIN_HEADERS)
    check_header_value(value)
    return value


def _oauth(given: Any, variables: Variables) -> ClientCredentials:
    if not isinstance(given, dict):
        raise ValueError("a JSON object with client_id, client_secret and issuer is required")
    for key, value in given.items():
        if key not in _OAUTH_KEYS:
            raise ValueError(f"there is no key {key[:40]!r}; {', '.join(_OAUTH_KEYS)} are possible")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{key}: a text is required")
    for key in ("client_id", "client_secret", "issuer"):
        if key not in given:
            reason = "; else the MCP server would choose who gets the secret" if key == "issuer" else ""
            raise ValueError(f"{key} is required{reason}")
    method = given.get("token_endpoint_auth_method", "client_secret_basic")
    if method not in get_args(_AuthMethod):
        raise ValueError(f"token_endpoint_auth_method: {' and '.join(get_args(_AuthMethod))} are possible")
    replaced = {}
    for key, value in given.items():
        with _key(key):
            replaced[key] = variables.replace(value, is_secret=key == "client_secret")
    with _key("issuer"):
        check_base_url(replaced["issuer"])
    return ClientCredentials(**{**replaced, "token_endpoint_auth_method": method})


def _approval(entry: dict[str, Any], trusted: bool) -> tuple[tuple[str, bool], ...]:
    given = entry.get("approval", {})
    if not isinstance(given, dict) or not all(isinstance(needed, bool) for needed in given.values()):
        raise ValueError('approval: an object of patterns and true or false is required, such as {"read_*": false}')
    if not trusted and False in given.values():
        raise ValueError(
            'approval: false is possible only for a trusted server: remove it, or set "trusted": true if you trust'
            " this server with what its tools can do"
        )
    # A pattern that has `*` alone matches all that the patterns match which it matches as texts.
    without = [pattern for pattern, needed in given.items() if not needed and not {"?", "["} & set(pattern)]
    for place, pattern in enumerate(given):
        wider = [each for each in list(given)[:place] if each in without and fnmatchcase(pattern, each)]
        if given[pattern] and wider:
            raise ValueError(
                f"approval: {pattern[:60]!r} never counts, because {wider[0][:60]!r} stands before it and matches the"
                " same names: the first that matches counts, so put it first"
            )
    return tuple(given.items())


def _patterns(entry: dict[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    given = entry.get(key)
    if given is None:
        return default
    if not isinstance(given, list) or not all(isinstance(pattern, str) and pattern for pattern in given):
        raise ValueError(f'{key}: a list of names or patterns of tools is required, such as ["read_*"]')
    return tuple(given)


def _timeout(entry: dict[str, Any]) -> float | None:
    given = entry.get("timeout_seconds")
    if given is None:
        return None
    is_number = isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)
    if not is_number or not 0 < given <= _MAX_TIMEOUT_SECONDS:
        raise ValueError(f"timeout_seconds: a number above 0 is required, at most {_MAX_TIMEOUT_SECONDS}")
    return float(given)


def _boolean(entry: dict[str, Any], key: str) -> bool:
    given = entry.get(key, False)
    if not isinstance(given, bool):
        raise ValueError(f"{key}: true or false is required")
    return given


def _texts(entry: dict[str, Any], key: str, value: Callable[[str, str], str]) -> dict[str, str]:
    """Return the texts of an object, each changed by `value`, which gets its name too."""
    given = entry.get(key, {})
    if not isinstance(given, dict):
        raise ValueError(f"{key}: an object of texts is required")
    texts = {}
    for name, text in given.items():
        with _key(f"{key}.{name[:60]}"):
            texts[name] = value(name, _text(text, can_be_empty=True))
    return texts


def _text(given: Any, *, can_be_empty: bool = False) -> str:
    if not isinstance(given, str) or not (can_be_empty or given.strip()):
        raise ValueError("a text is required")
    return given


@contextmanager
def _key(key: str) -> Iterator[None]:
    """Put the key before the message of a `ValueError`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
