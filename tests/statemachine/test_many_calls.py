"""A turn that asks for many calls: some are considered, the others are refused in words, and it costs little."""

from __future__ import annotations

import pytest

from statemachine.call import CallStatus
from statemachine.call_pieces import CallPiece, join_calls
from statemachine.checkpoint import PlanStep
from statemachine.events import Thought
from statemachine.ledger import get_call
from statemachine.messages import AwaitDecision, CallModel, RunRecovered, RunTools, ToolsRequested
from statemachine.states import State
from statemachine.step_builder import StepBuilder
from tests.statemachine.runs import NOW, Run, of_type, risky, safe


def test_calls_beyond_the_limit_of_a_turn_are_refused_in_words_each_with_a_tool_message() -> None:
    run = Run(calls_per_turn=2)
    effect = run.request_tools(*(safe(f"c{n}", raw_arguments='{"a":1}') for n in range(5)))
    assert isinstance(effect, RunTools)
    assert [call.id for call in run.checkpoint.calls] == ["c0", "c1"]
    assert list(run.model_answers) == ["c2", "c3", "c4"]
    assert all("one turn may ask for 2 tool calls, and this one asked for 5" in it for it in run.model_answers.values())
    asked = next(message for message in run.checkpoint.messages if "tool_calls" in message)["tool_calls"]
    assert [call["function"]["arguments"] for call in asked] == ['{"a":1}', '{"a":1}', "{}", "{}", "{}"]
    (thought,) = of_type(Thought, run.last_events)
    assert "도구 호출 5개" in thought.content
    run.finish_call("c0")
    assert isinstance(run.finish_call("c1"), CallModel)


def test_a_turn_with_4000_calls_leaves_a_small_conversation() -> None:
    run = Run()
    run.request_tools(*(safe(f"c{n}") for n in range(4000)))
    asked = next(message for message in run.checkpoint.messages if "tool_calls" in message)["tool_calls"]
    assert len(run.checkpoint.running) == 32
    assert (len(asked), len(run.model_answers)) == (128, 96)
    assert len(run.checkpoint.to_json()) < 100_000
    assert len(run.last_events) < 5 * 32


def test_a_message_holds_128_calls_whatever_the_limit_is_and_the_last_of_them_is_refused_in_words() -> None:
    run = Run(calls_per_turn=1000)
    run.request_tools(*(safe(f"c{n}") for n in range(130)))
    asked = next(message for message in run.checkpoint.messages if "tool_calls" in message)["tool_calls"]
    assert (len(asked), len(run.checkpoint.running)) == (128, 127)
    assert list(run.model_answers) == ["c127"]
    assert "may ask for 127 tool calls, and this one asked for 130" in run.model_answers["c127"]


def test_a_plan_beyond_the_limit_is_not_followed() -> None:
    run = Run(calls_per_turn=1)
    plan = safe("p", name="update_plan", plan=(PlanStep(id="s1", title="하나"),))
    run.request_tools(safe("a"), plan)
    assert [step.id for step in run.checkpoint.plan] == ["a"]
    assert "Not run" in run.model_answers["p"]


def test_approvals_beyond_the_limit_of_a_run_are_refused_in_words() -> None:
    run = Run(open_approvals=2)
    run.request_tools(*(risky(f"m{n}") for n in range(4)))
    assert [approval.call_id for approval in run.checkpoint.pending_approvals] == ["m0", "m1"]
    assert {id: "at most 2 calls" in text for id, text in run.model_answers.items()} == {"m2": True, "m3": True}
    assert run.outcomes("m3") == ["failed"]
    run.approve()
    run.finish_call("m0")
    assert isinstance(run.approve(), RunTools)
    assert isinstance(run.finish_call("m1"), CallModel)


def test_a_call_with_an_unknown_outcome_asks_a_person_however_many_approvals_are_open() -> None:
    """It may have had its effect: refusing it would hide that."""
    run = Run(open_approvals=1)
    run.request_tools(safe("a", idempotent=False), risky("b"))
    assert isinstance(run.apply(RunRecovered()), AwaitDecision)
    assert [approval.call_id for approval in run.checkpoint.pending_approvals] == ["a", "b"]


def test_calls_that_would_wait_can_be_refused_before_they_are_recorded() -> None:
    """`app/` does so where too many runs of the user wait already."""
    fact = ToolsRequested((safe("a"), risky("b"), risky("c", refusal="There is no such tool.")))
    run = Run()
    assert fact.asks_a_person(run.checkpoint)
    refused = fact.without_approvals(run.checkpoint, "Too many wait.")
    assert not refused.asks_a_person(run.checkpoint)
    assert [call.refusal for call in refused.calls] == [None, "Too many wait.", "There is no such tool."]
    run.apply(refused)
    assert run.state is State.TOOL
    assert run.model_answers["b"] == "Too many wait."
    assert [call.status for call in run.checkpoint.calls] == [CallStatus.STARTED, CallStatus.FAILED, CallStatus.FAILED]


def test_the_lists_of_a_step_are_copied_once() -> None:
    run = Run()
    before = run.checkpoint
    builder = StepBuilder(before, "test", NOW)
    builder.add_message({"role": "user", "content": "x"})
    copy = builder.checkpoint.messages
    builder.add_message({"role": "user", "content": "y"})
    assert builder.checkpoint.messages is copy
    assert (len(before.messages), len(copy)) == (2, 4)
    builder.update(messages=[])
    builder.add_message({"role": "user", "content": "z"})
    assert [message["content"] for message in builder.checkpoint.messages] == ["z"]


def test_an_unknown_call_is_named() -> None:
    with pytest.raises(LookupError, match="no call c9"):
        get_call(StepBuilder(Run().checkpoint, "test", NOW), "c9")


def test_thousands_of_pieces_are_joined_to_their_calls() -> None:
    pieces = [
        piece
        for n in range(2000)
        for piece in (
            CallPiece(n, f"id{n}", "send_email", '{"to":'),
            CallPiece(n, arguments=f'"{n}"'),
            CallPiece(n, arguments="}"),
        )
    ]
    calls = join_calls(pieces, frozenset({"send_email"}))
    assert [call.arguments for call in calls] == [f'{{"to":"{n}"}}' for n in range(2000)]


def test_of_several_calls_with_an_id_the_latest_is_continued() -> None:
    unnumbered = CallPiece(7, "x", arguments="}", is_numbered=False)
    first, second = CallPiece(0, "x", "a", "{"), CallPiece(1, "x", "b", "{")
    assert [call.arguments for call in join_calls([first, second, unnumbered], frozenset())] == ["{", "{}"]
    late = CallPiece(0, "x", arguments="")  # the first call gets its id after the second one has it
    pieces = [CallPiece(0, "", "a", "{"), second, late, unnumbered]
    assert [call.arguments for call in join_calls(pieces, frozenset())] == ["{", "{}"]
