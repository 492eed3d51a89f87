"""The settings (§8): a bad one stops the start with one line that names it and holds no secret."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypercorn.config import Config

from app.errors import ConfigurationError
from app.server import config as server
from app.settings import Settings
from tests.harness.service import SECRET


def read(**environment: str) -> Settings:
    return Settings.from_environment({"JWT_SECRET": SECRET, **environment})


def refused(**environment: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment(environment)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_of_the_contract() -> None:
    settings = read()
    assert settings.redis_address == "redis://localhost:6379/0"
    assert settings.hitl_timeout_seconds == 300
    assert settings.aura_event_shape == "both"
    assert settings.aura_on_reject == "stop"
    assert settings.aura_approver_roles == {"admin", "approver"}
    assert settings.aura_heartbeat_seconds == 15
    assert settings.aura_lease_seconds == 10
    assert settings.aura_max_turns == 12
    assert settings.aura_tool_timeout_seconds == 60
    assert settings.aura_model_timeout_seconds == 120
    assert settings.aura_tool_result_bytes == 16 * 1024
    assert settings.openai_api_key is None


def test_an_empty_value_is_an_absent_one() -> None:
    settings = read(OPENAI_API_KEY="", HITL_TIMEOUT_SECONDS=" ", AURA_EVENT_SHAPE="", REDIS_URL="")
    assert settings.openai_api_key is None
    assert settings.hitl_timeout_seconds == 300
    assert refused(JWT_SECRET="").startswith("JWT_SECRET: it is required; set it in the environment, or in .env for")


def test_white_space_around_values_is_cut_also_around_secrets() -> None:
    settings = read(
        OPENAI_API_KEY=" sk-key-0123456789\r\n", OPENAI_MODEL="\tgpt-4o ", OPENAI_BASE_URL=" http://a/v1 \n"
    )
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-key-0123456789"
    assert (settings.openai_model, settings.openai_base_url) == ("gpt-4o", "http://a/v1")
    assert read(JWT_SECRET=f"{SECRET}\n").jwt_secret.get_secret_value() == SECRET
    assert read(AURA_MAX_TURNS=" 3 ").aura_max_turns == 3


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "GITHUB_TOKEN"])
@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("sk-first\nsk-second", "a line break inside (character 9)"),
        ("sk-first\rsk-second", "a line break"),
        ("sk-\u2013key", "character 4 is not ASCII"),
        ("\ufeffsk-key", "character 1 is not ASCII"),
        ("sk-\x00key", "character 4 is a control character"),
        ("sk-\tkey", "a control character"),
        ("sk-\x7fkey", "a control character"),
    ],
)
def test_a_key_that_no_header_can_carry_stops_the_start(name: str, value: str, cause: str) -> None:
    message = refused(**{"JWT_SECRET": SECRET, name: value})
    assert message.startswith(f"{name}: ")
    assert cause in message
    assert "sk-" not in message
    assert "key" not in message.replace("copy the key again", "")


def test_names_are_not_case_sensitive_and_others_are_left_alone() -> None:
    assert read(aura_max_turns="3", PATH="/bin", PYTHONPATH=".").aura_max_turns == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JWT_SECRET", "too short"),
        ("JWT_SECRET", "x" * 31),
        ("AURA_DECISION_KEY", "x" * 31),
        ("AURA_ACCEPT_UNSIGNED", "perhaps"),
        ("REDIS_PORT", "many"),
        ("REDIS_PORT", "65536"),
        ("HITL_TIMEOUT_SECONDS", "0"),
        ("HITL_TIMEOUT_SECONDS", "-1"),
        ("HITL_TIMEOUT_SECONDS", "nan"),
        ("HITL_TIMEOUT_SECONDS", "1800"),
        ("AURA_EVENT_SHAPE", "round"),
        ("AURA_ON_REJECT", "cry"),
        ("AURA_HEARTBEAT_SECONDS", "0"),
        ("AURA_HEARTBEAT_SECONDS", "300"),
        ("AURA_LEASE_SECONDS", "0.1"),
        ("AURA_MAX_TURNS", "0"),
        ("AURA_RUN_TOKENS", "-1"),
        ("AURA_LOG_CONTENT", "perhaps"),
        ("SMTP_TLS", "ssl"),
        ("AURA_RUN_TIMEOUT_SECONDS", "inf"),  # no JSON, so no checkpoint
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://localhost:many/0"),
        ("REDIS_URL", "redis://localhost:6379/main"),  # the driver would take database 0
        ("REDIS_URL", "redis://[::1/0"),
        ("REDIS_HOST", "redis:6380"),
        ("OPENAI_BASE_URL", "localhost:8000/v1"),
        ("OPENAI_BASE_URL", "http://"),
        ("OPENAI_BASE_URL", "http://host:port/v1"),
        ("OPENAI_BASE_URL", "http://[::1/v1"),
        ("OPENAI_BASE_URL", "http://host/v 1"),
        ("OPENAI_BASE_URL", "http://host/v1/chat/completions"),
        ("GITHUB_API_URL", "https://"),
        ("GITHUB_API_URL", "https://user:pa55word@github.test"),
        ("GITHUB_API_URL", "https://token@github.test"),
        ("GITHUB_API_URL", "https://github.test?token=x"),
        ("OPENAI_BASE_URL", "https://user:pa55word@host/v1"),
        ("MAIN_SERVICE_URL", "http://user:pa55word@main:8081"),
        ("MAIN_SERVICE_URL", "http://:pa55word@main:8081"),  # without a user
        ("MAIN_SERVICE_URL", "http://@main:8081"),
        ("MAIN_SERVICE_URL", "http://main:port"),
        ("MAIN_SERVICE_URL", "http://main:8081/#x"),
        ("AURA_BODY_MEGABYTES", "-1"),
        ("AURA_KNOWLEDGE_PATH", "/nowhere/index.db"),
        ("AURA_KNOWLEDGE_PATH", "/"),
        ("AURA_KNOWLEDGE_URL", "mysql://localhost/aura"),
        ("AURA_KNOWLEDGE_URL", "postgresql://"),
    ],
)
def test_an_invalid_value_stops_the_start_with_its_name(name: str, value: str) -> None:
    message = refused(**{"JWT_SECRET": SECRET, name: value})
    assert message.startswith(f"{name}: ")
    assert SECRET not in message
    assert value not in message or name != "JWT_SECRET"
    assert "pa55word" not in message


def test_knowledge_path_and_url_exclude_each_other() -> None:
    both = {"AURA_KNOWLEDGE_PATH": "index.db", "AURA_KNOWLEDGE_URL": "postgresql:///aura"}
    assert refused(JWT_SECRET=SECRET, **both).startswith("AURA_KNOWLEDGE_URL: AURA_KNOWLEDGE_PATH is set too")


def test_all_channels_of_the_platform_are_received_by_default_and_others_can_be_named() -> None:
    names = ("all", "mail", "approval", "main", "chat", "agent-task")
    assert read().aura_event_channels == {f"dwp:events:{name}" for name in names}
    assert read(AURA_EVENT_CHANNELS=" tenant:7, dwp:events:hr ").aura_event_channels == {"tenant:7", "dwp:events:hr"}


@pytest.mark.parametrize("name", ["hitl:channel:s", "aura:knowledge:changed", "mail"])
def test_a_channel_that_holds_no_domain_events_stops_the_start(name: str) -> None:
    message = refused(JWT_SECRET=SECRET, AURA_EVENT_CHANNELS=f"dwp:events:all,{name}")
    assert message.startswith(f"AURA_EVENT_CHANNELS: {name} is ")


def test_who_finds_events_has_two_rules() -> None:
    assert read().aura_knowledge_audience == "named"
    assert read(AURA_KNOWLEDGE_AUDIENCE="tenant").aura_knowledge_audience == "tenant"
    assert "AURA_KNOWLEDGE_AUDIENCE" in refused(JWT_SECRET=SECRET, AURA_KNOWLEDGE_AUDIENCE="all")


def test_an_unknown_aura_name_is_named_with_the_nearest_that_exists() -> None:
    assert "AURA_MAX_TURN:" in (message := refused(JWT_SECRET=SECRET, AURA_MAX_TURN="3"))
    assert "did you mean AURA_MAX_TURNS?" in message
    assert "AURA_ZZZZ: there is no such setting" in refused(JWT_SECRET=SECRET, AURA_ZZZZ="")


def test_the_decision_key_is_a_secret_that_is_optional() -> None:
    assert read().aura_decision_key is None
    key = "a key that the Main Service has too"
    settings = read(AURA_DECISION_KEY=key)
    assert key in settings.secrets
    assert key not in repr(settings)


def test_the_secret_is_counted_in_bytes() -> None:
    secret = "가나다라마바사아자차카"
    assert read(JWT_SECRET=secret).jwt_secret.get_secret_value() == secret


@pytest.mark.parametrize("name", ["JWT_SECRET", "JWT_SECRETS_ACCEPTED", "AURA_AUDIT_KEY", "AURA_DECISION_KEY"])
def test_a_secret_that_can_be_guessed_stops_the_start(name: str) -> None:
    guessable = "abcdefghi" * 5
    message = refused(**{"JWT_SECRET": SECRET, name: guessable})
    assert message.startswith(f"{name}: ")
    assert "fewer than 10 different characters" in message
    assert guessable not in message


def test_accepted_secrets_are_separated_by_commas_and_masked_in_logs() -> None:
    others = ("the first of the other secrets, 32+", "the second of the other secrets 32+")
    settings = read(JWT_SECRET=SECRET, JWT_SECRETS_ACCEPTED="the first of the other secrets; 32+ , " + others[1])
    assert settings.token_secrets == (SECRET, "the first of the other secrets; 32+", others[1])
    assert set(settings.token_secrets) <= set(settings.secrets)
    with_comma = read(JWT_SECRET=others[1], JWT_SECRETS_ACCEPTED=f'["{SECRET}"]')
    assert with_comma.token_secrets == (others[1], SECRET)
    for text in ("[1]", "[", '["a" "b"]'):
        assert refused(JWT_SECRET=SECRET, JWT_SECRETS_ACCEPTED=text).startswith("JWT_SECRETS_ACCEPTED: ")
    assert "secret 2: it has 5 bytes" in refused(JWT_SECRET=SECRET, JWT_SECRETS_ACCEPTED=f"{others[1]},short")


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({"REDIS_HOST": "redis", "REDIS_PORT": "7000"}, "redis://redis:7000/0"),
        ({"REDIS_HOST": "::1"}, "redis://[::1]:6379/0"),
        ({"REDIS_URL": "unix:///run/redis.sock"}, "unix:///run/redis.sock"),
        ({"REDIS_URL": "redis://host"}, "redis://host"),
        ({"REDIS_PASSWORD": "p@ss/w:rd"}, "redis://:p%40ss%2Fw%3Ard@localhost:6379/0"),
        ({"REDIS_URL": "rediss://u:p@host:1/2", "REDIS_HOST": "other"}, "rediss://u:p@host:1/2"),
    ],
)
def test_redis_variables_give_the_address(environment: dict[str, str], address: str) -> None:
    assert read(**environment).redis_address == address


def test_names_in_lists_are_trimmed() -> None:
    settings = read(AURA_APPROVER_ROLES=" boss , chief,,", AURA_APPROVAL_REQUIRED="get_current_time")
    assert settings.aura_approver_roles == {"boss", "chief"}
    assert settings.aura_approval_required == {"get_current_time"}


def test_secrets_do_not_show() -> None:
    held = {
        "OPENAI_API_KEY": "sk-secret-1",
        "REDIS_PASSWORD": "redis-secret-2",
        "SMTP_PASSWORD": "smtp-secret-3",
        "GITHUB_TOKEN": "github-secret-4",
        "OPENAI_BASE_URL": "https://host/v1?api-version=2024-10-21&subscription-key=query%2Dsecret-8",
        "REDIS_URL": "redis://user:url-secret%2F5@host:6379/0",
        "AURA_KNOWLEDGE_URL": "postgresql://user:index-secret%206@host:5432,other/db?password=index-secret-7&sslmode=require",
    }
    settings = read(**held)
    hidden = (SECRET, "sk-secret-1", "redis-secret-2", "smtp-secret-3", "github-secret-4", "url-secret/5")
    assert "query-secret-8" in settings.secrets
    assert "2024-10-21" not in settings.secrets
    for secret in (*hidden, "index-secret 6", "index-secret-7"):
        assert secret in settings.secrets
        assert secret not in repr(settings)
        assert secret not in str(settings.model_dump())


def test_settings_are_frozen() -> None:
    settings: Any = read()
    with pytest.raises(ValueError, match="frozen"):
        settings.aura_max_turns = 3


def test_limits_come_from_the_settings() -> None:
    limits = read(
        AURA_MAX_TURNS="3",
        HITL_TIMEOUT_SECONDS="45",
        AURA_ON_REJECT="replan",
        AURA_MODEL_ATTEMPTS="1",
        AURA_RUN_TOKENS="50000",
    ).limits
    assert (limits.turns, limits.approval_seconds, limits.on_reject, limits.model_attempts) == (3, 45, "replan", 1)
    assert limits.tokens == 50_000
    assert read().limits.tokens == 0


def test_hypercorn_toml_sets_port_9000_on_all_interfaces_and_has_no_unknown_name() -> None:
    values = tomllib.loads((Path(server.__file__).parents[2] / "hypercorn.toml").read_text())
    known = Config()
    assert [key for key in values if not hasattr(known, key)] == []
    assert server.load_config().bind == ["0.0.0.0:9000"]
    assert server.load_config("127.0.0.1:1").bind == ["127.0.0.1:1"]
