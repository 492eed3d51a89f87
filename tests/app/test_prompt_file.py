"""`AURA_SYSTEM_PROMPT_FILE`: its text replaces the built-in one; a file that cannot be used stops the start."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ConfigurationError
from app.settings import Settings
from app.settings.prompt_file import PromptFile
from statemachine.instructions import INSTRUCTIONS
from statemachine.prompt import system_prompt
from tests.harness.service import SECRET, running


def refusal(path: str) -> str:
    """Return the line that stops the start, without the name of the setting."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment({"JWT_SECRET": SECRET, "AURA_SYSTEM_PROMPT_FILE": path})
    name, _, cause = str(caught.value).partition(": ")
    assert name == "AURA_SYSTEM_PROMPT_FILE"
    assert path in cause
    assert "\n" not in cause
    return cause.replace(path, "FILE")


def read(path: Path) -> str:
    settings = Settings.from_environment({"JWT_SECRET": SECRET, "AURA_SYSTEM_PROMPT_FILE": f" {path} "})
    assert settings.aura_system_prompt_file is not None
    assert settings.aura_system_prompt_file.path == str(path)
    return settings.aura_system_prompt_file.text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("너는 도서관의 도우미야.\n짧게 답해.", "너는 도서관의 도우미야.\n짧게 답해."),
        (" \nYou help.\r\nBe brief.\r\n\r\n", "You help.\nBe brief."),
        ("\ufeffYou help.\n", "You help."),
        ("x" * 65_536, "x" * 65_536),
    ],
)
def test_text_of_the_file_is_read_without_the_white_space_at_its_ends(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(content, encoding="utf-8", newline="")
    assert read(path) == text


def test_without_the_setting_the_built_in_text_is_used() -> None:
    assert Settings.from_environment({"JWT_SECRET": SECRET}).aura_system_prompt_file is None
    given = PromptFile("p", "t")
    assert (
        Settings.from_environment({"JWT_SECRET": SECRET}, aura_system_prompt_file=given).aura_system_prompt_file
        is given
    )


def test_the_text_does_not_show(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("private instructions", encoding="utf-8")
    settings = Settings.from_environment({"JWT_SECRET": SECRET, "AURA_SYSTEM_PROMPT_FILE": str(path)})
    assert "private instructions" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "FILE is empty; write the instructions into it, or name no file"),
        (b"\xef\xbb\xbf \r\n", "FILE is empty"),
        ("한국어".encode("cp949"), "FILE is not UTF-8 text (its byte 0 is not); save it as UTF-8"),
        (b"abc\xff", "FILE is not UTF-8 text (its byte 3 is not)"),
        (b"x" * 65_537, "FILE has more than 65536 bytes; shorten it"),
        ("가".encode() * 30_000, "FILE has more than 65536 bytes"),  # the part that is read ends within a character
    ],
)
def test_content_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(content)
    assert refusal(str(path)).startswith(cause)


def test_a_path_without_a_readable_file_is_named(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "missing.txt")).startswith("FILE does not exist (the working directory is /")
    assert refusal(str(tmp_path)) == "FILE is not a file; name a text file"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refusal(str(pipe)) == "FILE is not a file; name a text file"
    assert refusal(str(tmp_path / ("x" * 300))).startswith("FILE cannot be read (File name too long); give the service")


async def test_the_text_replaces_the_built_in_one_and_the_screen_follows_it(
    settings: Callable[..., Settings], model: ScriptedModelServer, tmp_path: Path
) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("You are the assistant of a library.\n", encoding="utf-8")
    context = {"activeApp": "mail", "title": "받은 편지함"}
    model.play(ScriptedTurn(text="네."), ScriptedTurn(text="네."))
    async with running(settings(aura_system_prompt_file=str(path))) as aura:
        path.write_text("Changed later.", encoding="utf-8")
        for body in ({"prompt": "질문", "context": context}, {"prompt": "질문"}):
            async with aura.stream(body=body) as stream:
                await stream.rest()
    with_screen, without = (request["messages"][0]["content"] for request in model.requests)
    assert without == "You are the assistant of a library."
    assert with_screen == without + system_prompt(context).removeprefix(INSTRUCTIONS)
