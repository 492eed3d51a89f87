"""The warnings about the arguments of a call: what each attack on the approver's eyes leads to."""

from __future__ import annotations

import time
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


@pytest.mark.parametrize(
    "link",
    [
        "https://dwp.test@evil.test/",
        "(https://dwp.test@evil.test)",
        "[확인](https://dwp.test@evil.test)",
        "링크:https://dwp.test@evil.test",
        "'https://dwp.test@evil.test'",
        '"https://dwp.test@evil.test"',
        "‹https://dwp.test@evil.test>",
        "a,https://dwp.test@evil.test",
        "https://ok.test/?u=https://dwp.test@evil.test",
        "https://ok.test,https:/dwp.test@evil.test",
        'https://dwp.test"@evil.test',
        "https://dwp.test)@evil.test",
        "https://dwp.test\\@evil.test",
        "https://evil.test\\@dwp.test",
        "HTTPS:\\\\dwp.test@evil.test",
        "https:/dwp.test@evil.test",
        "https:dwp.test@evil.test",
        "//dwp.test@evil.test",
        "https://dwp.test@%65vil.test:443/x",
    ],
)
def test_link_with_a_user_name_is_found_whatever_stands_around_it(link: str) -> None:
    found = [message for code, field, message in mail_warnings(body=f"확인 {link} 하세요") if field == "body"]
    assert any("실제로 여는 서버는 evil.test입니다" in message for message in found), found


@pytest.mark.parametrize(
    "text",
    [
        "(https://xn--80ak6aa92e.com)",
        "링크:https://xn--80ak6aa92e.com/",
        '"https://xn--80ak6aa92e.com"',
        "a,https://ok.test?u=https://XN--80ak6aa92e.com",
        "https:/xn--80ak6aa92e.com",
        "//xn--80ak6aa92e.com",
        "mailto:boss@xn--80ak6aa92e.com,",
        "xn--80ak6aa92e.com",
        "링크xn--80ak6aa92e.com.",
        "(https://аррӏе.com)",
    ],
)
def test_foreign_domain_is_found_whatever_stands_around_it(text: str) -> None:
    found = mail_warnings(body=f"확인 {text}")
    assert any(code == "international_domain" and "аррӏе.com의 실제" in message.lower() for code, _, message in found)


def test_ordinary_links_addresses_and_mentions_have_no_warning() -> None:
    body = "@김철수 https://blog.test/@kim/1 (https://dwp.test:8443/a?b=c@d) // kim@dwp.test, C:\\Users\\kim //@Nn"
    assert mail_warnings(body=body) == []


def test_links_of_a_long_text_are_found_in_linear_time() -> None:
    for piece in ("https:", "/", "xn--", "a@", "https://a@", "@<", "\n   ", "x" + " " * 39):
        started = time.perf_counter()
        warnings_of(Letter, {"note": piece * (200_000 // len(piece))})
        assert time.perf_counter() - started < 10, piece


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (("x" + " " * 39) * 5 + "모두 삭제", "공백 195개 뒤에"),
        (("a" + "\n" * 9) * 6 + "모두 삭제", "빈 줄 48개 뒤에"),
        (("a" + "\n\u3000" * 8 + "\n") * 2 + "모두 삭제", "빈 줄 16개 뒤에"),
    ],
)
def test_gaps_that_are_repeated_below_the_limit_have_a_warning(body: str, message: str) -> None:
    assert any(code == "very_long" and message in text for code, _, text in mail_warnings(body=body))


def test_paragraphs_indented_code_and_columns_have_no_warning() -> None:
    paragraphs = "문단입니다.\n\n" * 20
    code = "\n".join(" " * 12 + "call()" for _ in range(15))
    table = "이름        부서        직급\n" * 5
    assert mail_warnings(body=paragraphs) == mail_warnings(body=code) == mail_warnings(body=table) == []


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


class Letter(BaseModel):
    to: list[str] = []
    cc: str = ""
    note: str = ""


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ({"cc": ", ".join(f"kim{number}@dwp.test" for number in range(11))}, "cc 11"),
        ({"cc": "\n".join(f"kim{number}@dwp.test" for number in range(11))}, "cc 11"),
        ({"cc": " ".join(f"kim{number}@dwp.test" for number in range(11))}, "cc 11"),
        ({"to": [f"Kim <kim{number}@dwp.test>" for number in range(11)]}, "to 11"),
        ({"to": [";".join(f'"김, 철수"<kim{number}@dwp.test>' for number in range(11))]}, "to 11"),
        ({"to": ["a@dwp.test,b@dwp.test"], "cc": ",".join(f"<kim{n}@dwp.test>" for n in range(9))}, "to 2, cc 9"),
    ],
)
def test_recipients_in_one_text_or_behind_names_are_counted(given: dict[str, Any], counts: str) -> None:
    ((code, message),) = [(warning.code, warning.message) for warning in warnings_of(Letter, given)]
    assert (code, message) == ("many_recipients", f"받는 주소가 모두 11개입니다 ({counts}).")


def test_addresses_inside_of_sentences_are_no_recipients() -> None:
    note = "\n".join(f"문의는 kim{number}@dwp.test 으로 하세요" for number in range(20))
    assert warnings_of(Letter, {"note": note}) == ()


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
    named: dict[str, Step] = {}
    grid: list[list[Step]] = []


def test_defaults_inside_of_other_models_are_found_without_their_secrets() -> None:
    found = warnings_of(Job, {"steps": [{"name": "a", "Level": 1, "key": "k"}, {"name": "b"}], "first": {"name": "c"}})
    assert [warning.field for warning in found] == ["steps[1].Level", "steps[1].key", "first.Level", "first.key"]
    assert "default-key-1" not in str(found)


def test_defaults_inside_of_dictionaries_and_nested_lists_are_found() -> None:
    step = {"name": "a", "key": "k"}
    found = warnings_of(Job, {"named": {"x": step}, "grid": [[{**step, "Level": 1}, step]]})
    assert [warning.field for warning in found] == ["named.x.Level", "grid[0][1].Level"]


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
