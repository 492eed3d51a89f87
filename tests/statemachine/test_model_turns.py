"""The token budget of a run: each model turn is reserved before it is requested and settled after it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import statemachine
from statemachine.checkpoint import Limits, Usage
from statemachine.events import End, ErrorRaised, Start, Thought
from statemachine.messages import (
    AnswerArrived,
    AnswerFinished,
    CallModel,
    CancelRequested,
    Continue,
    Effect,
    ModelFailed,
    ModelFailure,
    ModelSource,
    RunRecovered,
    Stop,
)
from statemachine.prompt import with_continuation
from statemachine.states import State
from statemachine.stored import JsonObject
from statemachine.tokens import estimate_prompt, estimate_tokens
from statemachine.workflow import advance, begin
from tests.statemachine.runs import NOW, Run, of_type, request, risky, safe

FIRST = estimate_prompt(Run().checkpoint.messages)
"""The reservation of the first turn, without an allowance for its answer."""
SOURCE = ModelSource("small-model", "origin-1")


def usage(total: int) -> Usage:
    return Usage(prompt_tokens=total - 1, completion_tokens=1, total_tokens=total)


def tokens(run: Run) -> tuple[int, int]:
    return run.checkpoint.spent_tokens, run.checkpoint.reserved_tokens


def out_of_tokens(run: Run) -> str:
    """Return the message of a run that ended because its budget does not allow the next turn."""
    assert isinstance(run.effect, Stop)
    assert run.state is State.FAILED
    (error,) = of_type(ErrorRaised, run.last_events)
    assert (error.error_type, error.error_code, error.retryable) == ("LimitExceeded", "E1000", False)
    assert run.checkpoint.reserved_tokens == 0
    return error.message


# --- reservations -----------------------------------------------------------------------------------------------------


def test_only_one_module_makes_the_effect_that_calls_the_model() -> None:
    """Each of its functions reserves first, so that no turn can be requested without a reservation."""
    folder = Path(statemachine.__file__).parent
    makers = [
        path.name
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "CallModel"
    ]
    assert makers == ["model_turns.py"]


def test_first_turn_is_reserved_in_the_first_checkpoint() -> None:
    assert tokens(Run()) == (0, FIRST)
    assert tokens(Run(completion_tokens=500)) == (0, FIRST + 500)


def test_turn_after_tools_is_reserved_with_their_results() -> None:
    run = Run()
    run.request_tools(safe(), usage=usage(40))
    assert tokens(run) == (40, 0)
    run.finish_call(answer="한글 결과" * 50)
    assert tokens(run) == (40, estimate_prompt(run.checkpoint.messages))
    assert run.checkpoint.reserved_tokens > FIRST + 150


def test_next_attempt_is_reserved_with_the_text_that_it_continues() -> None:
    run = Run(completion_tokens=10_000)
    run.apply(AnswerArrived("답" * 300))
    run.apply(ModelFailed("interrupted", "broken", "답" * 300))
    continued = estimate_prompt(with_continuation(run.checkpoint.messages, "답" * 300))
    assert tokens(run) == (FIRST + 10_000, continued + 10_000)
    assert continued > FIRST + 300


# --- settlements ------------------------------------------------------------------------------------------------------


def test_finished_turn_counts_what_was_reported() -> None:
    run = Run(completion_tokens=500)
    run.apply(AnswerFinished("끝", "끝", usage(33)))
    assert tokens(run) == (33, 0)


def test_finished_turn_without_a_report_counts_its_prompt_and_its_message() -> None:
    run = Run(completion_tokens=500)
    run.request_tools(safe())
    called = estimate_tokens(run.checkpoint.messages[-1])
    assert tokens(run) == (FIRST + called, 0)
    run.finish_call()
    prompt = run.checkpoint.reserved_tokens - 500
    run.apply(AnswerFinished("끝" * 100, "끝" * 100))
    answered = estimate_tokens({"role": "assistant", "content": "끝" * 100})
    assert tokens(run) == (FIRST + called + prompt + answered, 0)


def test_failed_attempt_counts_what_was_reported_and_the_run_has_it_in_its_usage() -> None:
    run = Run()
    run.apply(ModelFailed("interrupted", "cut", usage=usage(21), source=SOURCE))
    assert tokens(run) == (21, FIRST)
    run.apply(AnswerFinished("끝", "끝", usage(30)), at=1)
    assert tokens(run) == (51, 0)
    assert run.checkpoint.usage.total_tokens == 51


@pytest.mark.parametrize("failure", ["unavailable", "interrupted", "timeout", "truncated"])
def test_failed_attempt_without_a_report_counts_its_reservation(failure: ModelFailure) -> None:
    run = Run(completion_tokens=50)
    run.apply(ModelFailed(failure, "broken"))
    assert run.checkpoint.spent_tokens == FIRST + 50


@pytest.mark.parametrize("failure", ["refused", "not_configured", "context_too_long"])
def test_request_that_the_server_refused_costs_nothing(failure: ModelFailure) -> None:
    run = Run(completion_tokens=50)
    run.apply(ModelFailed(failure, "400"))
    assert tokens(run) == (0, 0)
    run = Run(completion_tokens=50)
    run.apply(AnswerArrived("답"))
    run.apply(ModelFailed(failure, "an error within the answer", streamed="답"))
    assert run.checkpoint.spent_tokens == FIRST + 50


def test_lost_attempt_stays_counted() -> None:
    run = Run(completion_tokens=50)
    for crashes in (1, 2, 3):
        run.apply(RunRecovered())
        assert tokens(run) == (crashes * (FIRST + 50), FIRST + 50)


def test_stopped_attempt_counts_its_reservation() -> None:
    run = Run(completion_tokens=50)
    run.apply(CancelRequested("user1"))
    assert tokens(run) == (FIRST + 50, 0)


@pytest.mark.parametrize("fact", [RunRecovered(), CancelRequested("user1")], ids=["lost", "stopped"])
def test_attempt_that_was_not_made_yet_costs_nothing(fact: RunRecovered | CancelRequested) -> None:
    run = Run()
    run.apply(ModelFailed("unavailable", "503", retry_after_seconds=10), at=1)
    run.apply(fact, at=2)
    assert run.checkpoint.spent_tokens == FIRST
    assert len([turn for turn in run.checkpoint.model_turns if turn.outcome is not None]) == 1


def test_answer_counts_also_where_the_clock_was_set_back() -> None:
    run = Run()
    run.apply(ModelFailed("unavailable", "503", retry_after_seconds=10), at=1)
    run.apply(AnswerFinished("끝", "끝", usage(30)), at=2)
    assert tokens(run) == (FIRST + 30, 0)


def test_waiting_for_a_person_reserves_nothing() -> None:
    run = Run()
    run.request_tools(risky(), usage=usage(20))
    assert tokens(run) == (20, 0)


# --- the budget -------------------------------------------------------------------------------------------------------


def first_step(**limits: Any) -> tuple[Run, Effect]:
    messages: list[JsonObject] = Run().checkpoint.messages
    step = begin(request(), messages, Limits(**limits), NOW)
    assert [type(event) for event in step.events] == [Start, Thought]
    run = Run()
    run.checkpoint, run.effect, run.events = step.checkpoint, step.effect, list(step.events)
    return run, step.effect


def test_budget_of_exactly_the_first_turn_is_enough() -> None:
    assert isinstance(first_step(tokens=FIRST)[1], CallModel)
    assert isinstance(first_step(tokens=FIRST + 50, completion_tokens=50)[1], CallModel)


@pytest.mark.parametrize("limits", [{"tokens": FIRST - 1}, {"tokens": FIRST + 49, "completion_tokens": 50}])
def test_first_turn_above_the_budget_is_not_requested_and_the_run_ends(limits: dict[str, int]) -> None:
    run, effect = first_step(**limits)
    assert effect == Continue()
    assert run.checkpoint.state is State.PLANNING
    run.apply(RunRecovered())
    assert out_of_tokens(run).startswith(f"토큰 한도({limits['tokens']}개)에 도달하여 작업을 중단했습니다.")
    assert run.checkpoint.model_turns == []
    assert run.checkpoint.spent_tokens == 0


def test_turn_after_tools_above_the_budget_ends_the_run() -> None:
    run = Run(tokens=FIRST + 100)
    run.request_tools(safe(), usage=usage(90))
    run.finish_call()
    needed = estimate_prompt(run.checkpoint.messages)
    assert out_of_tokens(run) == (
        f"토큰 한도({FIRST + 100}개)에 도달하여 작업을 중단했습니다."
        f" (AURA_RUN_TOKENS is {FIRST + 100}: 90 are spent, and the next model turn needs about {needed})"
    )
    assert [(record.source, record.dest) for record in run.checkpoint.path[-2:]] == [
        (State.TOOL, State.PLANNING),
        (State.PLANNING, State.FAILED),
    ]
    assert run.outcomes() == ["executing", "completed"]
    (end,) = of_type(End, run.last_events)
    assert end.usage == {"promptTokens": 89, "completionTokens": 1, "totalTokens": 90}


def test_attempt_above_the_budget_is_not_made() -> None:
    run = Run(tokens=2 * FIRST)
    run.apply(ModelFailed("unavailable", "503"))
    assert isinstance(run.effect, CallModel)
    run.apply(ModelFailed("unavailable", "503"), at=1)
    assert f"{2 * FIRST} are spent" in out_of_tokens(run)
    assert [turn.outcome for turn in run.checkpoint.model_turns] == ["failed", "failed"]


def test_crashes_use_up_the_budget() -> None:
    run = Run(tokens=2 * FIRST)
    assert isinstance(run.apply(RunRecovered()), CallModel)
    run.apply(RunRecovered())
    out_of_tokens(run)
    assert [turn.outcome for turn in run.checkpoint.model_turns] == ["lost", "lost"]


def test_crash_in_the_middle_of_an_answer_can_end_the_run() -> None:
    run = Run(tokens=2 * FIRST)
    run.apply(AnswerArrived("답"))
    run.apply(RunRecovered("답"))
    out_of_tokens(run)
    assert run.checkpoint.path[-1].source is State.CONTENT


def test_report_above_the_budget_does_not_spoil_a_finished_answer() -> None:
    run = Run(tokens=FIRST)
    run.apply(AnswerFinished("끝", "끝", usage(10 * FIRST)))
    assert run.state is State.DONE
    assert tokens(run) == (10 * FIRST, 0)


def test_run_without_a_budget_counts_all_the_same() -> None:
    run = Run()
    run.request_tools(safe(), usage=usage(1_000_000))
    run.finish_call()
    assert isinstance(run.effect, CallModel)
    assert run.checkpoint.spent_tokens == 1_000_000


# --- the record of a turn ---------------------------------------------------------------------------------------------


def test_record_of_a_turn_names_the_model_that_answered() -> None:
    run = Run()
    run.apply(ModelFailed("unavailable", "503"))
    run.apply(ModelFailed("interrupted", "cut", source=SOURCE), at=1)
    run.request_tools(safe(), source=ModelSource("large-model", "origin-2"))
    run.finish_call()
    run.apply(AnswerFinished("끝", "끝", source=SOURCE), at=4)
    assert [turn.model for turn in run.checkpoint.model_turns] == [None, "small-model", "large-model", "small-model"]


def test_saved_turn_is_settled_like_the_one_in_memory() -> None:
    run = Run(tokens=4 * FIRST, completion_tokens=FIRST)
    loaded = type(run.checkpoint).from_json(run.checkpoint.to_json())
    after = advance(loaded, RunRecovered(), NOW + 1).checkpoint
    assert (after.spent_tokens, after.reserved_tokens) == (2 * FIRST, 2 * FIRST)
