"""Letters that look like others, in sentences and in addresses, links and file names."""

from __future__ import annotations

import pytest

from app.text.lookalikes import find_lookalikes, mixes_scripts, resembles_ascii, scripts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("송금은 раypal로 하세요", [("р", "p"), ("а", "a")]),
        ("Привет, how are you?", []),
        ("раура.test", [("р", "p"), ("а", "a"), ("у", "y")]),
        ("аррӏе", [("а", "a"), ("р", "p"), ("ӏ", "i"), ("е", "e")]),
        ("www.dwp.test⁄evil.example", [("⁄", "/")]),
        ("https://dwp.test∕한글.evil.test", [("∕", "/")]),
        ("ｄｗｐ.test", [("ｄ", "d"), ("ｗ", "w"), ("ｐ", "p")]),
        ("ɡithub.com", [("ɡ", "g")]),
        ("plain text, a.b", []),
        ("API를 호출하는 Qt앱 v2.0", []),
        ("“따옴표” – 대시… 10 kΩ, 3 μm", []),
        ("日本語 Tokyo ノート", []),
        ("café.test naïve", []),
    ],
)
def test_lookalikes_are_found_and_ordinary_writing_is_not(text: str, found: list[tuple[str, str]]) -> None:
    assert find_lookalikes(text) == found


def test_scripts_that_one_language_writes_together_are_not_mixed() -> None:
    assert scripts("한글ABC 1") == {"HANGUL", "LATIN"}
    assert not any(map(mixes_scripts, ("ascii", "한글ABC", "漢字한글", "ひらカタ漢字ABC", "русский", "123")))
    assert all(map(mixes_scripts, ("pаy", "αb", "한글р", "exampleノa")))
    assert resembles_ascii("раура")
    assert not resembles_ascii("paypal")
