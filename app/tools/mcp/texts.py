"""Texts of MCP servers, which anybody may have written: without hidden characters, bounded, and marked as theirs."""

from __future__ import annotations

from app.text import hidden

MAX_DESCRIPTION_CHARACTERS = 1024
"""Model servers refuse longer descriptions, so that of ours is counted too."""
MAX_ERROR_CHARACTERS = 1500
_MAX_TITLE_CHARACTERS = 80


def clean(text: str, limit_characters: int) -> str:
    """Return the text without hidden and control characters, and the part of it that fits, with `…` at its end."""
    visible = hidden.replace_hidden(text[: 4 * limit_characters], lambda _: "")
    visible = visible.encode("utf-8", "replace").decode()
    return visible if len(visible) <= limit_characters else f"{visible[: limit_characters - 1]}…"


def one_line(text: str, limit_characters: int) -> str:
    """Return the cleaned text on one line."""
    return clean(" ".join(text[: 4 * limit_characters].split()), limit_characters)


def description(server: str, text: str) -> str:
    """Return the description of a tool as the model reads it: whose text it is, then the text."""
    start = f"[A tool of the MCP server {server!r}, described by that server.] "
    return start + clean(text.strip(), MAX_DESCRIPTION_CHARACTERS - len(start))


def title(server: str, text: str) -> str:
    """Return the title of a tool as people see it: the server's name, then its text."""
    return f"[MCP {server}] {one_line(text, _MAX_TITLE_CHARACTERS)}"


def question(server: str, tool: str) -> str:
    """Return what the approver is asked. `tool` is a name of our characters: no text of the server is in it."""
    return f"MCP 서버 '{server}'의 '{tool}' 도구를 실행하시겠습니까?"


def error(text: str) -> str:
    """Return the text of an error as the model and people see it."""
    return one_line(text, MAX_ERROR_CHARACTERS) or "without a text"
