"""The settings (§8): one frozen typed model, read once from the environment (and `aura serve`: `.env`), units in the
names.

An unknown `AURA_*` name or a bad value stops the start with one line that names it. White space at both ends of a value
is cut; an empty value is an absent one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from urllib.parse import quote

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from app.errors import ConfigurationError
from app.ports.mcp_servers import McpServer
from app.settings.identity import ArchiveSettings, IdentitySettings
from app.settings.prompt_file import PromptFile
from app.settings.quotas import QuotaSettings
from app.settings.text_files import did_you_mean
from app.settings.tools import McpSettings, PluginSettings
from app.settings.types import (
    EVENT_CHANNELS,
    OPENAI_URL,
    BaseUrl,
    ChannelList,
    FilePath,
    HeaderKey,
    Host,
    ModelOptions,
    ModelServer,
    NameList,
    Names,
    PlainUrl,
    RedisUrl,
    RepositoryLists,
    SearchServerUrl,
    parse_fallbacks,
    secrets_in_url,
    token_limit,
)
from statemachine.checkpoint import Limits
from statemachine.event_names import EventNames
from statemachine.frames import Shape

_NOT_SETTINGS = frozenset({"AURA_TOKEN", "AURA_PLATFORM_URI"})
"""Names that others read: the commands that call a service (`app.cli.options`), and the gateway (§8)."""
_MISSING = "it is required; set it in the environment, or in .env for commands with --env-file"


class Settings(PluginSettings, McpSettings, QuotaSettings, ArchiveSettings, IdentitySettings):
    """Every setting under the name of its environment variable, in lower case."""

    # Redis
    redis_url: RedisUrl | None = Field(
        default=None, description="`redis://`, `rediss://` or `redis+sentinel://`; instead of the three below"
    )
    redis_host: Host = Field(default="localhost", description="Redis host")
    redis_port: int = Field(default=6379, ge=1, le=65535, description="Redis port")
    redis_password: SecretStr | None = Field(default=None, description="Redis password")
    aura_redis_timeout_seconds: float = Field(default=3, gt=0, description="seconds to wait for a reply of Redis")
    aura_redis_replicas: int = Field(
        default=0, ge=0, le=10, description="replicas that must have a decision and the start of a risky call first"
    )
    aura_retention_seconds: int = Field(
        default=3600, ge=60, description="seconds that a run is kept after its last write (§5: 60 min)"
    )

    # the model
    openai_api_key: HeaderKey | None = Field(default=None, description="without it every run ends `LLMNotConfigured`")
    openai_base_url: BaseUrl | None = Field(
        default=None, description="base URL of an OpenAI-compatible server; it may have a query (`?api-version=…`)"
    )
    openai_model: str = Field(default="gpt-4o-mini", description="model name")
    aura_model_timeout_seconds: float = Field(
        default=120, gt=0, description="seconds without data before a model turn times out"
    )
    aura_model_attempts: int = Field(default=3, ge=1, le=10, description="attempts of one model turn")
    aura_model_logprobs: bool = Field(
        default=False, description="request log-probabilities: they become the confidence"
    )
    aura_model_done_is_whole: bool = Field(
        default=False, description="`[DONE]` without a `finish_reason` ends an answer; else the answer counts as cut"
    )
    aura_model_options: ModelOptions = Field(
        default={}, description='JSON object that is merged into every request, such as `{"temperature": 0.2}`'
    )
    aura_model_fallbacks: tuple[ModelServer, ...] = Field(
        default=(), description="JSON list of the [model servers](#model-servers) that are asked when this one is down"
    )

    aura_system_prompt_file: Annotated[PromptFile | None, BeforeValidator(PromptFile.of_setting)] = Field(
        default=None, description="UTF-8 file, at most 64 KiB, whose text replaces the built-in system prompt"
    )

    aura_agents: str | None = Field(
        default=None, description="TOML file of [named agents](../agents/README.md); SIGHUP reads it again"
    )

    # approvals
    hitl_timeout_seconds: float = Field(default=300, gt=0, le=1700, description="seconds for a person's decision")
    aura_on_reject: Literal["stop", "replan"] = Field(
        default="stop", description="a rejection ends the run (`stop`), or the model gets the reason (`replan`)"
    )
    aura_approval_required: NameList = Field(
        default=frozenset(), description="comma-separated names of further tools that need approval"
    )

    # limits
    aura_max_turns: int = Field(default=12, ge=1, le=100, description="model turns per run")
    aura_max_calls_per_turn: int = Field(default=32, ge=1, le=127, description="tool calls of a turn that are run")
    aura_max_open_approvals: int = Field(default=5, ge=1, le=100, description="approvals of a run that may be open")
    aura_run_tokens: int = Field(
        default=0, ge=0, description="tokens that a run may use, those of its prompts included; 0: no limit"
    )
    aura_tool_timeout_seconds: float = Field(default=60, gt=0, description="seconds for one tool call")
    aura_tool_result_bytes: int = Field(
        default=16 * 1024, ge=256, description="bytes of a tool result that the model gets"
    )
    aura_run_timeout_seconds: float = Field(
        default=3600, gt=0, description="seconds for a run, without those in which it waits for a person"
    )
    aura_thread_tokens: int = Field(
        default=8000, ge=0, description="tokens of a thread's earlier turns that the model gets"
    )
    aura_max_runs: int = Field(default=20_000, ge=1, description="active and waiting runs of one process; more get 503")
    aura_max_wait_seconds: float = Field(
        default=2.5, ge=0, description="processor seconds that a new run may have to wait; more get 503; 0: no limit"
    )

    aura_body_megabytes: float = Field(
        default=64, ge=0, description="memory of all request bodies in progress; the largest gets 503; 0: no limit"
    )

    # the stream
    aura_event_shape: Shape = Field(default="both", description="fields flat, nested under `data`, or both (§2.1)")
    aura_event_names: EventNames = Field(
        default="aura", description="names of the events: Aura's, or those of the platform's workspace page (§2.2)"
    )
    aura_heartbeat_seconds: float = Field(default=15, gt=0, le=240, description="seconds of silence before a heartbeat")

    # the operator page
    aura_console: bool = Field(default=False, description="serve the operator page at `/aura/console`")

    # nodes
    aura_lease_seconds: float = Field(
        default=10, ge=1, description="seconds; a node that does not renew its lease for longer loses its runs"
    )
    aura_drain_seconds: float = Field(
        default=5, ge=0, description="seconds for runs to reach a committed step after SIGTERM"
    )
    aura_takeover_limit: int = Field(default=64, ge=1, description="runs that a node takes over at the same time")

    # tools
    smtp_host: str | None = Field(default=None, description="mail server; without it `send_email` is not offered")
    smtp_port: int = Field(default=587, ge=1, le=65535, description="its port")
    smtp_username: str | None = Field(default=None, description="its user")
    smtp_password: SecretStr | None = Field(default=None, description="its password")
    smtp_from: str | None = Field(default=None, description="sender address; without it `send_email` is not offered")
    smtp_tls: Literal["starttls", "tls", "none"] = Field(default="starttls", description="encryption")
    github_token: HeaderKey | None = Field(default=None, description="without it the GitHub tools are not offered")
    github_api_url: PlainUrl = Field(
        default="https://api.github.com", description="REST base URL (GitHub Enterprise too)"
    )

    aura_github_repositories: RepositoryLists | None = Field(
        default=None, description="[repositories of each tenant](#github-repositories); without it all of the token's"
    )

    # knowledge
    aura_knowledge: bool = Field(default=True, description="receive domain events (§7) and offer `search_workspace`")
    aura_knowledge_audience: Literal["named", "tenant"] = Field(
        default="named", description="find own events and those for all (`named`), or all of the tenant's (`tenant`)"
    )
    aura_event_channels: ChannelList = Field(default=EVENT_CHANNELS, description="Pub/Sub channels of domain events")
    aura_knowledge_path: FilePath | None = Field(
        default=None, description="file of the search index; without it each process has a temporary one"
    )
    aura_knowledge_url: SearchServerUrl | None = Field(
        default=None,
        description="`postgresql://user:password@host/database`: the index on a search server that all processes share",
    )
    aura_knowledge_retention_days: float = Field(default=90, gt=0, description="days that an event can be found")
    aura_knowledge_max_events: int = Field(
        default=20_000, ge=1, description="events kept of one tenant; the oldest are removed"
    )
    aura_knowledge_max_megabytes: float = Field(
        default=128, gt=0, description="approximate memory in Redis of one tenant's events, vectors included"
    )
    openai_embedding_model: str | None = Field(
        default=None, description="also search by meaning, with vectors of this model at the same server"
    )
    aura_knowledge_dimensions: int | None = Field(
        default=None, ge=8, le=4096, description="request shorter vectors of that model, if it can: searches are faster"
    )

    # the platform
    main_service_url: PlainUrl | None = Field(
        default=None, description="base URL of the Main Service; with it each run is a task there (§6)"
    )
    aura_main_service_timeout_seconds: float = Field(
        default=5, gt=0, description="seconds to wait for one of its answers"
    )

    # logs
    aura_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="minimum level")
    aura_log_format: Literal["json", "console"] = Field(
        default="json", description="`json` for machines, `console` for people"
    )
    aura_log_content: bool = Field(default=False, description="also log prompts and arguments, which are private")

    @field_validator("aura_model_fallbacks", mode="before")
    @classmethod
    def _fallbacks(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        if not {"openai_api_key", "openai_base_url", "openai_model"} <= info.data.keys():
            return ()  # one of these is invalid, and its error stops the start
        main = _main_server(info.data["openai_model"], info.data["openai_base_url"], info.data["openai_api_key"])
        return parse_fallbacks(value, (info.context or {}).get("environment", {}), main)

    @field_validator("aura_knowledge_url")
    @classmethod
    def _in_one_place(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if url is not None and info.data.get("aura_knowledge_path") is not None:
            raise ValueError("AURA_KNOWLEDGE_PATH is set too, and the index is in one place: unset one of them")
        return url

    @property
    def redis_address(self) -> str:
        """The URL that `REDIS_URL`, or host, port and password, result in."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        password = f":{quote(self.redis_password.get_secret_value(), safe='')}@" if self.redis_password else ""
        return f"redis://{password}{self.redis_host}:{self.redis_port}/0"

    @property
    def model_servers(self) -> tuple[ModelServer, ...]:
        """Return the model servers in the order in which they are asked: the main one, then the fallbacks."""
        main = _main_server(self.openai_model, self.openai_base_url, self.openai_api_key)
        return (main, *self.aura_model_fallbacks)

    @property
    def completion_tokens(self) -> int:
        """Return the number of tokens that the model may write in one turn; 0 if the options do not limit it."""
        return token_limit(self.aura_model_options)

    @property
    def limits(self) -> Limits:
        return Limits(
            turns=self.aura_max_turns,
            model_attempts=self.aura_model_attempts,
            run_seconds=self.aura_run_timeout_seconds,
            approval_seconds=self.hitl_timeout_seconds,
            on_reject=self.aura_on_reject,
            completion_tokens=self.completion_tokens,
            tokens=self.aura_run_tokens,
            calls_per_turn=self.aura_max_calls_per_turn,
            open_approvals=self.aura_max_open_approvals,
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return the values that no event, result or log line may contain."""
        held = (
            self.jwt_secret,
            *self.jwt_secrets_accepted,
            self.aura_decision_key,
            self.aura_audit_key,
            self.redis_password,
            self.smtp_password,
            self.github_token,
        )
        keys = [server.api_key for server in self.model_servers if not server.has_placeholder_key]
        given = (self.redis_url, self.aura_knowledge_url, self.aura_audit_url, self.aura_archive_url)
        urls = [url.get_secret_value() for url in given if url is not None]
        urls += [server.base_url for server in self.model_servers]
        in_urls = [secret for url in urls for secret in secrets_in_url(url)]
        shown = (secret.get_secret_value() for secret in (*held, *keys) if secret is not None)
        return tuple(dict.fromkeys((*shown, *in_urls, *self.mcp_secrets)))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read the settings from the environment. Raises `ConfigurationError` with one line that names the setting."""
        given = environment_of_process() if environment is None else environment
        values = {name.upper(): value.strip() for name, value in given.items()}
        known = {name.upper() for name in cls.model_fields}
        for name in values:
            if name.startswith("AURA_") and name not in known | _NOT_SETTINGS:
                raise ConfigurationError(f"{name}: {_unknown(name)}")
        settings = {name.lower(): value for name, value in values.items() if name in known and value}
        try:
            return cls.model_validate({**settings, **overrides}, context={"environment": values})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]).upper() if first["loc"] else "settings"
            causes = {"missing": _MISSING, "extra_forbidden": _unknown(name)}
            cause = causes.get(first["type"], first["msg"].removeprefix("Value error, "))
            raise ConfigurationError(f"{name}: {cause}") from None


