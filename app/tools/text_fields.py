"""Checks texts in which a hidden or look-alike character deceives the approver: mail addresses, subjects, titles.

Nothing is removed or replaced, because what is shown is what runs. Each function returns its text unchanged, or raises
`ValueError` with the cause and the remedy; the model or the approver reads it.
"""

from __future__ import annotations

import unicodedata
from email.errors import MessageError
from email.headerregistry import Address

import regex

from app.text import domains, hidden, lookalikes

_ADDRESS_CHARACTERS = 254
_LINE_SEPARATORS = "\u2028\u2029"
_LOCAL_PART_WORD = regex.compile(r"[^.+_-]+")


def one_visible_line(text: str) -> str:
    """Checks a subject or title: one line without control characters and hidden ones. Emoji may have joiners."""
    if any(unicodedata.category(character) == "Cc" or character in _LINE_SEPARATORS for character in text):
        raise ValueError("line breaks and control characters are not allowed")
    return without_hidden_characters(text)


def without_hidden_characters(text: str) -> str:
    """Checks that a person sees every character, in the order in which they are written."""
    for _, character in hidden.find_hidden(text):
        raise ValueError(_hidden_cause(character))
    return text


def without_control_characters(text: str) -> str:
    """Checks a text of several lines."""
    if any(unicodedata.category(character) == "Cc" and character not in "\n\r\t" for character in text):
        raise ValueError("control characters are not allowed")
    return text


def check_address(text: str) -> str:
    """Checks one mail address without a display name, without network access."""
    invalid = ValueError("not a mail address; give it like name@example.com, without a display name")
    if len(text) > _ADDRESS_CHARACTERS:
        raise invalid
    for character in text:
        if hidden.is_format_character(character):  # in an address also those of an emoji
            raise ValueError(_hidden_cause(character))
    if not text.isprintable() or " " in text:
        raise invalid
    if '"' in text:
        raise ValueError('an address with quotes ("…"@example.com) is not allowed; give it like name@example.com')
    try:
        address = Address(addr_spec=text)
    except (ValueError, IndexError, MessageError):
        raise invalid from None
    if not address.username or not address.domain or address.addr_spec != text:
        raise invalid
    domains.to_ascii(address.domain)
    _check_local_part(address.username)
    return text


def _check_local_part(local_part: str) -> None:
    if "%" in local_part or "!" in local_part:  # some mail servers take these for a route to another domain
        raise ValueError("an address with % or ! before its @ is not allowed, because it may go to another domain")
    if unicodedata.normalize("NFKC", local_part) != local_part:
        raise ValueError("the name before the @ has characters that stand for others; write the plain ones")
    for word in _LOCAL_PART_WORD.findall(local_part):
        if lookalikes.mixes_scripts(word):
            names = ", ".join(sorted(name.capitalize() for name in lookalikes.scripts(word)))
            raise ValueError(f"the name before the @ mixes letters of several scripts ({names}), which look alike")


def _hidden_cause(character: str) -> str:
    return f"it contains {hidden.describe(character)}, which a person cannot see; write it without this character"
