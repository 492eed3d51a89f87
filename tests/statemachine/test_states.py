"""The transition table, written out a second time, so that an accidental change of a transition fails here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from msgspec.structs import replace

from statemachine.machine import PREDICATES, Situation, describe_refusal, fire
from statemachine.states import (
    FINAL_STATES,
    OPEN_STATES,
    STATE_ACTIVITIES,
    STATE_TITLES,
    TRANSITIONS,
    State,
    Trigger,
)
from tests.statemachine.runs import NOW, Run, in_state, risky, safe

ROWS = """
planning           request_tools   tool
tool               report_results  planning           every call has its outcome, turns left
planning           answer          content
content            finish          done
tool               ask_approval    awaiting_approval  a call needs approval, none is running
awaiting_approval  approve         tool               for the open request, before the deadline
awaiting_approval  decline         tool               for the open request, before the deadline
content            request_tools   tool
awaiting_approval  reject          rejected           for the open request, before the deadline
awaiting_approval  expire          timed_out          deadline passed
planning           fail            failed
tool               fail            failed
awaiting_approval  fail            failed
content            fail            failed
planning           cancel          cancelled
tool               cancel          cancelled
awaiting_approval  cancel          cancelled
content            cancel          cancelled
"""


def test_table_is_that_of_the_contract() -> None:
    expected = {tuple(line.split(maxsplit=3)) for line in ROWS.strip().splitlines()}
    assert expected == {
        (row.source, row.trigger, row.dest, *((row.guard.value,) if row.guard else ())) for row in TRANSITIONS
    }
    assert len(TRANSITIONS) == len(expected)


def test_trigger_leads_from_a_state_to_one_state_only() -> None:
    assert len({(row.source, row.trigger) for row in TRANSITIONS}) == len(TRANSITIONS)


def test_happy_path_leads_from_the_initial_state_through_a_tool_to_done() -> None:
    happy = [State.PLANNING, State.TOOL, State.PLANNING, State.CONTENT, State.DONE]
    assert {(row.source, row.dest) for row in TRANSITIONS if row.is_happy_path} == set(pairwise(happy))


def test_final_states_are_those_of_the_contract_and_have_no_transitions() -> None:
    assert {"done", "failed", "rejected", "timed_out", "cancelled"} == FINAL_STATES
    assert OPEN_STATES == ("planning", "tool", "awaiting_approval", "content")
    assert not {row.source for row in TRANSITIONS} & FINAL_STATES
    assert all(state.is_final == (state in FINAL_STATES) for state in State)


def test_every_state_has_a_title_and_a_description() -> None:
    assert set(STATE_TITLES) == set(STATE_ACTIVITIES) == set(State)
    assert len(set(STATE_TITLES.values())) == len(State)


@pytest.mark.parametrize("trigger", Trigger)
@pytest.mark.parametrize("state", State)
def test_machine_has_exactly_the_transitions_of_the_table(state: State, trigger: Trigger) -> None:
    row = next((it for it in TRANSITIONS if it.source is state and it.trigger is trigger), None)
    situation = Situation(in_state(state).checkpoint, NOW, None)
    holds = row is not None and (row.guard is None or PREDICATES[row.guard](situation))
    assert fire(trigger, state, situation) == (row.dest if row is not None and holds else None)


def test_describe_refusal_names_the_cause() -> None:
    assert describe_refusal(Trigger.EXPIRE, State.AWAITING_APPROVAL) == "the guard does not hold: deadline passed"
    assert describe_refusal(Trigger.EXPIRE, State.TOOL) == "there is no transition expire from tool"
    assert describe_refusal(Trigger.ANSWER, State.PLANNING) == "there is no transition answer from planning"


def _predicate(trigger: Trigger) -> Callable[[Situation], bool]:
    guard = next(row.guard for row in TRANSITIONS if row.trigger is trigger)
    assert guard is not None
    return PREDICATES[guard]


def test_approval_is_requested_only_if_no_call_runs() -> None:
    holds, run = _predicate(Trigger.ASK_APPROVAL), Run()
    assert not holds(Situation(run.checkpoint, NOW))
    run.request_tools(safe("a"), risky("b"))
    assert not holds(Situation(run.checkpoint, NOW))
    run.finish_call("a")
    assert holds(Situation(run.checkpoint, NOW))


@pytest.mark.parametrize("trigger", [Trigger.APPROVE, Trigger.DECLINE, Trigger.REJECT])
def test_decision_counts_for_the_open_request_before_its_deadline(trigger: Trigger) -> None:
    holds, run = _predicate(trigger), in_state(State.AWAITING_APPROVAL)
    assert holds(Situation(run.checkpoint, NOW + 299.999, run.open_request_id))
    assert not holds(Situation(run.checkpoint, NOW + 300, run.open_request_id))
    assert not holds(Situation(run.checkpoint, NOW, "req-other"))
    assert not holds(Situation(run.checkpoint, NOW, None))
    assert not holds(Situation(Run().checkpoint, NOW, run.open_request_id))


def test_deadline_has_passed_at_its_exact_time() -> None:
    holds, run = _predicate(Trigger.EXPIRE), in_state(State.AWAITING_APPROVAL)
    assert not holds(Situation(run.checkpoint, NOW + 299.999))
    assert holds(Situation(run.checkpoint, NOW + 300))
    assert not holds(Situation(Run().checkpoint, NOW + 300))


def test_model_is_requested_again_only_after_all_calls_and_within_the_turn_limit() -> None:
    holds = _predicate(Trigger.REPORT_RESULTS)
    assert holds(Situation(Run().checkpoint, NOW))
    assert not holds(Situation(in_state(State.TOOL).checkpoint, NOW))
    assert not holds(Situation(in_state(State.AWAITING_APPROVAL).checkpoint, NOW))
    assert not holds(Situation(replace(Run(turns=1).checkpoint, turn=2), NOW))
