"""The machine and runs in it, by command and by HTTP: every format, who may see what, what is missing."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.dev.demo.model import ScriptedModelServer
from app.errors import FormatUnavailable
from app.settings import Settings
from app.web import diagrams as drawings
from app.web.diagrams import FORMATS, MEDIA_TYPES, DiagramFormat, draw
from statemachine import machine, states
from statemachine.checking import facts
from statemachine.states import State, Trigger
from statemachine.views import diagram
from statemachine.views.snapshot import RunSnapshot
from tests.harness.service import headers, running
from tests.harness.tools import calling, risky
from tests.statemachine.runs import NOW, in_state

TEXT_FORMATS = tuple(format for format in FORMATS if format != "png")
NOBODY = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def nothing_drawn_before() -> Iterator[None]:
    yield
    for cached in (drawings._machine, drawings._font, drawings._has_korean):
        cached.cache_clear()


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def aura(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_mermaid_unless_told_otherwise() -> None:
    assert aura("diagram").output == diagram.mermaid()


@pytest.mark.parametrize("format", TEXT_FORMATS)
def test_the_command_writes_any_format_to_a_file(format: DiagramFormat, tmp_path: Path) -> None:
    file = tmp_path / "machine"
    result = aura("diagram", "--format", format, "--output", str(file))
    assert (result.exit_code, result.output) == (0, "")
    assert format != "png"
    assert file.read_text(encoding="utf-8") == diagram.render(format)


def test_the_command_draws_a_png_with_what_is_in_the_wheel(tmp_path: Path) -> None:
    if drawings._font() is None:
        pytest.skip("this machine has no font")
    file = tmp_path / "machine.png"
    assert aura("diagram", "--format", "png", "--output", str(file)).exit_code == 0
    assert size(file.read_bytes()) == (2520, 1448)


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    result = aura("diagram", "--output", str(tmp_path / "nowhere" / "file"))
    assert result.exit_code == 1
    assert "No such file or directory" in result.output
    assert aura("diagram", "--format", "gif").exit_code == 2
    assert "neither" in aura("diagram", "--check", "--session", "s").output
    assert "say who asks" in aura("diagram", "--session", "s").output
    token = headers()["Authorization"].removeprefix("Bearer ")
    unreached = aura("diagram", "--session", "s", "--url", NOBODY, "--token", token)
    assert unreached.exit_code == 2
    assert unreached.stderr.startswith(f"aura: nobody answers at {NOBODY}: ")
    assert unreached.stderr.count("\n") == 1


@pytest.fixture
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller walk: the whole one is `tests/statemachine/test_checking.py`'s."""
    turns = {words: facts.TURNS[words] for words in ("a safe call", "a risky call")}
    monkeypatch.setattr(facts, "TURNS", turns)


@pytest.mark.usefixtures("few_turns")
def test_check_prints_what_was_proved() -> None:
    result = aura("diagram", "--check")
    assert result.exit_code == 0
    assert result.output.count("✔") == 9
    assert "✗" not in result.output
    assert result.output.endswith("9 of 9 properties hold\n")


@pytest.mark.usefixtures("few_turns")
def test_check_ends_with_1_and_the_path_where_a_property_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    table = tuple(
        replace(arrow, guard=None) if arrow.trigger is Trigger.APPROVE else arrow for arrow in states.TRANSITIONS
    )
    monkeypatch.setattr(states, "TRANSITIONS", table)
    monkeypatch.setattr(machine, "MACHINE", machine.build(table))
    result = aura("diagram", "--check")
    assert result.exit_code == 1
    assert "does not hold: begin → the model requests a risky call → a person approves too late" in result.output
    assert result.output.endswith("8 of 9 properties hold\n")


# --- a PNG and its fonts ----------------------------------------------------------------------------------------------


def letters(monkeypatch: pytest.MonkeyPatch, render: Callable[[str, str], str]) -> None:
    monkeypatch.setattr(drawings, "_letter", lambda letter, family: render(letter, family).encode())


