"""The settings of the model servers: base URL, options, fallbacks. What cannot work stops the start."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import ConfigurationError
from app.settings import Settings
from app.settings.types import ModelServer
from tests.harness.service import SECRET

MAIN_KEY = "main-key-0123456789"
OTHER_KEY = "other-key-0123456789"


def read(**environment: str) -> Settings:
    return Settings.from_environment({"JWT_SECRET": SECRET, **environment})


def refused(name: str, value: str, **environment: str) -> str:
    """Return the cause of the refusal. It is one line and holds no key."""
    with pytest.raises(ConfigurationError) as caught:
        read(**{name: value, **environment})
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    assert not any(key in message for key in (MAIN_KEY, OTHER_KEY, SECRET))
    return message.removeprefix(f"{name}: ")


def key_of(server: ModelServer) -> str | None:
    return server.api_key.get_secret_value() if server.api_key else None


# --- the base URL -----------------------------------------------------------------------------------------------------


def test_a_base_url_keeps_its_query() -> None:
    url = "https://res.openai.azure.com/openai/v1?api-version=2024-10-21"
    assert read(OPENAI_BASE_URL=url).model_servers[0].base_url == url


def test_without_a_base_url_the_server_is_that_of_openai() -> None:
    (server,) = read(OPENAI_API_KEY=MAIN_KEY).model_servers
    assert (server.model, server.base_url, key_of(server)) == ("gpt-4o-mini", "https://api.openai.com/v1", MAIN_KEY)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("https://host/v1#part", "it has a fragment (#…), which is never sent"),
        ("https://host/v1?a=b#", "it has a fragment"),
        ("https://user:secret-password@host/v1", "it has a user or a password"),
        ("https://host/v1/chat/completions/", "the path before /chat/completions is required"),
        ("https://host/v1/chat/completions?api-version=1", "the path before /chat/completions is required"),
        ("https://host/v1\tx", "white space"),
        ("https://host:99999/v1", "host and port cannot be read"),
        ("ftp://host/v1", "http(s)://host"),
    ],
)
def test_a_base_url_that_cannot_work_names_the_cause(url: str, cause: str) -> None:
    message = refused("OPENAI_BASE_URL", url)
    assert cause in message
    assert "secret-password" not in message


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_are_a_json_object() -> None:
    options = (
        '{"temperature": 0.2, "max_tokens": 500, "n": 1, "tool_choice": "auto", "extra_body": {"a": [null, "가"]}}'
    )
    assert read(AURA_MODEL_OPTIONS=options).aura_model_options == json.loads(options)
    assert read().aura_model_options == {}


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ("temperature=0", "it is not JSON: Expecting value at character 1"),
        ('{"temperature": 0.2', "it is not JSON"),
        ("[]", "a JSON object is required"),
        ("null", "a JSON object is required"),
        ('{"model": "other"}', "model cannot be an option: OPENAI_MODEL sets it"),
        ('{"messages": []}', "messages cannot be an option"),
        ('{"tools": []}', "tools cannot be an option"),
        ('{"functions": []}', "functions cannot be an option"),
        ('{"function_call": "auto"}', "function_call cannot be an option"),
        ('{"stream": true}', "stream cannot be an option"),
        ('{"n": 2}', "n: only 1"),
        ('{"n": "1"}', "n: only 1"),
        ('{"n": true}', "n: only 1"),
        ('{"tool_choice": "required"}', "tool_choice: only auto and none"),
        ('{"tool_choice": {"type": "function"}}', "tool_choice: only auto and none"),
        ('{"max_tokens": 0}', "max_tokens: a whole number above 0"),
        ('{"max_tokens": "many"}', "max_tokens: a whole number above 0"),
        ('{"max_completion_tokens": true}', "max_completion_tokens: a whole number above 0"),
        ('{"temperature": NaN}', "NaN is not a JSON number"),
        ('{"logit_bias": {"1": -Infinity}}', "-Infinity is not a JSON number"),
        ('{"temperature": 1e999}', "a number in it is too large"),
        ('{"seed": 18446744073709551616}', "more than 64 bits"),
        (f'{{"seed": {"9" * 5000}}}', "more than 64 bits"),
        ('{"seed": 1, "seed": 2}', "seed occurs more than once"),
        ('{"a": {"b": 1, "b": 1}}', "b occurs more than once"),
        ('{"user": "\\ud800"}', "half a character"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ],
    ids=lambda value: value[:30],
)
def test_an_option_that_cannot_work_stops_the_start_with_its_name(options: str, cause: str) -> None:
    assert cause in refused("AURA_MODEL_OPTIONS", options)


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ("{}", 0),
        ('{"max_tokens": 500}', 500),
        ('{"max_completion_tokens": 700}', 700),
        ('{"max_tokens": 500, "max_completion_tokens": 700}', 700),
    ],
)
def test_the_options_limit_the_tokens_of_a_turn(options: str, tokens: int) -> None:
    assert read(AURA_MODEL_OPTIONS=options).completion_tokens == tokens


# --- fallbacks --------------------------------------------------------------------------------------------------------


def fallbacks(*entries: Any, **environment: str) -> tuple[ModelServer, ...]:
    base = {"OPENAI_API_KEY": MAIN_KEY, "OPENAI_BASE_URL": "https://main.example/v1", "OTHER_KEY": OTHER_KEY}
    return read(**base, AURA_MODEL_FALLBACKS=json.dumps(entries), **environment).aura_model_fallbacks


def refused_fallback(entries: Any, **environment: str) -> str:
    base = {"OPENAI_API_KEY": MAIN_KEY, "OPENAI_BASE_URL": "https://main.example/v1"}
    text = entries if isinstance(entries, str) else json.dumps(entries)
    return refused("AURA_MODEL_FALLBACKS", text, **{**base, **environment})


def test_a_fallback_without_a_url_is_another_model_of_the_same_server() -> None:
    (server,) = fallbacks({"model": " small "})
    assert (server.model, server.base_url, key_of(server)) == ("small", "https://main.example/v1", MAIN_KEY)


@pytest.mark.parametrize(
    "url", ["https://main.example/v2", "https://MAIN.example:443/v1", "HTTPS://main.example/v1?a=b"]
)
def test_the_main_key_is_used_on_its_own_origin(url: str) -> None:
    (server,) = fallbacks({"model": "small", "base_url": url})
    assert (server.base_url, key_of(server)) == (url, MAIN_KEY)


@pytest.mark.parametrize(
    "url", ["http://main.example/v1", "https://main.example:8443/v1", "https://other.example/v1", "http://127.0.0.1/v1"]
)
def test_the_main_key_is_never_used_on_another_origin(url: str) -> None:
    message = refused_fallback([{"model": "small", "base_url": url}])
    assert message.startswith("entry 1 (small): its server is not that of OPENAI_BASE_URL: name the variable")
    (server,) = fallbacks({"model": "small", "base_url": url, "api_key": "OPENAI_API_KEY"})
    assert key_of(server) == MAIN_KEY  # it is named


def test_the_key_of_a_fallback_is_read_from_the_named_variable() -> None:
    settings = read(
        OPENAI_API_KEY=MAIN_KEY,
        other_key=f" {OTHER_KEY}\n",
        AURA_MODEL_FALLBACKS='[{"model": "a", "base_url": "http://other/v1", "api_key": "other_key"}, {"model": "b"}]',
    )
    assert [server.model for server in settings.model_servers] == ["gpt-4o-mini", "a", "b"]
    assert [key_of(server) for server in settings.model_servers] == [MAIN_KEY, OTHER_KEY, MAIN_KEY]
    assert {MAIN_KEY, OTHER_KEY} <= set(settings.secrets)
    assert OTHER_KEY not in repr(settings)
    assert OTHER_KEY not in str(settings.model_dump())


def test_a_word_in_place_of_a_key_is_no_secret() -> None:
    settings = read(OPENAI_API_KEY="ollama", OPENAI_BASE_URL="http://localhost:11434/v1")
    assert settings.secrets == (SECRET,)


@pytest.mark.parametrize(
    ("entries", "cause"),
    [
        ("gpt-4o", "it is not JSON"),
        ({"model": "a"}, "a JSON list is required"),
        (["gpt-4o"], "entry 1: a JSON object is required"),
        ([{}], "entry 1: model is required"),
        ([{"model": "a"}, {"model": " "}], "entry 2: model: a text is required"),
        ([{"model": 4}], "entry 1: model: a text is required"),
        ([{"model": "a", "temperature": 1}], "entry 1 (a): temperature is unknown"),
        ([{"model": "a", "base_url": "localhost:80"}], "entry 1 (a): base_url: http(s)://host"),
        ([{"model": "a", "base_url": "http://u:p@host"}], "entry 1 (a): base_url: it has a user"),
        ([{"model": "a", "base_url": None}], "entry 1 (a): base_url: a text is required"),
        (
            [{"model": "a", "api_key": "MISSING_KEY"}],
            "entry 1 (a): api_key: the environment variable MISSING_KEY is not",
        ),
        (
            [{"model": "a", "api_key": "EMPTY_KEY"}],
            "entry 1 (a): api_key: the environment variable EMPTY_KEY is not set",
        ),
        ([{"model": "a", "api_key": OTHER_KEY}], "entry 1 (a): api_key: the name of an environment variable"),
        ([{"model": "a", "api_key": "gsk_0123"}], "entry 1 (a): api_key: the name of an environment variable"),
        ([{"model": "a", "api_key": "AURA_KEY"}], "entry 1 (a): api_key: names that begin with AURA_ are settings"),
        (
            [{"model": "a", "api_key": "TORN_KEY"}],
            "entry 1 (a): the key in the variable that api_key names: it has a line",
        ),
        ('[{"model": "a", "model": "b"}]', "model occurs more than once"),
    ],
)
def test_a_fallback_that_cannot_work_stops_the_start_with_its_place(entries: Any, cause: str) -> None:
    message = refused_fallback(entries, EMPTY_KEY=" ", TORN_KEY=f"{OTHER_KEY}\n{OTHER_KEY}")
    assert message.startswith(cause)
    assert "gsk_" not in message


def test_a_fallback_without_any_key_stops_the_start() -> None:
    message = refused_fallback([{"model": "a"}], OPENAI_API_KEY="")
    assert message.startswith("entry 1 (a): OPENAI_API_KEY is not set")


def test_the_error_of_the_main_server_comes_first() -> None:
    assert "fragment" in refused("OPENAI_BASE_URL", "http://host#", AURA_MODEL_FALLBACKS='[{"model": "a"}]')
