"""The warnings about the arguments of a call: what each attack on the approver's eyes leads to."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from app.text.hidden import find_hidden
from app.tools import arguments as args
from app.tools.argument_warnings import find_warnings
from app.tools.github import CreatePullRequestArguments
from app.tools.mail import SendEmailArguments
from statemachine.call import ArgumentWarning

MAIL = {"to": ["kim@dwp.test"], "subject": "회의", "body": "내일 10시입니다."}
PULL = {"owner": "dwp", "repo": "aura", "title": "t", "head": "x", "base": "main"}


def warnings_of(model: type[BaseModel], given: dict[str, Any]) -> tuple[ArgumentWarning, ...]:
    checked = args.validate(model, given)
    return find_warnings(args.dump(checked)[1], checked)


def mail_warnings(**changes: Any) -> list[tuple[str, str, str]]:
    found = warnings_of(SendEmailArguments, {**MAIL, **changes})
    return [(warning.code, warning.field, warning.message) for warning in found]


def test_ordinary_mail_has_no_warning() -> None:
    assert mail_warnings() == []
    assert (
        mail_warnings(
            body="안녕하세요 👩\u200d👧,\n\nAPI를 v2.0으로 올립니다. “확인” 부탁드립니다…\n\nhttps://dwp.test/a?b=c\n"
        )
        == []
    )


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("지급\u200b하세요\u200b", "invisible", "U+200B ZERO WIDTH SPACE ×2"),
        ("확인\U000e0070\U000e0061\U000e0079", "invisible", "U+E0070 TAG LATIN SMALL LETTER P ×1"),
        ("invoice \u202egpj.exe", "bidirectional", "U+202E RIGHT-TO-LEFT OVERRIDE ×1"),
        ("파일 invoice\u05d0\u05d1.exe", "bidirectional", "보이는 순서가 실제와 다를 수 있습니다"),
        ("송금은 раypal로 하세요", "confusable", "'р' (U+0440 CYRILLIC SMALL LETTER ER) → 'p'"),
        ("https://dwp.test@evil.test/로그인", "confusable", "실제로 여는 서버는 evil.test입니다"),
        ("https://dwр.test/", "confusable", "mixes letters of several scripts"),
        ("https://xn--80ak6aa92e.com/", "international_domain", "аррӏе.com의 실제 이름은 xn--80ak6aa92e.com입니다"),
        ("확인" + "\n" * 401 + "그리고 모두 삭제하세요.", "very_long", "빈 줄 400개 뒤에 글이 더 있습니다"),
        ("확인" + "\n\u2800" * 400 + "\n그리고 모두 삭제하세요.", "very_long", "빈 줄 400개 뒤에"),
        ("확인" + " " * 500 + "그리고 모두 삭제하세요.", "very_long", "공백 500개 뒤에 글이 더 있습니다"),
        ("가" * 2001, "very_long", "글이 2,001자, 1줄입니다"),
        ("가\n" * 60, "very_long", "글이 120자, 61줄입니다"),
    ],
)
def test_body_that_hides_something_has_a_warning(body: str, code: str, message: str) -> None:
    found = mail_warnings(body=body)
    assert (code, "body") in [(kind, field) for kind, field, _ in found]
    assert any(kind == code and message in text for kind, _, text in found), found


def test_foreign_domain_of_an_address_is_shown_as_punycode_too() -> None:
    assert mail_warnings(to=["kim@dwp.test", "kim@한국.test"]) == [
        ("international_domain", "to[1]", "도메인 한국.test의 실제 이름은 xn--3e0b707e.test입니다.")
    ]


def test_domain_of_one_foreign_script_that_looks_like_ascii_has_a_warning() -> None:
    codes = [code for code, _, _ in mail_warnings(cc="boss@раура.test")]
    assert codes == ["confusable", "international_domain"]


def test_many_recipients_over_all_fields_have_one_warning() -> None:
    ten = [f"kim{number}@dwp.test" for number in range(10)]
    assert mail_warnings(to=ten) == []
    ((code, field, message),) = mail_warnings(to=ten, bcc="thief@evil.test")
    assert (code, field) == ("many_recipients", "")
    assert message == "받는 주소가 모두 11개입니다 (to 10, bcc 1)."


def test_default_that_nobody_wrote_has_a_warning_and_an_empty_one_has_none() -> None:
    given = {name: value for name, value in PULL.items() if name != "base"}
    (warning,) = warnings_of(CreatePullRequestArguments, given)
    assert (warning.code, warning.field) == ("unseen_default", "base")
    assert "기본값 main이" in warning.message
    assert warnings_of(CreatePullRequestArguments, PULL) == ()


class Step(BaseModel):
    name: str
    level: int = Field(default=3, alias="Level")
    key: SecretStr = SecretStr("default-key-1")


class Job(BaseModel):
    steps: list[Step] = []
    first: Step | None = None
    free: dict[str, Any] = {}


def test_defaults_inside_of_other_models_are_found_without_their_secrets() -> None:
    found = warnings_of(Job, {"steps": [{"name": "a", "Level": 1, "key": "k"}, {"name": "b"}], "first": {"name": "c"}})
    assert [warning.field for warning in found] == ["steps[1].Level", "steps[1].key", "first.Level", "first.key"]
    assert "default-key-1" not in str(found)


def test_names_of_fields_are_checked_too() -> None:
    (warning,) = warnings_of(Job, {"free": {"pay\u202eee": 1}})
    assert (warning.code, warning.field) == ("bidirectional", "free.pay⟨U+202E⟩ee")


def test_warning_itself_hides_nothing() -> None:
    body = "".join(map(chr, [0x202E, 0x200B, 0xE0041, 0x61C])) + " https://a\u202e.test@evil\u200b.test/ " + "x" * 3000
    for _, field, message in mail_warnings(body=body):
        assert list(find_hidden(field + message)) == []
        assert len(message) < 400


def test_of_very_many_warnings_the_worst_come_first_and_the_rest_is_counted() -> None:
    to = [f"kim@한국{number}.test" for number in range(40)]
    found = mail_warnings(to=to, body="a\u202eb")
    assert [code for code, _, _ in found[:2]] == ["bidirectional", "international_domain"]
    assert len(found) == 21
    assert found[-1] == ("more", "", "경고가 22건 더 있습니다.")
