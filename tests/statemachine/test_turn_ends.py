"""How a model turn ended: whole, capped, filtered or cut."""

from __future__ import annotations

import pytest

from statemachine.call_pieces import CallPiece
from statemachine.checkpoint import Usage
from statemachine.messages import AnswerArrived, ModelFailed, ModelSource, ThoughtArrived
from statemachine.turn import AnswerCompleted, ModelDelta, TurnBuffer
from tests.statemachine.test_turn import CALL, TOOLS, answered, ended, turn_of

USAGE = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
SOURCE = ModelSource("m", "origin")


def test_completed_answer_contains_the_text_not_taken_yet() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
    turn = turn_of("가")
    turn.take_facts(1)
    turn.add_delta(ModelDelta(text="나", finish_reason="stop"), 1)
    turn.add_delta(ModelDelta(usage=usage), 1)
    assert turn.finish() == ([], AnswerCompleted("가나", "나", usage))


@pytest.mark.parametrize(
    ("reason", "failure", "words"),
    [
        (None, "interrupted", "without a finish_reason"),
        ("length", "truncated", "token limit"),
        ("content_filter", "truncated", "content filter"),
        ("error", "interrupted", "'error'"),
        ("insufficient_system_resource", "interrupted", "'insufficient_system_resource'"),
    ],
)
def test_turn_without_its_proper_end_is_a_failure(reason: str | None, failure: str, words: str) -> None:
    turn = turn_of("가", "나")
    turn.take_facts(1)
    turn.add_delta(ModelDelta(calls=CALL, finish_reason=reason, usage=USAGE, source=SOURCE), 1)
    facts, end = turn.finish()
    assert facts == []
    assert isinstance(end, ModelFailed)
    assert (end.failure, end.streamed, end.usage, end.source) == (failure, "가나", USAGE, SOURCE)
    assert words in end.message


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_capped_turn_keeps_the_text_that_there_is(reason: str) -> None:
    turn = turn_of("가")
    turn.take_facts(1)
    turn.add_delta(ModelDelta(text="나", reasoning="생각", finish_reason=reason), 1)
    facts, end = turn.finish()
    assert facts == [ThoughtArrived("생각"), AnswerArrived("나")]
    assert isinstance(end, ModelFailed)
    assert end.streamed == "가나"
    assert ended(turn_of(" "), reason).finish()[0] == []


def test_text_of_a_capped_turn_with_calls_stays_a_thought() -> None:
    turn = turn_of("찾아볼게요.")
    turn.add_delta(ModelDelta(calls=CALL, finish_reason="length"), 0)
    facts, end = turn.finish()
    assert facts == [ThoughtArrived("찾아볼게요.", "planning")]
    assert isinstance(end, ModelFailed)
    assert end.streamed == ""


def test_cut_turn_shows_nothing_more_because_it_is_requested_again() -> None:
    assert ended(turn_of("가"), "network_error").finish()[0] == []


def test_first_finish_reason_counts() -> None:
    turn = ended(ended(turn_of("답")), "length")
    assert turn.finish()[1] == AnswerCompleted("답", "답", None)


def test_thought_in_tags_is_no_part_of_the_answer() -> None:
    turn = turn_of("<th", "ink>비밀 ", "계획</think>\n\n안녕", now=0)
    assert turn.take_facts(1) == [ThoughtArrived("비밀 계획"), AnswerArrived("안녕")]
    assert answered(turn) == AnswerCompleted("안녕", "", None)


def test_fields_of_the_provider_are_kept_with_the_turn() -> None:
    turn = turn_of("답")
    turn.add_delta(ModelDelta(extras={"reasoning_content": "a\ud83d"}), 0)
    turn.add_delta(ModelDelta(extras={"reasoning_content": "\ude00"}), 0)
    assert answered(turn).extras == {"reasoning_content": "a😀"}


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "EOS"])
@pytest.mark.parametrize("text", ["", " \n"])
def test_empty_answer_is_a_failure(reason: str, text: str) -> None:
    turn = turn_of(text)
    turn.add_delta(ModelDelta(reasoning="hm", finish_reason=reason), 0)
    _, end = turn.finish()
    assert end == ModelFailed("interrupted", "the model answered nothing", "")


def test_finish_reason_tool_calls_without_calls_is_an_answer() -> None:
    assert ended(turn_of("답"), "tool_calls").finish()[1] == AnswerCompleted("답", "답", None)


def test_turn_over_its_size_limit_is_detected() -> None:
    turn = TurnBuffer(tool_names=TOOLS)
    turn.add_delta(
        ModelDelta(text="x" * 400_000, reasoning="y" * 400_000, calls=(CallPiece(0, arguments="z" * 200_000),)), 0
    )
    assert not turn.is_too_long
    turn.add_delta(ModelDelta(text="x"), 0)
    assert turn.is_too_long


def test_pieces_of_calls_without_arguments_end_the_turn() -> None:
    """A model server may send them without end."""
    turn = TurnBuffer(tool_names=TOOLS)
    turn.add_delta(ModelDelta(calls=(CallPiece(0, arguments=""),) * 60_000), 0)
    assert not turn.is_too_long
    turn.add_delta(ModelDelta(calls=(CallPiece(0, arguments=""),) * 10_000), 0)
    assert turn.is_too_long
