"""The history of a thread: the newest run always, shortened where it must be; older ones whole; always valid."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from statemachine.checkpoint import Checkpoint
from statemachine.messages import AnswerArrived, AnswerFinished, CancelRequested, InternalErrorOccurred
from statemachine.prompt import History, conversation, history
from statemachine.shortening import cut_middle, shorten, size_in_bytes
from statemachine.stored import JsonObject, canonical_json
from tests.statemachine.runs import Run, check_history, risky, safe


def answered(answer: str, prompt: str = "질문", result: str = "ok", arguments: JsonObject | None = None) -> Checkpoint:
    """Return a run with one tool call."""
    run = Run(prompt)
    run.request_tools(safe(arguments=arguments or {}, raw_arguments=canonical_json(arguments or {})))
    run.finish_call(answer=result)
    run.apply(AnswerFinished(answer, answer))
    return run.checkpoint


def chat(answer: str) -> Checkpoint:
    """Return a run without a tool call."""
    run = Run("질문")
    run.apply(AnswerFinished(answer, answer))
    return run.checkpoint


def roles(messages: Iterable[JsonObject]) -> list[str]:
    return [message["role"] for message in messages]


def check_strictly(earlier: History) -> None:
    """Check what the strictest servers require of a conversation with this history."""
    messages = conversation("그리고?", {}, earlier)
    previous = ""
    for message in messages:
        assert (message["role"], previous) not in {("assistant", "assistant"), ("user", "user"), ("user", "tool")}
        previous = message["role"]
        for call in message.get("tool_calls", ()):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
    assert "system" not in roles(messages[1:])
    # each run has the same call ids in these tests, so the runs are checked one by one
    starts = [index for index, message in enumerate(messages) if message["role"] == "user"]
    for start, end in zip(starts, [*starts[1:], len(messages)], strict=True):
        check_history(messages[start:end], finished=True)


def test_history_contains_ended_runs_oldest_first_without_system_prompts() -> None:
    earlier = history([answered("하나"), answered("둘")], 10_000)
    assert roles(earlier.messages) == ["user", "assistant", "tool", "assistant"] * 2
    assert [earlier.messages[3]["content"], earlier.messages[7]["content"]] == ["하나", "둘"]
    assert (earlier.omitted_turns, earlier.is_shortened) == (0, False)
    check_strictly(earlier)


def test_history_of_a_run_with_a_history_is_its_own_part() -> None:
    run = Run("둘째", history([chat("하나")], 10_000))
    run.apply(AnswerFinished("둘", "둘"))
    assert run.checkpoint.history_messages == 2
    earlier = history([run.checkpoint], 10_000)
    assert [message["content"] for message in earlier.messages] == ["둘째", "둘"]


def test_no_runs_have_no_history() -> None:
    assert history([], 10_000) == History()


# --- runs without an answer -------------------------------------------------------------------------------------------


def test_history_mentions_a_run_without_an_answer() -> None:
    run = Run()
    run.apply(AnswerArrived("안"))
    run.apply(InternalErrorOccurred("고장"))
    earlier = history([run.checkpoint], 10_000)
    note = {"role": "assistant", "content": "(This request ended without an answer: 고장)"}
    assert earlier.messages == (run.checkpoint.messages[-1], note)


def test_run_that_was_cancelled_while_it_waited_is_mentioned_after_its_calls() -> None:
    run = Run()
    run.request_tools(safe("a"), risky("b"))
    run.finish_call("a")
    run.apply(CancelRequested("boss"))
    earlier = history([run.checkpoint], 10_000)
    assert roles(earlier.messages) == ["user", "assistant", "tool", "tool", "assistant"]
    check_strictly(earlier)


@pytest.mark.parametrize(("content", "expected"), [("절반", "절반\n\n(This"), ("", "(This"), (None, "(This")])
def test_note_about_a_missing_answer_joins_the_text_that_was_streamed(content: str | None, expected: str) -> None:
    run = Run()
    run.apply(InternalErrorOccurred("고장"))
    partial = {"role": "assistant", "content": content, "provider_fields": {"origin": "o"}}
    stored = replace(run.checkpoint, messages=[*run.checkpoint.messages, partial])
    earlier = history([stored], 10_000)
    assert roles(earlier.messages) == ["user", "assistant"]
    assert earlier.messages[1]["content"].startswith(expected)
    assert earlier.messages[1]["provider_fields"] == {"origin": "o"}
    check_strictly(earlier)


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_older_runs_that_do_not_fit_are_left_out_as_a_whole() -> None:
    runs = [chat("짧은 답"), chat("긴 답변 " * 500), answered("새 답변")]
    earlier = history(runs, 300)
    assert roles(earlier.messages) == ["user", "assistant", "tool", "assistant"]
    assert earlier.messages[-1]["content"] == "새 답변"
    assert (earlier.omitted_turns, earlier.is_shortened) == (2, False)
    check_strictly(earlier)


def test_runs_that_were_not_loaded_are_left_out_too() -> None:
    assert history([chat("답")], 10_000, not_loaded=7).omitted_turns == 7


def test_without_any_tokens_all_runs_are_left_out() -> None:
    assert history([chat("하나"), chat("둘")], 0, not_loaded=1) == History((), 3)


def test_long_answer_of_the_newest_run_is_cut_in_its_middle() -> None:
    text = "처음 " + "중간 " * 10_000 + "끝"
    earlier = history([chat("이전"), chat(text)], 1000)
    question, answer = earlier.messages
    assert question["content"] == "질문"
    assert answer["content"].startswith("처음 중간")
    assert answer["content"].endswith("중간 끝")
    head, _, rest = answer["content"].partition("[… ")
    left_out, _, tail = rest.partition(" characters left out …]")
    assert len(head) + int(left_out.replace(",", "")) + len(tail) == len(text)
    assert "," in left_out
    assert (earlier.omitted_turns, earlier.is_shortened) == (1, True)
    assert 2900 < size_in_bytes(earlier.messages) <= 3000


def test_short_texts_of_a_shortened_run_stay_whole() -> None:
    arguments = {"to": "lee", "body": "긴 글 " * 3000, "copies": 2}
    run = answered("답은 이것입니다.", "메모를 써 줘", "기록 " * 3000, arguments)
    earlier = history([run], 2000)
    question, request, result, answer = earlier.messages
    assert (question["content"], answer["content"]) == ("메모를 써 줘", "답은 이것입니다.")
    cut = json.loads(request["tool_calls"][0]["function"]["arguments"])
    assert (cut["to"], cut["copies"]) == ("lee", 2)
    assert "characters left out" in cut["body"]
    assert "characters left out" in result["content"]
    assert 5500 < size_in_bytes(earlier.messages) <= 6000
    check_strictly(earlier)


def test_run_with_too_many_tool_calls_keeps_its_prompt_and_its_answer() -> None:
    run = Run("긴 질문 " * 50, calls_per_turn=50)
    run.request_tools(*(safe(f"c{n}") for n in range(50)))
    for n in range(50):
        run.finish_call(f"c{n}", answer="결과 " * 500)
    run.apply(AnswerFinished("답 " * 2000, "답 " * 2000))
    earlier = history([run.checkpoint], 1000)
    assert roles(earlier.messages) == ["user", "assistant"]
    assert earlier.messages[0]["content"] == "긴 질문 " * 50
    assert "characters left out" in earlier.messages[1]["content"]
    assert "tool_calls" not in earlier.messages[1]
    assert size_in_bytes(earlier.messages) <= 3000
    check_strictly(earlier)


def test_something_of_the_newest_run_is_left_however_few_tokens_there_are() -> None:
    earlier = history([chat("답 " * 1000)], 1)
    assert earlier.messages[0]["content"] == "질문"
    assert earlier.messages[1]["content"] == "답 " * 10 + "[… 1,960 characters left out …]" + "답 " * 10
    assert earlier.is_shortened


def test_provider_fields_stay_with_their_message_and_are_not_counted() -> None:
    fields = {"origin": "o", "message": {"reasoning_content": "x" * 10_000}}
    run = chat("답")
    stored = replace(run, messages=[*run.messages[:-1], {**run.messages[-1], "provider_fields": fields}])
    assert history([stored], 100).messages[-1] == {**run.messages[-1], "provider_fields": fields}
    long = replace(run, messages=[*run.messages[:-1], {**stored.messages[-1], "content": "답 " * 9999}])
    assert history([long], 100).messages[-1]["provider_fields"] == fields


# --- texts and arguments ----------------------------------------------------------------------------------------------


def test_text_is_not_cut_where_the_mark_would_be_as_long_as_what_it_replaces() -> None:
    assert cut_middle("x" * 48, 20) == "x" * 48
    assert cut_middle("x" * 60, 20) == "x" * 10 + "[… 40 characters left out …]" + "x" * 10
    assert cut_middle("abc" * 20, 1) == "a[… 59 characters left out …]"


@pytest.mark.parametrize(
    "arguments",
    [
        '{"text":"' + "x" * 5000 + '"}',
        json.dumps({f"key {n}": "value" for n in range(500)}),
        json.dumps({"rows": list(range(2000)), "name": "n"}),
        json.dumps({"k" * 5000: 1}),
        json.dumps(["not an object"] * 500),
        json.dumps({"quoted": '"' * 5000}),
        "not JSON " * 500,
        "[" * 50_000,
        json.dumps({"huge": "x" * 70_000}),
        "{" + " " * 5000 + "}",
    ],
)
def test_arguments_of_any_kind_become_a_shorter_object(arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}, "extra": 1}
    messages: list[JsonObject] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
        {"role": "assistant", "content": "a"},
    ]
    shortened = shorten(messages, 1200)
    assert roles(shortened) == roles(messages)
    assert size_in_bytes(shortened) <= 1200
    (cut,) = shortened[1]["tool_calls"]
    value = json.loads(cut["function"]["arguments"])
    assert isinstance(value, dict)
    assert "left out" in json.dumps(value)
    assert (cut["id"], cut["extra"], shortened[1]["content"]) == ("c1", 1, None)
    assert messages[1]["tool_calls"] == [call], "the messages of the earlier run are not changed"


VALUES = st.recursive(st.integers() | st.text(max_size=300), lambda inner: st.lists(inner, max_size=5), max_leaves=20)
TEXTS = st.builds(lambda text, times: text * times, st.text(min_size=1), st.integers(1, 300))
RUNS = st.builds(answered, TEXTS, TEXTS, TEXTS, st.dictionaries(st.text(max_size=30), VALUES, max_size=8))


@settings(max_examples=40, deadline=None)
@given(st.lists(RUNS, max_size=4), st.integers(1, 3000))
def test_any_history_is_valid_fits_and_holds_the_newest_run(runs: list[Checkpoint], max_tokens: int) -> None:
    earlier = history(runs, max_tokens)
    check_strictly(earlier)
    kept = roles(earlier.messages).count("user")
    assert earlier.omitted_turns == len(runs) - kept
    assert kept >= bool(runs)
    assert size_in_bytes(earlier.messages) <= max(max_tokens * 3, 500)
    if earlier.is_shortened:
        assert kept == 1
    else:
        start = len(runs) - kept
        assert list(earlier.messages) == [m for run in runs[start:] for m in run.messages[1:]]
