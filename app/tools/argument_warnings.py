"""Computes what may deceive the approver of a call: hidden characters, look-alikes, hidden ends, defaults (§2.2).

The warnings are about the arguments as people see them, so no masked secret is described.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

import regex
from pydantic import BaseModel

from app.text import domains, hidden, lookalikes
from app.text.domains import DomainInvalid
from app.text.links import find_hosts
from statemachine.call import ArgumentWarning
from statemachine.stored import JsonObject

LONG_TEXT_CHARACTERS = 2000
LONG_TEXT_LINES = 60
MANY_RECIPIENTS = 10
_MAX_WARNINGS = 20
_MAX_NAMED = 3
_MAX_SHOWN_CHARACTERS = 80
_ADDRESS_SEPARATORS = regex.compile(r"[,;\n\uFF0C\uFF1B\u3001]")
_ADDRESS_IN_BRACKETS = regex.compile(r"<[^<>\s@]+@[^<>\s@]+>")
_ORDER = (
    *("bidirectional", "invisible", "confusable", "international_domain"),
    *("very_long", "many_recipients", "unseen_default"),
)
"""The codes, the most deceptive first: of very many warnings the last ones are only counted."""


def find_warnings(shown: JsonObject, arguments: BaseModel) -> tuple[ArgumentWarning, ...]:
    """Returns the warnings about the arguments of a call, the most deceptive first."""
    texts = list(_texts(shown))
    found = [warning for path, text in texts for warning in _text_warnings(path, text)]
    found += chain(_recipient_warnings(texts), _default_warnings(arguments))
    found.sort(key=lambda warning: _ORDER.index(warning.code))
    if len(found) > _MAX_WARNINGS:
        more = f"경고가 {len(found) - _MAX_WARNINGS}건 더 있습니다."
        return (*found[:_MAX_WARNINGS], ArgumentWarning("more", "", more))
    return tuple(found)


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields `(path, text)` for each text in a JSON value, names of fields included."""
    match value:
        case str():
            yield path, value
        case dict():
            for name, item in value.items():
                inner = f"{path}.{_short(hidden.make_visible(name))}".removeprefix(".")
                if not name.isascii() or not name.isprintable():
                    yield inner, name
                yield from _texts(item, inner)
        case list():
            for index, item in enumerate(value):
                yield from _texts(item, f"{path}[{index}]")


def _text_warnings(path: str, text: str) -> Iterator[ArgumentWarning]:
    found: dict[str, Counter[str]] = {"bidirectional": Counter(), "invisible": Counter()}
    for kind, character in hidden.find_hidden(text):
        found[kind][character] += 1
    if found["bidirectional"]:
        message = f"글자가 보이는 순서를 바꾸는 문자가 있습니다: {_named(found['bidirectional'])}."
        yield ArgumentWarning("bidirectional", path, message)
    if found["invisible"]:
        yield ArgumentWarning("invisible", path, f"보이지 않는 문자가 있습니다: {_named(found['invisible'])}.")
    if not text.isascii():
        yield from _lookalike_warnings(path, text)
    yield from _link_warnings(path, text)
    if lengths := _length_causes(text):
        yield ArgumentWarning("very_long", path, f"{', '.join(lengths)}. 끝까지 확인하세요.")


def _lookalike_warnings(path: str, text: str) -> Iterator[ArgumentWarning]:
    if found := lookalikes.find_lookalikes(text):
        named = [f"'{character}' ({hidden.describe(character)}) → '{shown}'" for character, shown in found[:_MAX_NAMED]]
        more = f" 외 {len(found) - _MAX_NAMED}개" if len(found) > _MAX_NAMED else ""
        yield ArgumentWarning("confusable", path, f"다른 글자처럼 보이는 글자가 있습니다: {', '.join(named)}{more}.")
    if hidden.is_order_ambiguous(text):
        message = "오른쪽에서 왼쪽으로 쓰는 글자가 섞여 있어, 보이는 순서가 실제와 다를 수 있습니다."
        yield ArgumentWarning("bidirectional", path, message)