def _unknown(name: str) -> str:
    """Return the cause and the remedy of a setting that does not exist."""
    return f"there is no such setting{did_you_mean(name, (known.upper() for known in Settings.model_fields))}"


def environment_of_process() -> Mapping[str, str]:
    """Return the variables of this process; no other module reads them."""
    return os.environ


def _main_server(model: str, base_url: str | None, api_key: SecretStr | None) -> ModelServer:
    return ModelServer(model, base_url or OPENAI_URL, api_key)


_CONTAINERS = (frozenset, dict, tuple)
_WORDS: dict[Any, str] = {
    int: "integer",
    float: "number",
    Names: "names, separated by commas",
    tuple[str, ...]: "names, separated by commas",
    tuple[SecretStr, ...]: "texts, separated by commas, or JSON list",
    dict[str, Any]: "JSON object",
    tuple[ModelServer, ...]: "JSON list",
    tuple[McpServer, ...]: "JSON object, or the path of its file",
}
"""The types of settings in the words of the documentation; all others are texts."""


def table() -> str:
    """Return the settings as a Markdown table, as the documentation shows them."""
    rows = ["| variable | default | values | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        if field.is_required():
            shown = "*required*"
        elif default is None or default in (frozenset(), {}, ()):
            shown = "–"
        elif isinstance(default, frozenset):
            shown = f"`{','.join(sorted(default))}`"
        else:
            shown = f"`{str(default).lower() if isinstance(default, bool) else default}`"
        rows.append(f"| `{name.upper()}` | {shown} | {_values(field)} | {field.description} |")
    return "\n".join(rows)


def _values(field: FieldInfo) -> str:
    """Return the values that a setting accepts: its choices, or its type with its bounds."""
    types = [each for each in get_args(field.annotation) if each is not type(None)]
    if get_origin(field.annotation) is Literal:
        return " ".join(f"`{choice}`" for choice in types)
    kind = field.annotation if get_origin(field.annotation) in _CONTAINERS or not types else types[0]
    if kind is bool:
        return "`true` `false`"
    words = _WORDS.get(kind, "text")
    signs = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
    bounds = [f"{sign} {getattr(it, name)}" for it in field.metadata for name, sign in signs if hasattr(it, name)]
    return ", ".join([words, *bounds])
