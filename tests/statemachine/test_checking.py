"""The machine is proved, and where it is broken on purpose the proof names the path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import structs

from statemachine import machine, states, workflow
from statemachine.checking import Proof, check, search
from statemachine.checkpoint import Checkpoint
from statemachine.machine import Situation
from statemachine.messages import Continue, Fact, Step
from statemachine.states import TRANSITIONS, Guard, State, Transition, Trigger


def with_table(monkeypatch: pytest.MonkeyPatch, table: tuple[Transition, ...]) -> None:
    monkeypatch.setattr(states, "TRANSITIONS", table)
    monkeypatch.setattr(machine, "MACHINE", machine.build(table))


def without(trigger: Trigger, source: State) -> tuple[Transition, ...]:
    return tuple(arrow for arrow in TRANSITIONS if (arrow.trigger, arrow.source) != (trigger, source))


def with_guard(trigger: Trigger, guard: Guard | None) -> tuple[Transition, ...]:
    return tuple(replace(arrow, guard=guard) if arrow.trigger is trigger else arrow for arrow in TRANSITIONS)


def broken(depth: int = 4) -> dict[str, str]:
    """Claim → path of what does not hold."""
    return {proof.claim: proof.counterexample for proof in check(depth) if proof.counterexample is not None}


def the(claims: dict[str, str], words: str) -> str:
    (path,) = [path for claim, path in claims.items() if words in claim]
    return path


def test_the_machine_that_runs_has_all_its_properties() -> None:
    proofs = check()
    assert [proof.counterexample for proof in proofs if not proof.holds] == []
    (approval,) = [proof for proof in proofs if "risky" in proof.claim]
    assert "no situation left out" in approval.coverage
    assert len(proofs) == 9


def test_a_walk_that_ends_early_says_so() -> None:
    assert any("deeper situations not checked" in proof.coverage for proof in check(2))


# --- a broken table ---------------------------------------------------------------------------------------------------


def test_an_approval_without_its_guard_lets_a_risky_call_run_and_the_path_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_table(monkeypatch, with_guard(Trigger.APPROVE, None))
    path = the(broken(), "risky")
    assert path == (
        "begin → the model requests a risky call → a person approves too late: risky-0 is run, and nobody approved it"
    )


def test_an_approval_of_another_request_is_seen_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_time(situation: Situation) -> bool:
        deadline_at = situation.checkpoint.deadline_at
        return deadline_at is not None and situation.now < deadline_at

    predicates = {**machine.PREDICATES, Guard.DECIDED_IN_TIME: in_time}
    monkeypatch.setattr(machine, "MACHINE", machine.build(TRANSITIONS, predicates))
    assert "a person approves another request: risky-0 is run" in the(broken(), "risky")


def test_a_state_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_table(monkeypatch, without(Trigger.EXPIRE, State.AWAITING_APPROVAL))
    assert the(broken(2), "reachable") == "no path leads from planning to timed_out"


def test_a_state_without_a_way_to_cancel_is_named_in_the_table_and_in_the_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_table(monkeypatch, without(Trigger.CANCEL, State.TOOL))
    claims = broken()
    assert the(claims, "cancelled, by cancel") == "planning ─request_tools→ tool: no cancel → cancelled without a guard"
    assert the(claims, "at any moment").startswith("begin → the model requests a safe call → the run is cancelled: ")


def test_a_guard_on_the_way_to_failed_is_no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with_table(monkeypatch, with_guard(Trigger.FAIL, Guard.DEADLINE_PASSED))
    assert the(broken(2), "failed, by fail") == "planning: no fail → failed without a guard"


def test_a_dead_end_is_named_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with_table(monkeypatch, tuple(arrow for arrow in TRANSITIONS if arrow.source is not State.CONTENT))
    assert the(broken(2), "no dead end") == "planning ─answer→ content: no final state can be reached"


def test_an_end_that_leads_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_table(monkeypatch, (*TRANSITIONS, Transition(Trigger.ANSWER, State.DONE, State.CONTENT)))
    claims = broken()
    assert the(claims, "no dead end") == "done is final, but answer leads to content"
    assert the(claims, "every transition is made") == "no run makes done ─answer→ content"


def test_an_arrow_that_the_table_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Transition(Trigger.REQUEST_TOOLS, State.PLANNING, State.CONTENT)
    monkeypatch.setattr(machine, "MACHINE", machine.build((wrong, *TRANSITIONS)))
    assert the(broken(2), "only transitions of the table").endswith("planning ─request_tools→ content")


# --- a broken advance() -----------------------------------------------------------------------------------------------

Damage = Callable[[Checkpoint, Step], Step]


def damaged(monkeypatch: pytest.MonkeyPatch, damage: Damage) -> dict[str, str]:
    def advance(checkpoint: Checkpoint, fact: Fact, now: float) -> Step:
        return damage(checkpoint, workflow.advance(checkpoint, fact, now))

    monkeypatch.setattr(search, "advance", advance)
    return broken(3)


def changed(where: State, **changes: object) -> Damage:
    """Whatever comes to that state is changed."""

    def damage(_: Checkpoint, step: Step) -> Step:
        if step.checkpoint.state is not where:
            return step
        return structs.replace(step, checkpoint=structs.replace(step.checkpoint, **changes))

    return damage


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (changed(State.AWAITING_APPROVAL, deadline_at=None), "the run waits without a deadline"),
        (changed(State.AWAITING_APPROVAL, deadline_at=901.0), "the deadline is after the end of the run"),
        (
            changed(State.AWAITING_APPROVAL, deadline_at=200.0),
            "the deadline is not the one of the effect AwaitDecision",
        ),
        (
            lambda _, step: structs.replace(step, effect=Continue()),
            "the deadline is not the one of the effect Continue",
        ),
    ],
)
def test_a_wait_without_its_deadline_is_named(monkeypatch: pytest.MonkeyPatch, damage: Damage, cause: str) -> None:
    path = the(damaged(monkeypatch, damage), "has a deadline")
    assert path.startswith("begin → the model requests a risky call")
    assert path.endswith(f": {cause}")


def test_a_state_that_changes_without_a_transition_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = the(damaged(monkeypatch, changed(State.TOOL, state=State.CONTENT)), "only transitions of the table")
    assert path == "begin → the model requests a safe call: tool became content without a transition"


def test_a_run_that_goes_on_after_its_cancel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = the(damaged(monkeypatch, changed(State.CANCELLED, state=State.PLANNING)), "at any moment")
    assert path == "begin → the run is cancelled: planning went on to planning"


def test_a_second_run_of_what_must_not_be_repeated_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a node that takes a run over ran again whatever was under way."""

    def damage(before: Checkpoint, step: Step) -> Step:
        if before.state is State.TOOL and step.checkpoint.state is State.AWAITING_APPROVAL and before.running:
            return structs.replace(step, checkpoint=before)
        return step

    path = the(damaged(monkeypatch, damage), "risky")
    assert path.startswith("begin → the model requests a safe call that is not idempotent → the node crashes")
    assert path.endswith("safe-0 is run again, and nobody approved it")


def test_a_property_holds_where_it_has_no_counterexample() -> None:
    assert Proof("a claim", "two things").holds
    assert not Proof("a claim", "two things", "begin").holds
