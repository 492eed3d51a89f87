"""Buffering of a model turn: thoughts, the answer, calls, continuation, and how the turn ended."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.call import Confidence
from statemachine.call_pieces import CallPiece, RawCall
from statemachine.messages import AnswerArrived, ThoughtArrived
from statemachine.turn import (
    MAX_HOLD_CHUNKS,
    MAX_HOLD_SECONDS,
    AnswerCompleted,
    ModelDelta,
    ToolCallsCompleted,
    TurnBuffer,
)

CALL = (CallPiece(0, "c1", "search", "{}"),)
TOOLS = frozenset({"search", "one", "two"})
LONG = "어제 받은 메일은 모두 세 통이며, 그중 두 통은 회의에 관한 것입니다. "


def turn_of(*texts: str, streamed: str = "", now: float = 0) -> TurnBuffer:
    turn = TurnBuffer(streamed=streamed, tool_names=TOOLS)
    for text in texts:
        turn.add_delta(ModelDelta(text=text), now)
    return turn


def ended(turn: TurnBuffer, reason: str | None = "stop") -> TurnBuffer:
    turn.add_delta(ModelDelta(finish_reason=reason), 0)
    return turn


def answered(turn: TurnBuffer) -> AnswerCompleted:
    _, end = ended(turn).finish()
    assert isinstance(end, AnswerCompleted)
    return end


# --- held text --------------------------------------------------------------------------------------------------------


def test_text_is_held_for_a_quarter_of_a_second_from_its_first_piece() -> None:
    assert MAX_HOLD_SECONDS == 0.25
    turn = turn_of("안녕", now=10)
    turn.add_delta(ModelDelta(text="하세요"), 10.2)
    assert turn.release_at == 10.25
    assert turn.take_facts(10.249) == []
    assert turn.take_facts(10.25) == [AnswerArrived("안녕하세요")]
    assert turn.release_at is None
    assert turn.streamed == "안녕하세요"


def test_text_is_released_at_its_64th_piece() -> None:
    assert MAX_HOLD_CHUNKS == 64
    turn = turn_of(*"x" * 63)
    assert turn.take_facts(0) == []
    turn.add_delta(ModelDelta(text="x"), 0)
    assert turn.take_facts(0) == [AnswerArrived("x" * 64)]


def test_call_and_end_are_urgent_and_text_is_not() -> None:
    assert not turn_of("안녕").is_urgent
    assert ended(turn_of("안녕")).is_urgent
    calling = turn_of("찾아볼게요.")
    calling.add_delta(ModelDelta(calls=CALL), 0)
    assert calling.is_urgent


def test_text_of_a_begun_answer_is_not_held() -> None:
    turn = turn_of("가")
    turn.take_facts(1)
    turn.add_delta(ModelDelta(text="나"), 1)
    assert turn.take_facts(1) == [AnswerArrived("나")]
    assert turn.take_facts(1) == []


def test_text_is_not_held_without_tools() -> None:
    turn = TurnBuffer()
    turn.add_delta(ModelDelta(text="가"), 0)
    assert turn.take_facts(0) == [AnswerArrived("가")]


def test_blank_text_alone_does_not_begin_an_answer() -> None:
    turn = turn_of("\n\n")
    assert turn.release_at is None
    assert turn.take_facts(100) == []
    turn.add_delta(ModelDelta(calls=CALL, finish_reason="tool_calls"), 100)
    assert turn.take_facts(100) == []
    facts, end = turn.finish()
    assert facts == []
    assert isinstance(end, ToolCallsCompleted)


def test_many_blank_pieces_do_not_begin_an_answer() -> None:
    assert turn_of(*"\n" * 100).take_facts(100) == []


# --- text beside calls ------------------------------------------------------------------------------------------------


def test_text_before_a_call_is_a_thought() -> None:
    turn = turn_of("찾아보겠습니다.")
    turn.add_delta(ModelDelta(calls=CALL), 0)
    assert turn.release_at is None
    assert turn.take_facts(0) == [ThoughtArrived("찾아보겠습니다.", "planning")]
    turn.add_delta(ModelDelta(text=" 잠시만요.", finish_reason="tool_calls"), 0)
    facts, end = turn.finish()
    assert facts == [ThoughtArrived(" 잠시만요.", "planning")]
    assert end == ToolCallsCompleted(
        (RawCall("c1", "search", "{}"),), "찾아보겠습니다. 잠시만요.", None, Confidence.UNKNOWN
    )
    assert turn.streamed == ""


def test_text_stays_an_answer_if_a_call_follows_the_begun_answer() -> None:
    turn = turn_of("가나")
    turn.take_facts(1)
    turn.add_delta(ModelDelta(text="다", calls=CALL, finish_reason="tool_calls"), 1)
    facts, end = turn.finish()
    assert facts == [AnswerArrived("다")]
    assert isinstance(end, ToolCallsCompleted)
    assert end.text == turn.streamed == "가나다"


def test_call_after_a_taken_answer_adds_no_facts() -> None:
    turn = turn_of("가나")
    turn.take_facts(1)
    turn.add_delta(ModelDelta(calls=CALL, finish_reason="tool_calls"), 1)
    assert turn.finish()[0] == []


def test_call_after_a_continued_answer_has_the_whole_text() -> None:
    turn = turn_of(" 그리고 나서", streamed="먼저 읽습니다.")
    turn.add_delta(ModelDelta(calls=CALL, finish_reason="tool_calls"), 0)
    facts, end = turn.finish()
    assert facts == [AnswerArrived(" 그리고 나서")]
    assert isinstance(end, ToolCallsCompleted)
    assert end.text == "먼저 읽습니다. 그리고 나서"


def test_repetition_before_a_call_adds_no_facts() -> None:
    turn = turn_of(LONG, streamed=LONG)
    turn.add_delta(ModelDelta(calls=CALL, finish_reason="tool_calls"), 0)
    assert turn.finish()[0] == []


def test_pieces_of_calls_are_joined_at_the_end_of_the_turn() -> None:
    turn = TurnBuffer(tool_names=TOOLS)
    turn.add_delta(ModelDelta(calls=(CallPiece(0, "a", "one", "{}"), CallPiece(1, "b", "two", '{"x"'))), 0)
    turn.add_delta(ModelDelta(calls=(CallPiece(1, "", "", ":1}"),), finish_reason="tool_calls"), 0)
    _, end = turn.finish()
    assert isinstance(end, ToolCallsCompleted)
    assert end.calls == (RawCall("a", "one", "{}"), RawCall("b", "two", '{"x":1}'))


# --- reasoning --------------------------------------------------------------------------------------------------------


def test_reasoning_is_taken_in_whole_paragraphs() -> None:
    turn = TurnBuffer(tool_names=TOOLS)
    turn.add_delta(ModelDelta(reasoning="하나.\n\n둘"), 0)
    assert turn.take_facts(0) == [ThoughtArrived("하나.\n\n")]
    turn.add_delta(ModelDelta(reasoning=" 셋"), 0)
    assert turn.take_facts(0) == []
    turn.add_delta(ModelDelta(text="답"), 0)
    assert turn.take_facts(0) == [ThoughtArrived("둘 셋")]


def test_long_paragraph_is_taken_before_its_end() -> None:
    turn = TurnBuffer(tool_names=TOOLS)
    turn.add_delta(ModelDelta(reasoning="가" * 600), 0)
    assert turn.take_facts(0) == [ThoughtArrived("가" * 600)]


def test_rest_of_the_reasoning_is_returned_at_the_end() -> None:
    turn = TurnBuffer(tool_names=TOOLS)
    turn.add_delta(ModelDelta(reasoning="생각", text="답"), 0)
    facts, end = ended(turn).finish()
    assert facts == [ThoughtArrived("생각")]
    assert end == AnswerCompleted("답", "답", None)


def test_blank_reasoning_is_not_a_thought() -> None:
    turn = TurnBuffer(tool_names=TOOLS)
    turn.add_delta(ModelDelta(reasoning="\n\n", text="답"), 0)
    assert turn.take_facts(0) == []


# --- surrogate pairs --------------------------------------------------------------------------------------------------


def test_surrogate_pair_sent_in_two_pieces_is_joined() -> None:
    turn = turn_of("a\ud83d")
    assert turn.take_facts(1) == [AnswerArrived("a")]
    assert turn.take_facts(1) == []
    turn.add_delta(ModelDelta(text="\ude00b"), 1)
    assert turn.take_facts(1) == [AnswerArrived("😀b")]
    assert answered(turn).text == "a😀b"


def test_single_surrogate_is_replaced() -> None:
    turn = turn_of("a\ud83d")
    turn.take_facts(1)
    assert answered(turn) == AnswerCompleted("a\ufffd", "\ufffd", None)


def test_surrogate_pairs_are_joined_in_thoughts() -> None:
    turn = TurnBuffer(tool_names=TOOLS)
    turn.add_delta(ModelDelta(reasoning="가" * 600 + "\ud83d"), 0)
    assert turn.take_facts(0) == [ThoughtArrived("가" * 600)]
    turn.add_delta(ModelDelta(reasoning="\ude00", text="a\ud83d", calls=CALL), 0)
    assert turn.take_facts(0) == [ThoughtArrived("😀"), ThoughtArrived("a", "planning")]
    turn.add_delta(ModelDelta(text="\ude00", finish_reason="tool_calls"), 0)
    assert turn.finish()[0] == [ThoughtArrived("😀", "planning")]


def test_surrogate_pairs_are_joined_in_calls() -> None:
    turn = TurnBuffer(tool_names=TOOLS)
    turn.add_delta(ModelDelta(calls=(CallPiece(0, "c\udc00", "n", '{"a":"\ud83d'),)), 0)
    turn.add_delta(ModelDelta(calls=(CallPiece(0, arguments='\ude00"}'),), finish_reason="tool_calls"), 0)
    _, end = turn.finish()
    assert isinstance(end, ToolCallsCompleted)
    assert end.calls == (RawCall("c\ufffd", "n", '{"a":"😀"}'),)


# --- continuing an answer ---------------------------------------------------------------------------------------------


def joined(streamed: str, *texts: str) -> str:
    """Return the text that clients have at the end."""
    turn, received = TurnBuffer(streamed=streamed, tool_names=TOOLS), streamed
    for text in texts:
        turn.add_delta(ModelDelta(text=text), 0)
        received += "".join(fact.text for fact in turn.take_facts(0) if isinstance(fact, AnswerArrived))
    end = answered(turn)
    assert end.text == received + end.rest
    return end.text


def test_exact_continuation_is_kept() -> None:
    assert joined("오늘은 ", "날씨가 ", "좋습니다.") == "오늘은 날씨가 좋습니다."


def test_restart_from_the_beginning_is_dropped() -> None:
    assert joined(LONG, LONG[:10], LONG[10:] + "나머지는 광고입니다.") == LONG + "나머지는 광고입니다."


def test_text_that_begins_like_the_whole_answer_counts_as_a_restart() -> None:
    assert joined("하", "하하") == "하하"


def test_repetition_of_the_end_is_dropped() -> None:
    assert joined(LONG, LONG[-20:] + "나머지는 광고입니다.") == LONG + "나머지는 광고입니다."
    assert joined(LONG, LONG[-20:-5], LONG[-5:], "나머지는 광고입니다.") == LONG + "나머지는 광고입니다."


def test_short_accidental_overlap_is_kept() -> None:
    assert joined("아주 아주", " 좋습니다") == "아주 아주 좋습니다"
    assert joined("그는 말했다. 그는", "그는 갔다") == "그는 말했다. 그는그는 갔다"


def test_short_last_piece_that_occurs_by_chance_is_kept() -> None:
    assert joined("1. 사과 2. 배 3.", " 배") == "1. 사과 2. 배 3. 배"


def test_long_last_piece_that_repeats_the_end_is_dropped() -> None:
    assert joined(LONG, LONG[-25:]) == LONG


@pytest.mark.parametrize("end", ["", "합계 | 4 |\n"])
def test_equal_row_of_a_table_is_not_a_repetition(end: str) -> None:
    rows = ["| 서울 | 1 | 가나다라 |\n", "| 부산 | 0 | 가나다라 |\n"]
    assert joined("".join(rows), rows[0], end) == "".join(rows) + rows[0] + end
    assert joined("".join(rows), rows[0][:9], rows[0][9:] + "끝", end) == "".join(rows) + rows[0] + "끝" + end


def test_repeated_end_is_dropped_if_earlier_text_follows_it() -> None:
    end, before = "마지막 줄은 이렇게 끝납니다.\n", "처음 줄은 이렇게 시작합니다.\n"
    assert joined(end + before + end, end, before) == end + before + end + before


def test_empty_continuation_keeps_the_answer() -> None:
    assert joined(LONG) == LONG


@settings(max_examples=60, deadline=None)
@given(st.text("가나다라마바사 abc.\n😀", max_size=200), st.integers(0, 200), st.integers(1, 9))
def test_restart_never_duplicates_or_loses_a_character(text: str, cut: int, size: int) -> None:
    streamed = text[:cut]
    whole = text + "끝."
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert joined(streamed, *pieces) == whole


# --- confidence -------------------------------------------------------------------------------------------------------


def confidence(*deltas: ModelDelta) -> Confidence:
    turn = TurnBuffer(tool_names=TOOLS)
    for delta in deltas:
        turn.add_delta(delta, 0)
    turn.add_delta(ModelDelta(calls=CALL, finish_reason="tool_calls"), 0)
    _, end = turn.finish()
    assert isinstance(end, ToolCallsCompleted)
    return end.confidence


def test_confidence_is_the_mean_probability_of_the_tokens() -> None:
    mean = confidence(
        ModelDelta(logprob_sum=math.log(0.5), logprob_count=1), ModelDelta(logprob_sum=0, logprob_count=1)
    )
    assert mean == Confidence(value=round(math.sqrt(0.5), 4), source="logprobs")


def test_confidence_of_nan_is_unknown() -> None:
    assert confidence(ModelDelta(logprob_sum=math.nan, logprob_count=1)) == Confidence.UNKNOWN


def test_confidence_without_log_probabilities_is_unknown() -> None:
    assert confidence() == Confidence(value=0.5, source="none")


@pytest.mark.parametrize(("logprob", "value"), [(5.0, 1.0), (-math.inf, 0.0), (-9999.0, 0.0)])
def test_invalid_log_probabilities_are_clamped_to_0_and_1(logprob: float, value: float) -> None:
    assert confidence(ModelDelta(logprob_sum=logprob, logprob_count=1)).value == value
