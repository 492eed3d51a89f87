"""Model checking: all properties hold, and a machine that is broken on purpose gives a counterexample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import structs

from statemachine import ledger, machine, states, tool_calls, workflow
from statemachine.checking import Proof, check, search
from statemachine.checkpoint import Checkpoint
from statemachine.machine import Situation
from statemachine.messages import Continue, Fact, Step
from statemachine.states import TRANSITIONS, Guard, State, Transition, Trigger


def with_table(monkeypatch: pytest.MonkeyPatch, table: tuple[Transition, ...]) -> None:
    monkeypatch.setattr(states, "TRANSITIONS", table)
    monkeypatch.setattr(machine, "MACHINE", machine.build(table))


def without(trigger: Trigger, source: State) -> tuple[Transition, ...]:
    return tuple(row for row in TRANSITIONS if (row.trigger, row.source) != (trigger, source))


def with_guard(trigger: Trigger, guard: Guard | None) -> tuple[Transition, ...]:
    return tuple(replace(row, guard=guard) if row.trigger is trigger else row for row in TRANSITIONS)


def violations(depth: int = 4) -> dict[str, str]:
    """Return the counterexamples by claim."""
    return {proof.claim: proof.counterexample for proof in check(depth) if proof.counterexample is not None}


def counterexample(claims: dict[str, str], words: str) -> str:
    (path,) = [path for claim, path in claims.items() if words in claim]
    return path


@pytest.mark.slow
def test_all_properties_of_the_machine_hold() -> None:
    proofs = check()
    assert [proof.counterexample for proof in proofs if not proof.holds] == []
    (approval,) = [proof for proof in proofs if "risky" in proof.claim]
    assert "no situation left out" in approval.coverage
    (outward,) = [proof for proof in proofs if "outside" in proof.claim]
    assert int(outward.coverage.split()[0]) > 10
    assert len(proofs) == 11


def test_search_that_ends_early_says_so() -> None:
    assert any("deeper situations not checked" in proof.coverage for proof in check(2))


# --- a broken table ---------------------------------------------------------------------------------------------------


def test_missing_approval_guard_is_found_with_its_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_table(monkeypatch, with_guard(Trigger.APPROVE, None))
    path = counterexample(violations(), "risky")
    assert path == (
        "begin → the model requests a risky call → a person approves too late: risky-0 is run, and nobody approved it"
    )


def test_approval_of_another_request_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_time(situation: Situation) -> bool:
        deadline_at = situation.checkpoint.deadline_at
        return deadline_at is not None and situation.now < deadline_at

    predicates = {**machine.PREDICATES, Guard.DECIDED_IN_TIME: in_time}
    monkeypatch.setattr(machine, "MACHINE", machine.build(TRANSITIONS, predicates))
    assert "a person approves another request: risky-0 is run" in counterexample(violations(), "risky")


def test_unreachable_state_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with_table(monkeypatch, without(Trigger.EXPIRE, State.AWAITING_APPROVAL))
    assert counterexample(violations(2), "reachable") == "no path leads from planning to timed_out"


def test_state_that_cannot_be_cancelled_is_found_in_table_and_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_table(monkeypatch, without(Trigger.CANCEL, State.TOOL))
    claims = violations()
    assert (
        counterexample(claims, "cancelled, by cancel")
        == "planning ─request_tools→ tool: no cancel → cancelled without a guard"
    )
    assert counterexample(claims, "at any moment").startswith(
        "begin → the model requests a safe call → the run is cancelled: "
    )


def test_guarded_transition_to_failed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with_table(monkeypatch, with_guard(Trigger.FAIL, Guard.DEADLINE_PASSED))
    assert counterexample(violations(2), "failed, by fail") == "planning: no fail → failed without a guard"


def test_dead_end_is_found_with_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    with_table(monkeypatch, tuple(row for row in TRANSITIONS if row.source is not State.CONTENT))
    assert counterexample(violations(2), "no dead end") == "planning ─answer→ content: no final state can be reached"


def test_transition_from_a_final_state_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with_table(monkeypatch, (*TRANSITIONS, Transition(Trigger.ANSWER, State.DONE, State.CONTENT)))
    claims = violations()
    assert counterexample(claims, "no dead end") == "done is final, but answer leads to content"
    assert counterexample(claims, "every transition is made") == "no run makes done ─answer→ content"


def test_transition_that_is_not_in_the_table_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Transition(Trigger.REQUEST_TOOLS, State.PLANNING, State.CONTENT)
    monkeypatch.setattr(machine, "MACHINE", machine.build((wrong, *TRANSITIONS)))
    assert counterexample(violations(2), "only transitions of the table").endswith("planning ─request_tools→ content")


def test_a_call_that_sends_after_text_from_outside_was_read_is_found_with_its_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tool_calls, "guarded", lambda _, call: call)
    monkeypatch.setattr(ledger, "needs_approval", lambda _, call: call.needs_approval)
    path = counterexample(violations(), "outside")
    turn = "the model requests a call that sends something to others"
    assert path == f"begin → {turn}: send-0 is run, and nobody approved it"


# --- a broken advance() -----------------------------------------------------------------------------------------------

Damage = Callable[[Checkpoint, Step], Step]


def damaged(monkeypatch: pytest.MonkeyPatch, damage: Damage) -> dict[str, str]:
    def advance(checkpoint: Checkpoint, fact: Fact, now: float) -> Step:
        return damage(checkpoint, workflow.advance(checkpoint, fact, now))

    monkeypatch.setattr(search, "advance", advance)
    return violations(3)


def changed(where: State, **changes: object) -> Damage:
    """Return a damage that changes each checkpoint in that state."""

    def damage(_: Checkpoint, step: Step) -> Step:
        if step.checkpoint.state is not where:
            return step
        return structs.replace(step, checkpoint=structs.replace(step.checkpoint, **changes))

    return damage


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (changed(State.AWAITING_APPROVAL, deadline_at=None), "the run waits without a deadline"),
        (changed(State.AWAITING_APPROVAL, deadline_at=1201.0), "the deadline is after the end of the run"),
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
def test_wait_with_a_wrong_deadline_is_found(monkeypatch: pytest.MonkeyPatch, damage: Damage, cause: str) -> None:
    path = counterexample(damaged(monkeypatch, damage), "has a deadline")
    assert path.startswith("begin → the model requests a risky call")
    assert path.endswith(f": {cause}")


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (changed(State.PLANNING, reserved_tokens=0), "the model is called without a reservation"),
        (changed(State.PLANNING, reserved_tokens=10_000), "10 + 10000 of 230 tokens"),
        (changed(State.TOOL, spent_tokens=0), "an attempt ended as tools, and its tokens are not counted"),
        (changed(State.PLANNING, spent_tokens=1), "an attempt ended as lost, and its tokens are not counted"),
    ],
)
def test_model_call_that_is_not_paid_for_is_found(monkeypatch: pytest.MonkeyPatch, damage: Damage, cause: str) -> None:
    path = counterexample(damaged(monkeypatch, damage), "token budget")
    assert path.startswith("begin → ")
    assert path.endswith(f": {cause}")


def test_state_change_without_a_transition_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    path = counterexample(
        damaged(monkeypatch, changed(State.TOOL, state=State.CONTENT)), "only transitions of the table"
    )
    assert path == "begin → the model requests a safe call: tool became content without a transition"


def test_run_that_continues_after_its_cancellation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    path = counterexample(damaged(monkeypatch, changed(State.CANCELLED, state=State.PLANNING)), "at any moment")
    assert path == "begin → the run is cancelled: planning went on to planning"


def test_repetition_of_a_call_that_is_not_idempotent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The takeover runs all started calls again, idempotent or not."""

    def damage(before: Checkpoint, step: Step) -> Step:
        if before.state is State.TOOL and step.checkpoint.state is State.AWAITING_APPROVAL and before.running:
            return structs.replace(step, checkpoint=before)
        return step

    path = counterexample(damaged(monkeypatch, damage), "risky")
    assert path.startswith("begin → the model requests a safe call that is not idempotent → the node crashes")
    assert path.endswith("safe-0 is run again, and nobody approved it")


def test_property_holds_if_it_has_no_counterexample() -> None:
    assert Proof("a claim", "two things").holds
    assert not Proof("a claim", "two things", "begin").holds
