"""Texts with hidden characters, and how an approver sees them: the same in Python and in browsers."""

from __future__ import annotations

VISIBLE_FORMS = {
    "plain, 한글, é, “따옴표”": "plain, 한글, é, “따옴표”",
    "boss@dwp\u200b.test": "boss@dwp⟨U+200B⟩.test",
    "invoice \u202egpj.exe": "invoice ⟨U+202E⟩gpj.exe",
    "a\u2066b\u2069\u061c": "a⟨U+2066⟩b⟨U+2069⟩⟨U+061C⟩",
    "pay\U000e0041\U000e007f": "pay⟨U+E0041⟩⟨U+E007F⟩",
    "x\u00ad\ufeff\u3164\u2800\u115f": "x⟨U+00AD⟩⟨U+FEFF⟩⟨U+3164⟩⟨U+2800⟩⟨U+115F⟩",
    "bell\x07 esc\x1b[2J del\x7f c1\x9b": "bell⟨U+0007⟩ esc⟨U+001B⟩[2J del⟨U+007F⟩ c1⟨U+009B⟩",
    "lines\r\nand\ttabs": "lines\r\nand\ttabs",
    "over\rwritten": "over⟨U+000D⟩written",
    "a\u2028b": "a⟨U+2028⟩b",
    "👩\u200d👩\u200d👧 ❤\ufe0f\u200d🔥 👍🏽 1\ufe0f\u20e3": "👩\u200d👩\u200d👧 ❤\ufe0f\u200d🔥 👍🏽 1\ufe0f\u20e3",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f": "\U0001f3f4\U000e0067\U000e0062\U000e0065"
    "\U000e006e\U000e0067\U000e007f",
    "🏴\U000e0068\U000e0069\U000e007f": "🏴⟨U+E0068⟩⟨U+E0069⟩⟨U+E007F⟩",
    "no emoji\u200d\ufe0f": "no emoji⟨U+200D⟩⟨U+FE0F⟩",
    "👩\u200dx": "👩⟨U+200D⟩x",
    "first" + "\n" * 401 + "last": "first\n⟨400 empty lines⟩\nlast",
    "first\n" + " \t\n" * 12 + "last": "first\n⟨12 empty lines⟩\nlast",
    "few\n\n\nlines": "few\n\n\nlines",
    "a" + " " * 200 + "b": "a⟨200 blanks⟩b",
    "\u0600 an Arabic number sign is visible": "\u0600 an Arabic number sign is visible",
}