def _link_warnings(path: str, text: str) -> Iterator[ArgumentWarning]:
    """Yields warnings about the hosts of addresses and links, which are what a person trusts or does not trust."""
    for host, is_behind_user in find_hosts(text):
        if is_behind_user:
            message = f"이 링크가 실제로 여는 서버는 {_short(hidden.make_visible(host))}입니다."
            yield ArgumentWarning("confusable", path, message)
        if host.isascii() and not any(map(domains.is_punycode, host.split("."))):
            continue
        try:
            ascii_host, unicode_host = domains.to_ascii(host), domains.to_unicode(host)
        except DomainInvalid as error:
            yield ArgumentWarning("confusable", path, f"도메인을 믿을 수 없습니다: {error}.")
            continue
        message = f"도메인 {_short(unicode_host)}의 실제 이름은 {ascii_host}입니다."
        yield ArgumentWarning("international_domain", path, message)


def _length_causes(text: str) -> list[str]:
    """Returns what hides the end of a text, as phrases."""
    causes = []
    gaps = dict(hidden.blank_gaps(text))
    if "lines" in gaps:
        causes.append(f"빈 줄 {gaps['lines']}개 뒤에 글이 더 있습니다")
    if "spaces" in gaps:
        causes.append(f"공백 {gaps['spaces']}개 뒤에 글이 더 있습니다")
    if len(text) > LONG_TEXT_CHARACTERS or text.count("\n") >= LONG_TEXT_LINES:
        causes.append(f"글이 {len(text):,}자, {text.count(chr(10)) + 1:,}줄입니다")
    return causes


def _recipient_warnings(texts: list[tuple[str, str]]) -> Iterator[ArgumentWarning]:
    """Yields one warning where the arguments name many mail addresses, whatever fields they are in."""
    fields = Counter[str]()
    for path, text in texts:
        fields[path.partition("[")[0]] += _count_addresses(text)
    if fields.total() > MANY_RECIPIENTS:
        counts = ", ".join(f"{field} {count}" for field, count in fields.items() if count)
        yield ArgumentWarning("many_recipients", "", f"받는 주소가 모두 {fields.total()}개입니다 ({counts}).")


def _count_addresses(text: str) -> int:
    """Returns how many addresses a text lists, as `a@x, b@x` or `Kim <a@x>`; those inside of sentences do not count."""
    if "@" not in text:
        return 0
    count = 0
    for part in _ADDRESS_SEPARATORS.split(text):
        in_brackets = len(_ADDRESS_IN_BRACKETS.findall(part))
        words = part.split()
        count += in_brackets or (len(words) if all(map(_is_address, words)) else 0)
    return count


def _is_address(text: str) -> bool:
    return text.count("@") == 1 and not text.startswith("@")


def _default_warnings(value: Any, path: str = "") -> Iterator[ArgumentWarning]:
    """Yields a warning for each value that nobody wrote and that is not empty: the tool's own default runs.

    They are looked for in every model, also in those inside of lists and dictionaries.
    """
    match value:
        case BaseModel():
            for name, field in type(value).model_fields.items():
                item = getattr(value, name)
                inner = f"{path}.{field.serialization_alias or field.alias or name}".removeprefix(".")
                if name in value.model_fields_set:
                    yield from _default_warnings(item, inner)
                elif item not in (None, False, "", [], {}, ()):
                    message = f"모델이 정하지 않은 값입니다. 기본값 {_short(str(item))}이(가) 쓰입니다."
                    yield ArgumentWarning("unseen_default", inner, message)
        case dict():
            for key, item in value.items():
                yield from _default_warnings(item, f"{path}.{_short(hidden.make_visible(str(key)))}".removeprefix("."))
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _default_warnings(item, f"{path}[{index}]")


def _named(found: Counter[str]) -> str:
    """Returns the characters that were found with their names and numbers: `U+200B ZERO WIDTH SPACE ×3, …`."""
    named = [f"{hidden.describe(character)} ×{count}" for character, count in found.most_common(_MAX_NAMED)]
    more = len(found) - len(named)
    return ", ".join(named) + (f" 외 {more}종" if more else "")


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}…"
