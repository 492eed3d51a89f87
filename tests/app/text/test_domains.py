"""Domains in ASCII and in the characters that programs show."""

from __future__ import annotations

import pytest

from app.text.domains import DomainInvalid, to_ascii, to_unicode


@pytest.mark.parametrize(
    ("domain", "ascii_form"),
    [
        ("dwp.test", "dwp.test"),
        ("DWP.Test", "DWP.Test"),
        ("한국.test", "xn--3e0b707e.test"),
        ("삼성tv.kr", "xn--tv-gs4j8o.kr"),
        ("раура.test", "xn--80aa0cbo.test"),
        ("xn--80ak6aa92e.com", "xn--80ak6aa92e.com"),
        ("Ä.test", "xn--4ca.test"),
    ],
)
def test_domain_has_a_form_in_ascii(domain: str, ascii_form: str) -> None:
    assert to_ascii(domain) == ascii_form


def test_punycode_has_the_form_that_programs_show() -> None:
    assert to_unicode("xn--80ak6aa92e.com") == "аррӏе.com"
    assert to_unicode("한국.test") == "한국.test"


@pytest.mark.parametrize(
    "domain",
    [
        *(
            "",
            "a..b",
            ".a",
            "a.",
            "a_b.test",
            "-a.test",
            "a-.test",
            "a b.test",
            "x" * 64 + ".test",
            "a." * 130 + "test",
        ),
        *(
            "dwр.test",
            "xn--dw-emc.test",
            "exampleノa.com",
            "ｄｗｐ.test",
            "dwp。test",
            "xn--zzzzzz.test",
            "a\u0301\u0301ⅷ.test",
        ),
    ],
)
def test_domain_that_cannot_be_or_that_deceives_is_refused(domain: str) -> None:
    with pytest.raises(DomainInvalid, match="domain"):
        to_ascii(domain)
