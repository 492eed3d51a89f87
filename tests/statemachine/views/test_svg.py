"""The SVG: it is well-formed, shows the whole table with attributes for a page, and a run's path and approval."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from statemachine import states
from statemachine.states import OPEN_STATES, STATE_ACTIVITIES, STATE_TITLES, TRANSITIONS, State, Trigger
from statemachine.views import layout
from statemachine.views.layout import BOXES, FRAME, HEIGHT, ROUTES, WIDTH, Box
from statemachine.views.snapshot import RunSnapshot
from statemachine.views.svg import svg
from tests.statemachine.runs import NOW, Run, in_state, risky, safe

NAMESPACE = "{http://www.w3.org/2000/svg}"


def drawn(snapshot: RunSnapshot | None = None, *, korean: bool = True) -> ET.Element:
    return ET.fromstring(svg(snapshot, korean=korean))  # noqa: S314 - our own


def texts(element: ET.Element) -> list[str]:
    return [text.text or "" for text in element.iter(f"{NAMESPACE}text")]


def states_of(root: ET.Element) -> dict[str, ET.Element]:
    return {g.attrib["data-state"]: g for g in root.iter(f"{NAMESPACE}g") if "data-state" in g.attrib}


def transitions_of(root: ET.Element) -> list[ET.Element]:
    return [g for g in root.iter(f"{NAMESPACE}g") if "data-trigger" in g.attrib]


def looping(rounds: int) -> RunSnapshot:
    run = Run(turns=50)
    for n in range(rounds):
        run.now += 60
        run.request_tools(safe(f"c{n}"))
        run.finish_call(f"c{n}")
    return RunSnapshot.of(run.checkpoint, run.now)


def test_every_state_has_a_box_with_its_texts() -> None:
    assert set(BOXES) == set(State), "give the new state a box in statemachine/views/layout.py"
    found = states_of(drawn())
    assert set(found) == set(State)
    for state in State:
        assert found[state].attrib["id"] == f"aura-state-{state}"
        assert texts(found[state])[:2] == [state, STATE_TITLES[state]]
        assert " ".join(texts(found[state])[2:]) == STATE_ACTIVITIES[state]
        assert ("final" in found[state].attrib["class"].split()) == state.is_final


def test_every_transition_is_drawn_exactly_once() -> None:
    shown = [
        (group.attrib["data-trigger"], source, group.attrib["data-to"])
        for group in transitions_of(drawn())
        for source in group.attrib["data-from"].split()
    ]
    assert sorted(shown) == sorted((arrow.trigger, arrow.source, arrow.dest) for arrow in TRANSITIONS), (
        "give the new transition a route in statemachine/views/layout.py"
    )


def test_removed_transition_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = tuple(arrow for arrow in TRANSITIONS if arrow.trigger is not Trigger.DECLINE)
    monkeypatch.setattr(layout, "TRANSITIONS", fewer)
    assert "decline" not in {group.attrib["data-trigger"] for group in transitions_of(drawn())}


def test_arrows_show_their_guards() -> None:
    for group in transitions_of(drawn()):
        arrow = next(it for it in states.TRANSITIONS if it.trigger == group.attrib["data-trigger"])
        trigger, *guard = texts(group)
        assert trigger == arrow.trigger
        assert " ".join(guard) == (f"[{arrow.guard}]" if arrow.guard else "")


def test_boxes_do_not_overlap_and_the_frame_contains_the_open_states() -> None:
    def apart(one: Box, other: Box) -> bool:
        beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        return beside or one.y + one.height <= other.y or other.y + other.height <= one.y

    for state, box in BOXES.items():
        assert box.x >= 0 <= box.y
        assert box.x + box.width <= WIDTH
        assert box.y + box.height <= HEIGHT
        assert all(apart(box, other) for name, other in BOXES.items() if name is not state)
        assert apart(box, FRAME) == (state not in OPEN_STATES)


def test_labels_and_badges_are_outside_of_the_boxes() -> None:
    for route in ROUTES:
        for x, y in (route.label, route.badge):
            assert not any(b.x < x < b.x + b.width and b.y < y < b.y + b.height for b in BOXES.values())


@pytest.mark.parametrize("state", State)
def test_current_state_of_a_run_is_filled(state: State) -> None:
    groups = states_of(drawn(RunSnapshot.of(in_state(state).checkpoint, NOW)))
    assert [name for name, group in groups.items() if "is-current" in group.attrib["class"]] == [state]
    box = groups[state].find(f"{NAMESPACE}rect")
    assert box is not None
    assert box.attrib["class"] == "aura-current"


def test_waiting_run_shows_the_tool_and_the_seconds_left() -> None:
    run = Run()
    run.request_tools(risky("a"), risky("b"))
    root = drawn(RunSnapshot.of(run.checkpoint, NOW + 59))
    shown = texts(states_of(root)["awaiting_approval"])
    assert shown[-2:] == ["send_email (+1 queued)", "241 s left"]
    title = root.find(f"{NAMESPACE}title")
    assert title is not None
    assert title.text == (
        f"Run {run.checkpoint.session_id}: awaiting_approval after 2 transitions; "
        "waiting for a decision on send_email, 241 s left, 1 more queued"
    )


def test_path_is_numbered_on_the_arrows_and_listed_with_its_times() -> None:
    root = drawn(looping(5))
    taken = {group.attrib["data-trigger"]: group for group in transitions_of(root) if "data-taken" in group.attrib}
    assert set(taken) == {"request_tools", "report_results"}
    assert texts(taken["request_tools"])[-1] == "… 5, 7, 9"
    title = taken["report_results"].find(f"{NAMESPACE}title")
    assert title is not None
    assert "taken as 2 at 1 min 00 s, 4 at 2 min 00 s" in (title.text or "")
    (panel,) = [group for group in root.iter(f"{NAMESPACE}g") if group.attrib.get("class") == "path"]
    assert texts(panel)[0] == "Path so far: 10 transitions, the last 5 min 00 s after the start"
    assert texts(panel)[1:7] == ["1", "request_tools", "1 min 00 s", "2", "report_results", "1 min 00 s"]


def test_panel_lists_the_newest_steps_of_a_long_path() -> None:
    (panel,) = [group for group in drawn(looping(20)).iter(f"{NAMESPACE}g") if group.attrib.get("class") == "path"]
    assert texts(panel)[-3:-1] == ["40", "report_results"]
    assert len(texts(panel)) == 1 + 3 * 21
    assert "Path so far: 0 transitions" in texts(drawn(RunSnapshot.of(Run().checkpoint, NOW)))


def test_foreign_text_is_escaped() -> None:
    run = Run()
    run.request_tools(risky(name='<script>&"a tool with a very long name'))
    root = drawn(RunSnapshot.of(run.checkpoint, NOW))
    assert '<script>&"a tool with…' in texts(states_of(root)["awaiting_approval"])
    assert "<script>" not in svg(RunSnapshot.of(run.checkpoint, NOW))


def test_korean_titles_can_be_left_out() -> None:
    assert not any(STATE_TITLES[state] in texts(drawn(korean=False)) for state in State)


def test_every_colour_has_a_dark_variant() -> None:
    style = drawn().find(f"{NAMESPACE}style")
    assert style is not None
    assert (style.text or "").startswith("@media (prefers-color-scheme: dark){")
    used = {element.attrib.get("class", "") for element in drawn(looping(1)).iter()}
    for name in used:
        if name.startswith("aura-") and name != "aura-machine":
            assert f".{name}{{" in (style.text or "")
