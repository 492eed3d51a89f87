"""Domain names: what they may consist of, and their form in ASCII (punycode), which shows every foreign character."""

from __future__ import annotations

import unicodedata

import idna
import regex

from app.text.lookalikes import mixes_scripts, scripts

_MAX_CHARACTERS = 253
_ASCII_LABEL = regex.compile(r"(?i)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PUNYCODE = "xn--"


class DomainInvalid(ValueError):
    """The domain cannot be used. The message is the cause as a phrase."""


def to_ascii(domain: str) -> str:
    """Returns the domain in ASCII, with punycode for other characters. Raises `DomainInvalid`.

    Labels that mix scripts, and characters that stand for others (`ｄｗｐ`), are refused, as browsers do.
    """
    result = ".".join(_ascii_label(label) for label in domain.split("."))
    if len(result) > _MAX_CHARACTERS:
        raise DomainInvalid(f"the domain has more than {_MAX_CHARACTERS} characters")
    return result


def to_unicode(domain: str) -> str:
    """Returns the domain as many programs show it: with the characters that its punycode stands for.

    Raises `DomainInvalid`.
    """
    return ".".join(_unicode_label(label) if is_punycode(label) else label for label in domain.split("."))


def is_punycode(label: str) -> bool:
    return label.lower().startswith(_PUNYCODE)


def _ascii_label(label: str) -> str:
    if label.isascii():
        if not _ASCII_LABEL.fullmatch(label):
            raise DomainInvalid("a part of the domain is not made of letters, digits and hyphens")
        if is_punycode(label):
            _check_scripts(_unicode_label(label))
        return label
    folded = unicodedata.normalize("NFC", label.lower())
    if unicodedata.normalize("NFKC", folded) != folded:
        raise DomainInvalid("the domain has characters that stand for others; write the plain ones")
    _check_scripts(folded)
    try:
        return idna.alabel(folded).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise DomainInvalid("the domain has characters that no domain may have") from None


def _unicode_label(label: str) -> str:
    try:
        return idna.ulabel(label)
    except (idna.IDNAError, UnicodeError):
        raise DomainInvalid("the domain has a part in punycode that is not valid") from None


def _check_scripts(label: str) -> None:
    if mixes_scripts(label):
        names = ", ".join(sorted(name.capitalize() for name in scripts(label)))
        raise DomainInvalid(f"the domain mixes letters of several scripts ({names}), which look alike")
