"""Each diagram format shows exactly the transition table."""

from __future__ import annotations

import json
import re
from typing import get_args

import pytest

from statemachine.messages import AnswerFinished
from statemachine.states import INITIAL_STATE, STATE_ACTIVITIES, STATE_TITLES, TRANSITIONS, State
from statemachine.views.diagram import Format, dot, machine_config, mermaid, readme_section, render, table
from statemachine.views.snapshot import RunSnapshot, format_duration
from tests.statemachine.runs import NOW, Run, in_state, risky, safe

FORMATS: tuple[Format, ...] = get_args(Format)
ROWS = {(row.source.value, row.dest.value, row.trigger.value) for row in TRANSITIONS}
FINAL = {state.value for state in State if state.is_final}


def run_with_a_path() -> RunSnapshot:
    """Two rounds of tools, a second each, and an answer."""
    run = Run()
    for _ in range(2):
        run.now += 1
        run.request_tools(safe())
        run.finish_call(run.checkpoint.running[0].id)
    run.apply(AnswerFinished("끝", "끝"))
    return RunSnapshot.of(run.checkpoint, run.now)


def waiting(*, after: float, calls: int = 1) -> RunSnapshot:
    run = Run()
    run.request_tools(*(risky(f"c{n}") for n in range(calls)))
    return RunSnapshot.of(run.checkpoint, NOW + after)


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_names_every_state_trigger_and_guard(format: Format) -> None:
    text = render(format)
    assert text.endswith("\n")
    for row in TRANSITIONS:
        assert row.source in text
        assert row.trigger in text
        assert row.guard is None or row.guard in text
    for state in State:
        assert STATE_ACTIVITIES[state] in text
        assert format == "table" or STATE_TITLES[state] in text


def test_mermaid_has_all_transitions_and_final_states() -> None:
    text = mermaid()
    assert text.startswith("stateDiagram-v2\n    [*] --> planning\n")
    found = re.findall(r"^    (\w+) --> (\w+) : (\w+)(?: \[.+\])?$", text, re.MULTILINE)
    assert set(found) == ROWS
    assert len(found) == len(ROWS)
    assert set(re.findall(r"^    (\w+) --> \[\*\]$", text, re.MULTILINE)) == FINAL
    assert ";" not in text, "it ends a statement in Mermaid"


def test_happy_path_is_first_and_transitions_from_every_state_are_last() -> None:
    rows = [line.split(" : ")[0].strip() for line in mermaid().splitlines() if " : " in line and "-->" in line]
    here = INITIAL_STATE
    for row in (row for row in TRANSITIONS if row.is_happy_path):
        assert row.source is here
        here = row.dest
    assert here is State.DONE
    assert rows[:4] == ["planning --> tool", "tool --> planning", "planning --> content", "content --> done"]
    assert all(row.endswith(("failed", "cancelled")) for row in rows[-8:])
    assert not any(row.endswith(("failed", "cancelled")) for row in rows[:-8])


def test_dot_has_all_transitions_and_a_double_line_around_final_states() -> None:
    text = dot()
    assert text.startswith("digraph aura {")
    assert text.rstrip().endswith("}")
    assert set(re.findall(r'^  (\w+) -> (\w+) \[label="(\w+)', text, re.MULTILINE)) == ROWS
    assert set(re.findall(r"^  (\w+) \[label=.*peripheries=2", text, re.MULTILINE)) == FINAL
    assert text.count("style=dashed") == 8


def test_json_is_a_machine_config_for_xstate() -> None:
    config = machine_config()
    assert json.loads(render("json")) == config
    assert set(config) == {"id", "initial", "states"}
    assert (config["id"], config["initial"]) == ("aura", "planning")
    assert {name for name, state in config["states"].items() if state.get("type") == "final"} == FINAL
    found = set()
    for source, state in config["states"].items():
        assert set(state) == {"description", "meta", "type" if source in FINAL else "on"}
        for trigger, row in state.get("on", {}).items():
            assert set(row) <= {"target", "guard"}
            found.add((source, row["target"], trigger))
    assert found == ROWS
    assert config["states"]["awaiting_approval"]["on"]["expire"] == {"target": "timed_out", "guard": "deadline passed"}


