"""The validation of calls that the model requests, and of arguments that an approver changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from app.errors import ConfigurationError, FieldInvalid
from app.ports.tools import Tool, ToolContext
from app.tools.clock import GetCurrentTime
from app.tools.github import CreatePullRequest, GetPullRequest
from app.tools.mail import SendEmail
from app.tools.registry import ToolRegistry
from statemachine.call import Confidence
from statemachine.masking import mask_values


class Account(BaseModel):
    user: str
    password: SecretStr


class LoginArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str = Field(min_length=1)
    accounts: list[Account] = []
    token: SecretStr | None = None
    count: int = 1
    ratio: float = 0.5
    free: dict[str, Any] = {}

    @field_validator("title")
    @classmethod
    def not_odd(cls, value: str) -> str:
        if value == "odd":
            raise KeyError(value)
        return value


class Login:
    """Log in
    somewhere.

    The model does not read this paragraph.
    """

    name: str = "login"
    title: str = "로그인"
    arguments: type[BaseModel] = LoginArguments
    needs_approval: bool = True
    idempotent: bool = True
    timeout_seconds: float | None = None

    def question(self, arguments: LoginArguments) -> str:
        if arguments.title == "no question":
            raise RuntimeError
        return f"{arguments.title}?"

    async def run(self, arguments: LoginArguments, context: ToolContext) -> Any:
        return None


@pytest.fixture
def registry(clock: Any) -> ToolRegistry:
    return ToolRegistry([GetCurrentTime(clock), Login()], frozenset(), secrets=["hunter2-hunter2"])


# --- construction -----------------------------------------------------------------------------------------------------


def test_two_tools_with_one_name_are_refused(clock: Any) -> None:
    with pytest.raises(ConfigurationError, match="get_current_time"):
        ToolRegistry([GetCurrentTime(clock), GetCurrentTime(clock)])


def test_the_name_of_the_built_in_tool_is_refused(clock: Any) -> None:
    tool = GetCurrentTime(clock)
    tool.name = "update_plan"
    with pytest.raises(ConfigurationError, match="update_plan"):
        ToolRegistry([tool])


def test_unknown_name_in_approval_required_prevents_the_start(clock: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"AURA_APPROVAL_REQUIRED.*'get_curent_time'"):
        ToolRegistry([GetCurrentTime(clock)], frozenset({"get_curent_time"}))
    ToolRegistry([GetCurrentTime(clock)], frozenset({"send_email"}), known_names={"send_email"})


def test_result_limit_has_a_minimum() -> None:
    with pytest.raises(ConfigurationError):
        ToolRegistry([], result_limit_bytes=10)


def test_settings_add_approval_and_never_remove_it(clock: Any) -> None:
    registry = ToolRegistry([GetCurrentTime(clock), Login()], frozenset({"get_current_time"}))
    assert registry.needs_approval("get_current_time")
    assert registry.needs_approval("login")
    assert not ToolRegistry([GetCurrentTime(clock)]).needs_approval("get_current_time")


def test_schemas_have_no_titles_and_one_paragraph_of_description(registry: ToolRegistry) -> None:
    schemas = {schema["function"]["name"]: schema for schema in registry.schemas()}
    assert list(schemas) == ["get_current_time", "login", "update_plan"]
    assert schemas["login"]["type"] == "function"
    assert schemas["login"]["function"]["description"] == "Log in somewhere."
    parameters = schemas["login"]["function"]["parameters"]
    assert parameters["required"] == ["title"]
    assert set(parameters["properties"]) == {"title", "accounts", "token", "count", "ratio", "free"}
    assert parameters["properties"]["title"] == {"minLength": 1, "type": "string"}
    assert "title" not in parameters
    assert "required" not in schemas["get_current_time"]["function"]["parameters"]
    assert registry.schemas() is registry.schemas()
    json.dumps(registry.schemas(), allow_nan=False)


def test_schemas_of_the_real_tools_are_json(clock: Any) -> None:
    mail = SendEmail(clock, host="mail.test", port=25, sender="a@b.test")
    tools: list[Tool] = [mail, GetPullRequest(), CreatePullRequest(SecretStr("token"))]
    for schema in ToolRegistry(tools).schemas():
        assert schema["function"]["description"]
        assert schema["function"]["parameters"]["type"] == "object"


# --- resolve ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", ["", "  \n", "{}"])
def test_no_arguments_are_the_defaults(registry: ToolRegistry, raw: str) -> None:
    call = registry.resolve("c1", "get_current_time", raw)
    assert (call.refusal, call.arguments) == (None, {"timezone": "Asia/Seoul"})
    assert call.shown_arguments == call.arguments
    assert (call.title, call.needs_approval, call.idempotent, call.question) == ("현재 시각 확인", False, True, "")


def test_all_arguments_that_run_are_stored_and_shown_with_secrets_masked(registry: ToolRegistry) -> None:
    raw = '{"title":"x","token":"s3cret","accounts":[{"user":"u","password":"pw"}],"count":"2"}'
    call = registry.resolve("c1", "login", raw)
    assert call.refusal is None
    assert call.arguments == {
        "title": "x",
        "token": "s3cret",
        "accounts": [{"user": "u", "password": "pw"}],
        "count": 2,
        "ratio": 0.5,
        "free": {},
    }
    assert call.shown_arguments == {
        "title": "x",
        "token": "***",
        "accounts": [{"user": "u", "password": "***"}],
        "count": 2,
        "ratio": 0.5,
        "free": {},
    }
    assert (call.question, call.needs_approval, call.raw_arguments) == ("x?", True, raw)


@pytest.mark.parametrize(
    "arguments",
    [
        {"title": "the key is hunter2-hunter2."},
        {"title": "x", "token": "hunter2-hunter2"},
        {"title": "x", "free": {"a": [{"hunter2-hunter2": 1}]}},
    ],
)
def test_call_that_holds_a_secret_of_the_service_is_refused(registry: ToolRegistry, arguments: Any) -> None:
    """A mask on the card would hide what is sent."""
    call = registry.resolve("c1", "login", json.dumps(arguments))
    assert "the arguments hold a secret of this service" in (call.refusal or "")
    assert "hunter2" not in (call.refusal or "")
    assert (call.arguments, call.shown_arguments) == ({}, {})
    with pytest.raises(FieldInvalid, match="a secret of this service"):
        registry.validate_edit("login", arguments, ORIGINAL)


def test_word_that_is_a_short_secret_too_is_shown_as_it_runs(clock: Any) -> None:
    registry = ToolRegistry([Login()], secrets=["report"])
    call = registry.resolve("c1", "login", '{"title":"the report"}')
    assert call.arguments["title"] == call.shown_arguments["title"] == "the report"


def test_unknown_tool_is_refused_with_the_available_names(registry: ToolRegistry) -> None:
    call = registry.resolve("c1", "rm_rf", "{}")
    assert call.refusal == "The tool 'rm_rf' does not exist. Available tools: get_current_time, login, update_plan."
    assert registry.resolve("c1", "rm_rf", "{").refusal == call.refusal
    assert "names no tool" in (registry.resolve("c1", "", "{}").refusal or "")


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        ('{"title":', "not valid JSON: Expecting value at line 1 column 10"),
        ("[1]", "one JSON object, not an array"),
        ("null", "one JSON object, not null"),
        ('"x"', "one JSON object, not a string"),
        ("true", "one JSON object, not a boolean"),
        ("7", "one JSON object, not a number"),
        ('{"title":"x","ratio":NaN}', "NaN is not a JSON number"),
        ('{"title":"x","ratio":-Infinity}', "-Infinity is not a JSON number"),
        ('{"title":"x","ratio":1e999}', "1e999 is too large a number"),
        ('{"title":"x","ratio":"NaN"}', "a number that is not finite"),
        ('{"title":"x","count":' + "9" * 5000 + "}", "a number has too many digits"),
        ('{"title":"x","title":"y"}', "the key 'title' occurs more than once"),
        ('{"title":"x","free":{"a":1,"a":2}}', "the key 'a' occurs more than once"),
        ("[" * 20_000, "nested more than 32 levels deep"),
        ('{"title":"x","free":' + '{"a":' * 40 + "1" + "}" * 41, "nested more than 32 levels deep"),
        ('{"title":"' + "x" * 70_000 + '"}', "more than 65536 bytes"),
        ("{}", "title: Field required"),
        ('{"title":7,"count":"many","more":1}', "title: Input should be a valid string; count: Input should be"),
        ('{"title":"x","accounts":[{"user":"u"}]}', "accounts[0].password: Field required"),
        ('{"title":"\\ud800"}', "arguments: Invalid JSON"),
        ('{"title":"odd"}', "cannot be checked (KeyError)"),
    ],
)
def test_invalid_arguments_are_refused_with_the_cause(registry: ToolRegistry, raw: str, cause: str) -> None:
    call = registry.resolve("c1", "login", raw)
    assert call.refusal is not None
    assert cause in call.refusal
    assert call.refusal.startswith("login was not run: ")
    assert (call.arguments, call.shown_arguments) == ({}, {})
    assert call.raw_arguments == (raw if len(raw) <= 65536 else "{}")
    assert call.needs_approval


def test_refusal_does_not_repeat_a_value(registry: ToolRegistry) -> None:
    call = registry.resolve("c1", "login", '{"title":"x","token":["pa55word"],"count":"pa55word"}')
    assert call.refusal is not None
    assert "pa55word" not in call.refusal


def test_only_the_first_of_many_errors_are_shown(registry: ToolRegistry) -> None:
    call = registry.resolve("c1", "login", json.dumps({"title": "x", **{f"more{i}": i for i in range(9)}}))
    assert call.refusal is not None
    assert "and 4 more" in call.refusal


def test_call_survives_an_error_in_its_question(registry: ToolRegistry) -> None:
    call = registry.resolve("c1", "login", '{"title":"no question"}')
    assert (call.refusal, call.question) == (None, "")


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_plan_is_parsed(registry: ToolRegistry) -> None:
    steps = [
        {"id": "a", "title": "조회", "description": "PR을 읽는다", "confidence": 0.9, "status": "in_progress"},
        {"title": "분석", "extra": True},
        {"id": 3, "title": "답변", "confidence": 1},
    ]
    call = registry.resolve("c1", "update_plan", json.dumps({"steps": steps}))
    assert call.refusal is None
    assert call.plan is not None
    first, second, third = call.plan
    assert (first.id, first.title, first.description, first.status) == ("a", "조회", "PR을 읽는다", "in_progress")
    assert first.confidence == Confidence(value=0.9, source="model")
    assert (second.id, second.status, second.confidence) == ("step-2", "pending", Confidence.UNKNOWN)
    assert (third.id, third.confidence.value) == ("3", 1.0)
    assert [step.order for step in call.plan] == [1, 2, 3]


def test_generated_step_ids_differ_from_given_ones(registry: ToolRegistry) -> None:
    call = registry.resolve("c1", "update_plan", '{"steps":[{"title":"x"},{"id":"step-1","title":"y"}]}')
    assert call.plan is not None
    assert len({step.id for step in call.plan}) == 2


def test_long_texts_of_a_plan_are_truncated(registry: ToolRegistry) -> None:
    steps = [{"id": "i" * 99, "title": "t" * 999, "description": "d" * 9999}]
    call = registry.resolve("c1", "update_plan", json.dumps({"steps": steps}))
    assert call.plan is not None
    step = call.plan[0]
    assert (len(step.id), len(step.title), len(step.description)) == (40, 120, 500)
    assert step.title.endswith("…")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({}, "steps: Field required"),
        ({"steps": []}, "steps: "),
        ({"steps": [{"title": "x"}] * 31}, "at most 30"),
        ({"steps": [{"title": ""}]}, "steps[0].title"),
        ({"steps": [{"title": "x", "status": "done"}]}, "steps[0].status"),
        ({"steps": [{"title": "x", "confidence": 85}]}, "steps[0].confidence"),
        ({"steps": [{"title": "x", "confidence": True}]}, "steps[0].confidence"),
        ({"steps": [{"id": "a", "title": "x"}, {"id": "a", "title": "y"}]}, "'a' is used more than once"),
    ],
)
def test_invalid_plan_is_refused(registry: ToolRegistry, arguments: Any, cause: str) -> None:
    call = registry.resolve("c1", "update_plan", json.dumps(arguments))
    assert call.plan == ()
    assert call.refusal is not None
    assert cause in call.refusal


# --- a person's edit --------------------------------------------------------------------------------------------------

ORIGINAL = {
    "title": "x",
    "token": "s3cret",
    "accounts": [{"user": "u", "password": "p1"}, {"user": "v", "password": "p2"}],
}


def test_edit_keeps_masked_secrets(registry: ToolRegistry) -> None:
    shown = registry.resolve("c1", "login", json.dumps(ORIGINAL)).shown_arguments
    arguments, secret_fields, _ = registry.validate_edit("login", {**shown, "title": "y"}, ORIGINAL)
    assert arguments == {**ORIGINAL, "title": "y", "count": 1, "ratio": 0.5, "free": {}}
    assert mask_values(arguments, secret_fields) == {**shown, "title": "y"}


def test_edit_can_set_a_new_secret(registry: ToolRegistry) -> None:
    arguments, secret_fields, _ = registry.validate_edit("login", {"title": "x", "token": "fresh"}, ORIGINAL)
    assert (arguments["token"], secret_fields) == ("fresh", (["token"],))


def test_edit_gets_the_warnings_about_its_own_arguments(registry: ToolRegistry) -> None:
    given = {"title": "pay\u200bload"}
    shown = registry.resolve("c1", "login", json.dumps(given))
    assert [warning.code for warning in shown.warnings] == ["invisible", "unseen_default", "unseen_default"]
    edited = registry.validate_edit("login", {**shown.shown_arguments, "title": "a\u202eb"}, given)
    assert [(warning.code, warning.field) for warning in edited.warnings] == [("bidirectional", "title")]
    assert registry.validate_edit("login", {**shown.shown_arguments, "title": "clean"}, given).warnings == ()


@pytest.mark.parametrize(
    ("edited", "cause"),
    [
        ({"title": ""}, "params: title: "),
        ({"title": "x", "count": "many"}, "params: count: "),
        ({"title": "x", "unknown": 1}, "params: unknown: "),
        ({"title": "x", "ratio": float("nan")}, "params: the arguments contain a value that JSON does not have"),
        ({"title": "x", "ratio": "-Infinity"}, "params: the arguments contain a number that is not finite"),
        ({"title": "x", "free": {"a": object()}}, "params: the arguments contain a value that JSON does not have"),
        ({"title": "x" * 70_000}, "params: the arguments have more than 65536 bytes"),
        ({"title": "x", "accounts": [{"user": "v", "password": "***"}]}, "params: accounts[0].password: *** is a mask"),
        (
            {"title": "x", "accounts": [{"user": "w", "password": "***"}, {"user": "v", "password": "***"}]},
            "params: accounts[0].password: *** is a mask",
        ),
    ],
)
def test_invalid_edit_names_the_field(registry: ToolRegistry, edited: Any, cause: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        registry.validate_edit("login", edited, ORIGINAL)
    assert cause in caught.value.cause


def test_edit_for_a_removed_tool_is_refused(registry: ToolRegistry) -> None:
    with pytest.raises(FieldInvalid, match="send_email"):
        registry.validate_edit("send_email", {}, {})