def test_a_machine_without_a_font_gets_an_error_that_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    letters(monkeypatch, lambda letter, family: "blank")
    with pytest.raises(FormatUnavailable, match="install one, or take svg"):
        draw("png")
    result = aura("diagram", "--format", "png")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("render", "font", "korean"),
    [
        # DejaVu alone: other names are drawn in it too, Hangul is a box
        (lambda letter, family: "box" if letter in "가힣" and letter else letter, drawings._NO_FONT, False),
        # Arial and a Korean font
        (lambda letter, family: f"{letter} in {'Arial' if family == 'Arial' else 'Serif'}", "Arial", True),
    ],
)
def test_the_font_is_one_that_is_here_and_korean_is_left_out_where_none_has_it(
    monkeypatch: pytest.MonkeyPatch, render: Callable[[str, str], str], font: str, korean: bool
) -> None:
    letters(monkeypatch, render)
    assert drawings._font() == font
    assert drawings._has_korean(font) is korean


# --- HTTP -------------------------------------------------------------------------------------------------------------


async def test_the_machine_is_public_in_every_format_with_its_media_type(settings: Callable[..., Settings]) -> None:
    async with running(settings()) as service:
        for format in TEXT_FORMATS:
            answer = await service.client.get("/aura/fsm/diagram", params={"format": format})
            assert (answer.status_code, answer.headers["Content-Type"]) == (200, MEDIA_TYPES[format])
            assert answer.content == draw(format)
        assert (await service.client.get("/aura/fsm/diagram")).text == diagram.mermaid()
        picture = await service.client.get("/aura/fsm/diagram", params={"format": "png"})
        if picture.status_code == 501:  # this machine has no font
            assert picture.json()["errorCode"] == "E1008"
        else:
            assert (picture.headers["Content-Type"], size(picture.content)) == ("image/png", (2520, 1448))
        refused = await service.client.get("/aura/fsm/diagram", params={"format": "gif"})
        assert (refused.status_code, refused.json()["errorCode"]) == (400, "E4000")
        assert "format: Input should be 'mermaid', 'dot', 'svg', 'png', 'json' or 'table'" in refused.json()["message"]


async def test_a_run_is_drawn_for_its_owner_and_approvers_and_for_nobody_else(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(calling(("send_note", {"to": "kim"})))
    async with running(settings(), tools=[risky()]) as service:
        async with service.stream("메모") as stream:
            session_id = (await stream.until("hitl"))["sessionId"]
            asked = {"format": "json", "sessionId": session_id}
            for who in (headers(), headers("boss", role="approver")):
                answer = await service.client.get("/aura/fsm/diagram", params=asked, headers=who)
                assert answer.headers["Cache-Control"] == "no-store"
                drawn = answer.json()["meta"]
                assert drawn["current"] == "awaiting_approval"
                assert 290 < drawn["pendingApproval"]["secondsLeft"] <= 300
            refusals = {
                "E2000": {},
                "E2001": headers("user2"),
            }
            for code, who in refusals.items():
                answer = await service.client.get("/aura/fsm/diagram", params=asked, headers=who)
                assert answer.json()["errorCode"] == code
            gone = await service.client.get("/aura/fsm/diagram", params={"sessionId": "nix"}, headers=headers())
            assert gone.status_code == 404
            token = headers()["Authorization"].removeprefix("Bearer ")
            shown = await asyncio.to_thread(
                aura,
                *("diagram", "--format", "json", "--session", session_id),
                *("--url", service.url, "--token", token),
            )
    assert json.loads(shown.output)["meta"]["current"] == "awaiting_approval"


def test_a_run_is_drawn_as_a_png() -> None:
    if drawings._font() is None:
        pytest.skip("this machine has no font")
    assert size(draw("png", RunSnapshot.of(in_state(State.AWAITING_APPROVAL).checkpoint, NOW))) == (2520, 1448)