def test_table_has_a_line_for_each_state_and_transition() -> None:
    states, rows = table().split("\n\n")
    assert len(states.splitlines()) == 2 + len(State)
    assert len(rows.splitlines()) == 2 + len(TRANSITIONS)
    assert not any(line.endswith(" ") for line in table().splitlines())


@pytest.mark.parametrize("state", State)
def test_current_state_of_a_run_is_marked(state: State) -> None:
    run = RunSnapshot.of(in_state(state).checkpoint, NOW)
    assert mermaid(run).endswith(f"    class {state} current\n")
    assert re.findall(r"^  (\w+) \[.*fillcolor", dot(run), re.MULTILINE) == [state]
    assert machine_config(run)["meta"]["current"] == state
    assert [line.split()[1] for line in table(run).splitlines() if line.startswith(">")] == [state]


def test_without_a_run_nothing_is_marked() -> None:
    assert "classDef" not in mermaid()
    assert "fillcolor" not in dot()
    assert "meta" not in machine_config()
    assert ">" not in table()


def test_path_of_a_run_has_numbers_and_times() -> None:
    run = run_with_a_path()
    assert "planning --> tool : request_tools (1 at 1.0 s, 3 at 2.0 s)\n" in mermaid(run)
    assert "planning --> content : answer (5 at 2.0 s)\n" in mermaid(run)
    assert "content --> tool : request_tools\n" in mermaid(run)
    assert 'planning -> tool [label="request_tools (1 at 1.0 s, 3 at 2.0 s)"]' in dot(run)
    (line,) = [line for line in table(run).splitlines() if line.startswith("content") and "finish" in line]
    assert line.endswith(" 6 at 2.0 s")
    path = machine_config(run)["meta"]["path"]
    assert [step["to"] for step in path] == ["tool", "planning", "tool", "planning", "content", "done"]
    assert path[2] == {
        "number": 3, "trigger": "request_tools", "from": "planning", "to": "tool", "at": NOW + 2, "afterSeconds": 2
    }  # fmt: skip


def test_newest_steps_of_a_repeated_transition_are_shown() -> None:
    run = Run()
    for n in range(5):
        run.request_tools(safe(f"c{n}"))
        run.finish_call(f"c{n}")
    assert "request_tools (…, 5 at 0 ms, 7 at 0 ms, 9 at 0 ms)\n" in mermaid(RunSnapshot.of(run.checkpoint, NOW))


def test_waiting_run_shows_its_approval_and_the_time_left() -> None:
    run = waiting(after=59, calls=2)
    words = "send_email, 241 s left, 1 more queued"
    assert f"    note right of awaiting_approval : {words}\n" in mermaid(run)
    assert f'before the deadline\\n{words}"' in dot(run)
    assert table(run).endswith(f"\nwaiting for a decision: {words}\n")
    pending = machine_config(run)["meta"]["pendingApproval"]
    assert (pending["secondsLeft"], pending["expiresAt"], pending["queued"]) == (241, NOW + 300, 1)
    late = waiting(after=301).open_approval
    assert late is not None
    assert late.description == "send_email, 0 s left"


def test_durations_are_formatted() -> None:
    assert [format_duration(seconds) for seconds in (0.0404, 0.9999, 59.9, 59.99, 125, 3725)] == [
        "40 ms", "1.0 s", "59.9 s", "1 min 00 s", "2 min 05 s", "1 h 02 min"
    ]  # fmt: skip


def test_readme_section_is_a_fenced_mermaid_block() -> None:
    assert readme_section() == f"```mermaid\n{mermaid()}```\n"


def test_quotes_are_escaped_in_a_dot_string() -> None:
    run = Run()
    run.request_tools(risky(name='a "b"\\\nc'))
    assert '\\na \\"b\\"\\\\\\nc, 300 s left"' in dot(RunSnapshot.of(run.checkpoint, NOW))
