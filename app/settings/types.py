"""The types of the settings that are more than a number, a choice or any text.

Each function checks a value of the environment and returns it as the service uses it. Raises `ValueError` with the
cause and the remedy. No error repeats a value: it may hold a key or a password.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from app.ports.redis_address import RedisAddress

OPENAI_URL = "https://api.openai.com/v1"
"""The server that is used where no base URL is set."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MIN_KEY_CHARACTERS = 8
_SHOWABLE_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
"""A name of an environment variable that no key looks like, so that an error may show it."""

_PASSWORDS = re.compile(r"(?:^\w+://[^/@:]*:(?=[^/@]*@)|[?&](?:sentinel_)?password=)([^/@&]+)")
"""Of a URL: after its user, or (PostgreSQL) among its parameters."""

_SECRET_PARAMETER = re.compile(r"key|token|secret|password|signature|^sig$", re.IGNORECASE)

# --- names, files, keys -----------------------------------------------------------------------------------------------


def _split_names(names: Any) -> Any:
    return frozenset(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else names


def _in_a_folder(path: str) -> str:
    if Path(path).is_dir() or not Path(path).parent.is_dir():
        raise ValueError("it must name a file in a folder that exists")
    return path


def _fits_a_header(key: SecretStr) -> SecretStr:
    check_header_value(key.get_secret_value())
    return key


def check_header_value(value: str) -> None:
    """Check a key that is sent in an HTTP header. Raises `ValueError` with the kind of the first wrong character."""
    for place, character in enumerate(value, start=1):
        if character in "\r\n":
            raise ValueError(f"it has a line break inside (character {place}), which no HTTP header can carry")
        if not character.isascii():
            raise ValueError(f"its character {place} is not ASCII, which no HTTP header can carry; copy the key again")
        if not character.isprintable():
            raise ValueError(f"its character {place} is a control character, which no HTTP header can carry")


Names = frozenset[str]
NameList = Annotated[Names, BeforeValidator(_split_names)]
"""Names, separated by commas."""


def _split_in_order(names: Any) -> Any:
    return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else names


OrderedNames = Annotated[tuple[str, ...], BeforeValidator(_split_in_order)]
"""Names, separated by commas, whose order counts."""

EVENT_CHANNELS = frozenset(f"dwp:events:{name}" for name in ("all", "mail", "approval", "main", "chat", "agent-task"))
"""The channels of the platform's domain events (CONTRACT §7)."""


def _channels(names: Any) -> Any:
    names = _split_names(names)
    for name in names if isinstance(names, frozenset) else ():
        if name.startswith(("aura:", "hitl:")):
            raise ValueError(f"{name} is a channel of runs and decisions, not of domain events")
        if ":" not in name:
            raise ValueError(f"{name} is not the whole name of a channel, such as dwp:events:mail")
    return names


ChannelList = Annotated[Names, BeforeValidator(_channels)]
FilePath = Annotated[str, AfterValidator(_in_a_folder)]
HeaderKey = Annotated[SecretStr, AfterValidator(_fits_a_header)]

# --- repositories -----------------------------------------------------------------------------------------------------

_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9_-]*/([a-z0-9._-]+|\*)|\*/\*")


def _repository_lists(text: Any) -> Any:
    """Return the repositories of each tenant, in lower case. Raises `ValueError` with the number of the wrong entry."""
    if not isinstance(text, str):
        return text
    lists: dict[str, frozenset[str]] = {}
    for number, entry in enumerate(filter(str.strip, text.split(";")), start=1):
        tenant, equals, names = (part.strip() for part in entry.partition("="))
        repositories = _split_names(names.lower())
        if not tenant or not equals or not repositories:
            raise ValueError(f"entry {number}: tenant=owner/repository,… is required, such as tenant1=dwp/portal,dwp/*")
        if tenant in lists:
            raise ValueError(f"entry {number}: the tenant {tenant} has an entry already; join both with a comma")
        for name in sorted(repositories):
            if not _REPOSITORY.fullmatch(name):
                raise ValueError(f"entry {number}: {name} is not owner/repository, owner/* or */* (all)")
        lists[tenant] = repositories
    return lists


