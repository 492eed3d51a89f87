"""The state machine and runs in it, by command and by HTTP: formats, access, errors."""

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
from app.web import diagrams
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
UNREACHABLE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def empty_caches() -> Iterator[None]:
    yield
    diagrams.clear_caches()


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def aura(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


# --- the command ----------------------------------------------------------------------------------------------------


def test_command_prints_mermaid_by_default() -> None:
    assert aura("diagram").output == diagram.mermaid()


@pytest.mark.parametrize("format", TEXT_FORMATS)
def test_command_writes_any_format_to_a_file(format: DiagramFormat, tmp_path: Path) -> None:
    file = tmp_path / "machine"
    result = aura("diagram", "--format", format, "--output", str(file))
    assert (result.exit_code, result.output) == (0, "")
    assert format != "png"
    assert file.read_text(encoding="utf-8") == diagram.render(format)


def test_command_renders_a_png(tmp_path: Path) -> None:
    if diagrams.find_font() is None:
        pytest.skip("no font is installed")
    file = tmp_path / "machine.png"
    assert aura("diagram", "--format", "png", "--output", str(file)).exit_code == 0
    assert size(file.read_bytes()) == (2520, 1448)


def test_command_reports_errors_in_one_line(tmp_path: Path) -> None:
    result = aura("diagram", "--output", str(tmp_path / "nowhere" / "file"))
    assert result.exit_code == 1
    assert "No such file or directory" in result.output
    assert aura("diagram", "--format", "gif").exit_code == 2
    assert "cannot be combined" in aura("diagram", "--check", "--session", "s").output
    assert "no user is given" in aura("diagram", "--session", "s").output
    token = headers()["Authorization"].removeprefix("Bearer ")
    failed = aura("diagram", "--session", "s", "--url", UNREACHABLE, "--token", token)
    assert failed.exit_code == 2
    assert failed.stderr.startswith(f"aura: cannot connect to {UNREACHABLE}: ")
    assert failed.stderr.count("\n") == 1


@pytest.fixture
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller walk: the whole one is `tests/statemachine/test_checking.py`'s."""
    turns = {words: facts.TURNS[words] for words in ("a safe call", "a risky call")}
    monkeypatch.setattr(facts, "TURNS", turns)


@pytest.mark.usefixtures("few_turns")
def test_check_prints_the_proved_properties() -> None:
    result = aura("diagram", "--check")
    assert result.exit_code == 0
    assert result.output.count("✔") == 11
    assert "✗" not in result.output
    assert result.output.endswith("11 of 11 properties hold\n")


@pytest.mark.usefixtures("few_turns")
def test_check_exits_with_1_and_prints_the_path_to_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    table = tuple(
        replace(arrow, guard=None) if arrow.trigger is Trigger.APPROVE else arrow for arrow in states.TRANSITIONS
    )
    monkeypatch.setattr(states, "TRANSITIONS", table)
    monkeypatch.setattr(machine, "MACHINE", machine.build(table))
    result = aura("diagram", "--check")
    assert result.exit_code == 1
    assert "does not hold: begin → the model requests a risky call → a person approves too late" in result.output
    assert result.output.endswith("10 of 11 properties hold\n")


# --- a PNG and its fonts --------------------------------------------------------------------------------------------


def letters(monkeypatch: pytest.MonkeyPatch, render: Callable[[str, str], str]) -> None:
    monkeypatch.setattr(diagrams, "render_letter", lambda letter, family: render(letter, family).encode())


def test_png_without_an_installed_font_raises_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    letters(monkeypatch, lambda letter, family: "blank")
    with pytest.raises(FormatUnavailable, match="install one, or use the format svg"):
        draw("png")
    result = aura("diagram", "--format", "png")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("render", "font", "korean"),
    [
        # Only DejaVu is installed: it replaces every other family, and renders Hangul as a box.
        (lambda letter, family: "box" if letter in "가힣" and letter else letter, diagrams.UNKNOWN_FONT, False),
        # Arial and a Korean font are installed.
        (lambda letter, family: f"{letter} in {'Arial' if family == 'Arial' else 'Serif'}", "Arial", True),
    ],
)
def test_installed_font_is_found_and_korean_is_omitted_without_glyphs(
    monkeypatch: pytest.MonkeyPatch, render: Callable[[str, str], str], font: str, korean: bool
) -> None:
    letters(monkeypatch, render)
    assert diagrams.find_font() == font
    assert diagrams.has_korean_glyphs(font) is korean


# --- HTTP -----------------------------------------------------------------------------------------------------------


async def test_state_machine_is_public_in_every_format_with_its_media_type(settings: Callable[..., Settings]) -> None:
    async with running(settings()) as service:
        for format in TEXT_FORMATS:
            response = await service.client.get("/aura/fsm/diagram", params={"format": format})
            assert (response.status_code, response.headers["Content-Type"]) == (200, MEDIA_TYPES[format])
            assert response.content == draw(format)
        assert (await service.client.get("/aura/fsm/diagram")).text == diagram.mermaid()
        picture = await service.client.get("/aura/fsm/diagram", params={"format": "png"})
        if picture.status_code == 501:  # no font is installed
            assert picture.json()["errorCode"] == "E1008"
        else:
            assert (picture.headers["Content-Type"], size(picture.content)) == ("image/png", (2520, 1448))
        rejected = await service.client.get("/aura/fsm/diagram", params={"format": "gif"})
        assert (rejected.status_code, rejected.json()["errorCode"]) == (400, "E4000")
        assert "format: Input should be 'mermaid', 'dot', 'svg', 'png', 'json' or 'table'" in rejected.json()["message"]


async def test_run_is_rendered_for_its_owner_and_approvers_only(
    settings: Callable[..., Settings], model: ScriptedModelServer
) -> None:
    model.play(calling(("send_note", {"to": "kim"})))
    async with running(settings(), tools=[risky()]) as service:
        async with service.stream("메모") as stream:
            session_id = (await stream.until("hitl"))["sessionId"]
            query = {"format": "json", "sessionId": session_id}
            for caller in (headers(), headers("boss", role="approver")):
                response = await service.client.get("/aura/fsm/diagram", params=query, headers=caller)
                assert response.headers["Cache-Control"] == "no-store"
                meta = response.json()["meta"]
                assert meta["current"] == "awaiting_approval"
                assert 290 < meta["pendingApproval"]["secondsLeft"] <= 300
            errors = {
                "E2000": {},
                "E2001": headers("user2"),
            }
            for code, caller in errors.items():
                response = await service.client.get("/aura/fsm/diagram", params=query, headers=caller)
                assert response.json()["errorCode"] == code
            missing = await service.client.get("/aura/fsm/diagram", params={"sessionId": "nix"}, headers=headers())
            assert missing.status_code == 404
            token = headers()["Authorization"].removeprefix("Bearer ")
            result = await asyncio.to_thread(
                aura,
                *("diagram", "--format", "json", "--session", session_id),
                *("--url", service.url, "--token", token),
            )
    assert json.loads(result.output)["meta"]["current"] == "awaiting_approval"


def test_run_is_rendered_as_a_png() -> None:
    if diagrams.find_font() is None:
        pytest.skip("no font is installed")
    assert size(draw("png", RunSnapshot.of(in_state(State.AWAITING_APPROVAL).checkpoint, NOW))) == (2520, 1448)