RepositoryLists = Annotated[dict[str, frozenset[str]], BeforeValidator(_repository_lists)]
"""`tenant1=dwp/*,dwp/portal;*=public-org/docs`; the tenant `*` stands for every tenant."""

# --- addresses --------------------------------------------------------------------------------------------------------


def _redis_url(url: SecretStr) -> SecretStr:
    RedisAddress.parse(url.get_secret_value())
    return url


def _search_server_url(url: SecretStr) -> SecretStr:
    if not re.match(r"postgres(ql)?://[^\s]+$", url.get_secret_value()):
        raise ValueError("postgresql://user:password@host[:port]/database is required")
    return url


def _host(host: str) -> str:
    if ":" not in host:
        return host
    try:
        return f"[{IPv6Address(host.strip('[]'))}]"
    except ValueError:
        raise ValueError("a name or an address is required; the port goes into REDIS_PORT") from None


def _plain_url(url: str) -> str:
    """Return a base URL without the slash at its end."""
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("it has white space or a control character inside")
    parts = _split_url(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "?" in url or "#" in url:
        raise ValueError("http(s)://host[:port][/path] is required, without a query or a fragment")
    _refuse_user(parts)
    return url.rstrip("/")


def _refuse_user(parts: SplitResult) -> None:
    """Raise `ValueError` where a URL has a user or a password: logs and errors of libraries quote it."""
    if "@" in parts.netloc:
        raise ValueError("it has a user or a password, which are not sent; the key has a setting of its own")


def check_base_url(url: str) -> str:
    """Return the base URL of a model server: it may have a query, but nothing that a request would not send."""
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("it has white space or a control character inside")
    parts = _split_url(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("http(s)://host[:port][/path][?query] is required")
    _refuse_user(parts)
    if "#" in url:
        raise ValueError("it has a fragment (#…), which is never sent; remove it")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError("the path before /chat/completions is required, such as /v1; requests add the rest")
    return url


def _split_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # the error text may hold a password
        raise ValueError("host and port cannot be read") from None
    return parts


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]


def secrets_in_url(url: str) -> list[str]:
    """Return the passwords and keys that a URL holds: after its user, or among its parameters."""
    parameters = parse_qsl(urlsplit(url).query)
    keys = [value for name, value in parameters if _SECRET_PARAMETER.search(name)]
    return [*map(unquote, _PASSWORDS.findall(url)), *keys]


RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
SearchServerUrl = Annotated[SecretStr, AfterValidator(_search_server_url)]
Host = Annotated[str, AfterValidator(_host)]
PlainUrl = Annotated[str, AfterValidator(_plain_url)]
BaseUrl = Annotated[str, AfterValidator(check_base_url)]

# --- the options of a request to the model ----------------------------------------------------------------------------

_SET_BY_THE_SERVICE = {
    "model": "OPENAI_MODEL sets it",
    "messages": "each run has its own",
    "tools": "the service offers its own tools",
    "functions": "the service offers its own tools",
    "function_call": "the service offers its own tools",
    "stream": "the service always streams",
}
_TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")


def parse_options(text: Any) -> Any:
    """Return the options of a JSON text. Raises `ValueError` with the name of an option that cannot work."""
    if not isinstance(text, str):
        return text
    options = parse_json(text)
    if not isinstance(options, dict):
        raise ValueError('a JSON object is required, such as {"temperature": 0.2}')
    for name, reason in _SET_BY_THE_SERVICE.items():
        if name in options:
            raise ValueError(f"{name} cannot be an option: {reason}")
    for name in _TOKEN_LIMITS:
        if name in options and not (type(options[name]) is int and options[name] > 0):
            raise ValueError(f"{name}: a whole number above 0 is required")
    if type(options.get("n", 1)) is not int or options.get("n", 1) != 1:
        raise ValueError("n: only 1 is possible, a turn has one answer")
    if options.get("tool_choice", "auto") not in ("auto", "none"):
        raise ValueError("tool_choice: only auto and none are possible, else the model could never answer")
    return options


def token_limit(options: Mapping[str, Any]) -> int:
    """Return the number of tokens that the options allow for one turn; 0 if they name none."""
    return max((options[name] for name in _TOKEN_LIMITS if name in options), default=0)


def parse_json(text: str) -> Any:
    """Parse JSON that can be sent as it is. Raises `ValueError` for repeated names and for what no JSON can hold."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_repetitions,
            parse_constant=_refuse_constant,
            parse_int=_sendable_int,
            parse_float=_finite_float,
        )
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, character {error.colno}" if "\n" in text else f"character {error.pos + 1}"
        raise ValueError(f"it is not JSON: {error.msg} at {line}") from None
    except UnicodeEncodeError:
        raise ValueError("a text in it is half a character (a surrogate)") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} occurs more than once; one value is required")
    return dict(pairs)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _sendable_int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError("a whole number in it has more than 64 bits")
    return int(digits)


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number in it is too large")
    return number


ModelOptions = Annotated[dict[str, Any], BeforeValidator(parse_options)]

# --- model servers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelServer:
    """One model on one OpenAI-compatible server. Without an `api_key` it gets no requests."""

    model: str
    base_url: str
    api_key: SecretStr | None

    @property
    def has_placeholder_key(self) -> bool:
        """Whether the key is a word such as `none` or `EMPTY`, for a server without keys. Answers may contain it."""
        return self.api_key is not None and len(self.api_key.get_secret_value()) < _MIN_KEY_CHARACTERS


def parse_fallbacks(text: str, environment: Mapping[str, str], main: ModelServer) -> tuple[ModelServer, ...]:
    """Return the servers of a JSON list. Keys are read from `environment`, whose names are in upper case.

    An entry without `base_url` is another model of the `main` server. The key of `main` is used on its own origin only,
    so that no other server gets it by mistake. Raises `ValueError` with the number and the model of the wrong entry.
    """
    entries = parse_json(text)
    if not isinstance(entries, list):
        raise ValueError('a JSON list is required, such as [{"model": "gpt-4o-mini"}]')
    servers = []
    for number, entry in enumerate(entries, start=1):
        model = entry.get("model") if isinstance(entry, dict) else None
        place = f"entry {number} ({model.strip()})" if isinstance(model, str) and model.strip() else f"entry {number}"
        try:
            servers.append(_fallback(entry, environment, main))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    return tuple(servers)


def _fallback(entry: Any, environment: Mapping[str, str], main: ModelServer) -> ModelServer:
    if not isinstance(entry, dict):
        raise ValueError('a JSON object is required, such as {"model": "gpt-4o-mini"}')
    for name, value in entry.items():
        if name not in ("model", "base_url", "api_key"):
            raise ValueError(f"{name} is unknown; model, base_url and api_key are possible")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name}: a text is required")
    if "model" not in entry:
        raise ValueError("model is required")
    try:
        base_url = check_base_url(entry["base_url"].strip()) if "base_url" in entry else main.base_url
    except ValueError as error:
        raise ValueError(f"base_url: {error}") from None
    if "api_key" in entry:
        return ModelServer(entry["model"].strip(), base_url, _named_key(entry["api_key"].strip(), environment))
    if _origin(base_url) != _origin(main.base_url):
        raise ValueError("its server is not that of OPENAI_BASE_URL: name the variable of its key in api_key")
    if main.api_key is None:
        raise ValueError("OPENAI_API_KEY is not set: set it, or name the variable of its key in api_key")
    return ModelServer(entry["model"].strip(), base_url, main.api_key)


def _named_key(name: str, environment: Mapping[str, str]) -> SecretStr:
    """Return the key in the variable `name`. An error shows the name only if it cannot be a key itself."""
    if name.upper().startswith("AURA_"):
        raise ValueError("api_key: names that begin with AURA_ are settings; give the variable another name")
    value = environment.get(name.upper(), "").strip()
    if not value and _SHOWABLE_NAME.fullmatch(name):
        raise ValueError(f"api_key: the environment variable {name} is not set")
    if not value:
        raise ValueError("api_key: the name of an environment variable that is set is required, not the key itself")
    try:
        check_header_value(value)
    except ValueError as error:
        raise ValueError(f"the key in the variable that api_key names: {error}") from None
    return SecretStr(value)
