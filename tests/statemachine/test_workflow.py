"""`advance()`: every (state, fact) pair, the model's turn, the tools."""

from __future__ import annotations

from typing import get_args

import pytest

from statemachine.checkpoint import CallStatus, Confidence, Usage
from statemachine.errors import FactRefused
from statemachine.events import (
    Content,
    End,
    ErrorRaised,
    Event,
    PlanStepDeclared,
    PlanStepUpdated,
    Start,
    Thought,
    TimelineStepUpdated,
    ToolExecution,
)
from statemachine.messages import (
    AnswerArrived,
    AnswerFinished,
    ApprovalGranted,
    ApprovalRejected,
    CallModel,
    CancelRequested,
    Continue,
    DeadlinePassed,
    Fact,
    InternalErrorOccurred,
    ModelFailed,
    ModelFailure,
    RunRecovered,
    RunResumed,
    RunTools,
    Step,
    Stop,
    ThoughtArrived,
    ToolFinished,
    ToolsRequested,
)
from statemachine.states import OPEN_STATES, State
from statemachine.workflow import ACCEPTED, advance, advance_all
from tests.statemachine.runs import NOW, Run, in_state, of, risky, safe

# Where each fact leads from each open state, and what is to be done then; `-`: refused. Final states refuse all.
# `asks` is awaiting_approval; early, at 300, late: before, at the deadline of an approval, at the limit of the run.
TABLE = """
fact                   | planning           | tool               | awaiting_approval  | content
ThoughtArrived         | planning Continue  | -                  | -                  | content Continue
AnswerArrived          | content Continue   | -                  | -                  | content Continue
ToolsRequested safe    | tool RunTools      | -                  | -                  | tool RunTools
ToolsRequested risky   | asks AwaitDecision | -                  | -                  | asks AwaitDecision
ToolsRequested refused | planning CallModel | -                  | -                  | planning CallModel
ToolsRequested none    | -                  | -                  | -                  | -
AnswerFinished         | done Stop          | -                  | -                  | done Stop
ModelFailed again      | planning CallModel | -                  | -                  | content CallModel
ModelFailed for good   | failed Stop        | -                  | -                  | failed Stop
ToolFinished           | -                  | planning CallModel | -                  | -
ToolFinished other     | -                  | -                  | -                  | -
ApprovalGranted        | -                  | -                  | tool RunTools      | -
ApprovalGranted other  | -                  | -                  | -                  | -
ApprovalGranted late   | -                  | -                  | -                  | -
ApprovalRejected       | -                  | -                  | rejected Stop      | -
ApprovalRejected skip  | -                  | -                  | planning CallModel | -
ApprovalRejected other | -                  | -                  | -                  | -
ApprovalRejected late  | -                  | -                  | -                  | -
DeadlinePassed early   | -                  | -                  | -                  | -
DeadlinePassed at 300  | -                  | -                  | timed_out Stop     | -
DeadlinePassed late    | failed Stop        | failed Stop        | timed_out Stop     | failed Stop
CancelRequested        | cancelled Stop     | cancelled Stop     | cancelled Stop     | cancelled Stop
InternalErrorOccurred               | failed Stop        | failed Stop        | failed Stop        | failed Stop
RunRecovered           | planning CallModel | tool RunTools      | asks AwaitDecision | content CallModel
RunResumed             | -                  | -                  | asks AwaitDecision | -
"""
EXPECTED = {
    name: dict(zip(OPEN_STATES, cells, strict=True))
    for name, *cells in ([cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()[1:])
}


def the_fact(name: str, open_request: str) -> tuple[Fact, float]:
    """The fact of that name and the seconds after the start at which it is told."""
    facts: dict[str, tuple[Fact, float]] = {
        "ThoughtArrived": (ThoughtArrived("hm"), 1),
        "AnswerArrived": (AnswerArrived("안녕"), 1),
        "ToolsRequested safe": (ToolsRequested((safe("n1"),)), 1),
        "ToolsRequested risky": (ToolsRequested((risky("n1"),)), 1),
        "ToolsRequested refused": (ToolsRequested((safe("n1", refusal="no such tool"),)), 1),
        "ToolsRequested none": (ToolsRequested(()), 1),
        "AnswerFinished": (AnswerFinished("안녕", "안녕"), 1),
        "ModelFailed again": (ModelFailed("unavailable", "503"), 1),
        "ModelFailed for good": (ModelFailed("refused", "401"), 1),
        "ToolFinished": (ToolFinished("c1", "ok"), 1),
        "ToolFinished other": (ToolFinished("c9", "ok"), 1),
        "ApprovalGranted": (ApprovalGranted(open_request, NOW + 1), 1),
        "ApprovalGranted other": (ApprovalGranted("req-other", NOW + 1), 1),
        "ApprovalGranted late": (ApprovalGranted(open_request, NOW + 300), 300),
        "ApprovalRejected": (ApprovalRejected(open_request, NOW + 1), 1),
        "ApprovalRejected skip": (ApprovalRejected(open_request, NOW + 1, skip=True), 1),
        "ApprovalRejected other": (ApprovalRejected("req-other", NOW + 1), 1),
        "ApprovalRejected late": (ApprovalRejected(open_request, NOW + 300), 300),
        "DeadlinePassed early": (DeadlinePassed(), 299.999),
        "DeadlinePassed at 300": (DeadlinePassed(), 300),
        "DeadlinePassed late": (DeadlinePassed(), 3600),
        "CancelRequested": (CancelRequested("user1"), 1),
        "InternalErrorOccurred": (InternalErrorOccurred("broken"), 1),
        "RunRecovered": (RunRecovered(), 1),
        "RunResumed": (RunResumed(), 1),
    }
    return facts[name]


def test_the_table_knows_every_fact() -> None:
    assert {name.split()[0] for name in EXPECTED} == {kind.__name__ for kind in get_args(Fact)}
    assert set(ACCEPTED) == set(get_args(Fact))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", EXPECTED)
def test_every_fact_in_every_state_is_legal_or_refused_by_name(name: str, state: State) -> None:
    run = in_state(state)
    approval = run.checkpoint.open_approval
    fact, at = the_fact(name, approval.request_id if approval else "req-none")
    expected = "-" if state.is_final else EXPECTED[name][state]
    before, saved = run.checkpoint, run.checkpoint.to_json()
    if expected == "-":
        with pytest.raises(FactRefused) as refused:
            advance(before, fact, NOW + at)
        assert (refused.value.fact, refused.value.state) == (type(fact).__name__, state)
        assert str(refused.value).startswith(f"{type(fact).__name__} refused in state '{state}': ")
    else:
        run.tell(fact, at=at)
        assert f"{run.state} {type(run.effect).__name__}" == expected.replace("asks", "awaiting_approval")
    assert before.to_json() == saved, "a checkpoint is never changed in place"


# --- the model's turn -------------------------------------------------------------------------------------------------


def test_a_run_opens_with_start_and_a_thought_before_the_model_is_asked() -> None:
    run = Run()
    start, thought = run.events
    assert isinstance(start, Start)
    assert (start.session_id, start.thread_id, start.state) == (run.checkpoint.session_id, "thread-1", "planning")
    assert thought == Thought(thought_type="analysis", content="사용자의 요청을 분석하고 있습니다...")
    assert run.effect == CallModel(tuple(run.checkpoint.messages))
    assert run.checkpoint.messages[-1] == {"role": "user", "content": "메일을 보내주세요"}


def test_an_answer_streams_and_completes_the_run() -> None:
    run = Run()
    run.tell(AnswerArrived("안녕"))
    run.tell(AnswerArrived("하세"))
    run.tell(AnswerFinished("안녕하세요", "요", Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)))
    pieces = of(Content, run.events)
    assert "".join(piece.content for piece in pieces) == "안녕하세요"
    assert [piece.chunk for piece in pieces] == [True, True, False]
    assert run.checkpoint.messages[-1] == {"role": "assistant", "content": "안녕하세요"}
    counted = {"promptTokens": 1, "completionTokens": 2, "totalTokens": 3}
    assert run.events[-1] == End(message="작업이 완료되었습니다.", status="completed", usage=counted)
    assert run.checkpoint.ending is None


def test_facts_of_one_moment_make_the_step_that_they_make_one_by_one() -> None:
    run = Run()
    run.ask(safe("c1"), safe("c2"))
    facts = [ToolFinished("c1", "ok", {"ok": True}), ToolFinished("c2", "ok", {"ok": True})]
    together = advance_all(run.checkpoint, facts, run.now)
    events: list[Event] = []
    for fact in facts:
        effect = run.tell(fact)
        events += run.last
    assert together == Step(run.checkpoint, tuple(events), effect)


def test_facts_of_one_moment_count_as_far_as_the_first_that_asks_for_more() -> None:
    run = in_state(State.CONTENT)
    assert advance_all(run.checkpoint, [], NOW) == Step(run.checkpoint, (), Continue())
    ending: list[Fact] = [AnswerArrived("!"), CancelRequested("boss")]
    assert advance_all(run.checkpoint, [*ending, AnswerArrived("?")], NOW) == advance_all(run.checkpoint, ending, NOW)


def test_streamed_text_leaves_nothing_to_save() -> None:
    run = in_state(State.CONTENT)
    before = run.checkpoint
    run.tell(AnswerArrived("!"), at=5)
    assert run.checkpoint is before
    run.tell(ThoughtArrived("hm", "reflection"))
    assert run.checkpoint is before
    assert run.last == (Thought(thought_type="reflection", content="hm"),)


def test_what_is_saved_says_when() -> None:
    run = Run()
    run.tell(AnswerArrived("!"), at=5)
    assert run.checkpoint.updated_at == NOW + 5
    assert run.checkpoint.path[-1].at == NOW + 5


def test_a_call_after_the_answer_began_is_legal() -> None:
    run = in_state(State.CONTENT)
    run.ask(safe(), text="안녕")
    assert run.checkpoint.messages[-1]["content"] == "안녕"
    run.finish()
    run.tell(AnswerFinished("끝", "끝"))
    assert [passage.dest for passage in run.checkpoint.path] == ["content", "tool", "planning", "content", "done"]


RETRIED: tuple[ModelFailure, ...] = ("unavailable", "interrupted")


@pytest.mark.parametrize("failure", RETRIED)
def test_a_passing_failure_is_retried_with_growing_pauses_then_ends_the_run(failure: ModelFailure) -> None:
    run = Run(model_attempts=3)
    assert run.tell(ModelFailed(failure, "503")) == CallModel(tuple(run.checkpoint.messages), "", NOW + 0.5)
    assert run.tell(ModelFailed(failure, "503")) == CallModel(tuple(run.checkpoint.messages), "", NOW + 1)
    assert run.checkpoint.retry_at == NOW + 1
    run.tell(ModelFailed(failure, "503"))
    assert of(ErrorRaised, run.last) == [
        ErrorRaised(message="503", error_type="ModelError", error_code="E5000", retryable=True)
    ]


def test_the_provider_says_how_long_to_pause() -> None:
    run = Run()
    run.tell(ModelFailed("unavailable", "429", retry_after_seconds=7))
    assert run.checkpoint.retry_at == NOW + 7


def test_a_pause_longer_than_a_users_patience_ends_the_run() -> None:
    run = Run()
    assert isinstance(run.tell(ModelFailed("unavailable", "429", retry_after_seconds=31)), Stop)


def test_attempts_count_for_each_turn_anew() -> None:
    run = Run(model_attempts=2)
    run.tell(ModelFailed("unavailable", "503"))
    run.ask(safe())
    run.finish()
    assert (run.checkpoint.model_attempt, run.checkpoint.retry_at) == (1, None)
    assert isinstance(run.tell(ModelFailed("unavailable", "503")), CallModel)


def test_a_cut_answer_is_continued_from_what_clients_have() -> None:
    run = in_state(State.CONTENT)
    effect = run.tell(ModelFailed("interrupted", "cut", streamed="안녕"))
    assert isinstance(effect, CallModel)
    assert effect.streamed == "안녕"


FAILURES: list[tuple[ModelFailure, str, str, bool]] = [
    ("not_configured", "LLMNotConfigured", "E5000", False),
    ("refused", "ModelError", "E5000", False),
    ("timeout", "ModelTimeout", "E5001", True),
    ("truncated", "LimitExceeded", "E5000", False),
]


@pytest.mark.parametrize(("failure", "error_type", "code", "retryable"), FAILURES)
def test_a_failure_that_stays_ends_the_run_with_its_cause(
    failure: ModelFailure, error_type: str, code: str, retryable: bool
) -> None:
    run = Run()
    assert isinstance(run.tell(ModelFailed(failure, "the cause")), Stop)
    (error,) = of(ErrorRaised, run.last)
    assert (error.message, error.error_type, error.error_code, error.retryable) == (
        "the cause",
        error_type,
        code,
        retryable,
    )
    assert run.checkpoint.ending is not None
    assert run.checkpoint.ending.error_type == error_type
    assert run.events[-1] == End(message="the cause", status="failed")


# --- tools ------------------------------------------------------------------------------------------------------------


def test_safe_calls_of_a_turn_run_at_the_same_time() -> None:
    run = Run()
    effect = run.ask(safe("a"), safe("b"), text="찾아볼게요", confidence=Confidence(value=0.9, source="logprobs"))
    assert isinstance(effect, RunTools)
    assert [call.id for call in effect.calls] == ["a", "b"]
    assert {call.status for call in effect.calls} == {CallStatus.STARTED}
    assert isinstance(run.finish("b"), Continue)
    assert isinstance(run.finish("a", error="no", result=None), CallModel)
    assert [message["role"] for message in run.checkpoint.messages[-3:]] == ["assistant", "tool", "tool"]
    assert run.outcomes("a") == ["executing", "failed"]
    assert run.outcomes("b") == ["executing", "completed"]
    assert run.checkpoint.calls[0].confidence.source == "logprobs"


def test_what_a_result_rests_on_is_told_as_sources_in_the_same_step() -> None:
    run = Run()
    run.ask(safe("a", title="업무 자료 검색"), safe("b"))
    sources = ({"id": "evt-1", "title": "견적서"}, {"id": "evt-2", "title": "계약서"})
    run.finish("a", sources=sources)
    told = Thought(thought_type="analysis", content="업무 자료 검색: 근거 자료 2건을 찾았습니다.", sources=sources)
    assert run.last[-1] == told
    run.finish("b")
    assert of(Thought, run.last) == []


def test_a_second_outcome_of_a_call_is_refused() -> None:
    run = Run()
    run.ask(safe("a"), safe("b"))
    run.finish("a")
    with pytest.raises(FactRefused, match="call a is not running"):
        run.finish("a")


def test_a_call_that_cannot_run_is_answered_in_the_history_with_wellformed_arguments() -> None:
    run = Run()
    effect = run.ask(safe("a", refusal="There is no tool 'x'.", raw_arguments="{broken"))
    assert isinstance(effect, CallModel)
    assert run.answers == {"a": "There is no tool 'x'."}
    assert run.outcomes("a") == ["failed"]
    (call,) = run.checkpoint.messages[-2]["tool_calls"]
    assert call == {"id": "a", "type": "function", "function": {"name": "get_current_time", "arguments": "{}"}}


def test_a_turn_without_text_has_null_content_beside_its_calls() -> None:
    run = Run()
    run.ask(safe())
    assert run.checkpoint.messages[-1]["content"] is None


@pytest.mark.parametrize(
    "ids",
    [
        ("", ""),
        ("a", "a"),
        ("a", "a", "a-1-1"),
        ("call-1-1", ""),
        ("x" * 129, "x" * 129),
        ("통화", "통화"),
    ],
)
def test_missing_repeated_and_strange_call_ids_become_unique(ids: tuple[str, ...]) -> None:
    run = Run()
    run.ask(*(safe(id) for id in ids))
    made = [call.id for call in run.checkpoint.calls]
    assert len(set(made)) == len(ids)
    assert all(id.isascii() and 0 < len(id) < 160 for id in made)
    for id in made:
        run.finish(id)
    assert run.state is State.PLANNING


def test_ids_that_are_numbered_anew_each_turn_stay_unique() -> None:
    run = Run()
    for turn in (1, 2, 3):
        run.ask(safe("call_0"))
        run.finish(run.checkpoint.running[0].id)
        assert run.checkpoint.turn == turn + 1
    assert [call.id for call in run.checkpoint.calls] == ["call_0", "call_0-2-0", "call_0-3-0"]


def test_usage_is_summed_over_the_turns() -> None:
    run = Run()
    run.ask(safe(), usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3))
    run.finish()
    run.tell(AnswerFinished("x", "x"))
    assert run.checkpoint.usage == Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)


def test_the_turn_limit_ends_the_run_when_the_last_turns_calls_are_answered() -> None:
    run = Run(turns=2)
    run.ask(safe("a"))
    run.finish("a")
    run.ask(safe("b"))
    run.finish("b")
    (error,) = of(ErrorRaised, run.last)
    assert (error.error_type, error.retryable) == ("LimitExceeded", False)
    assert "2회" in error.message
    assert run.state is State.FAILED
    assert run.outcomes("b") == ["executing", "completed"]


def test_the_run_time_limit_ends_the_run_whatever_it_does() -> None:
    run = Run(run_seconds=60)
    run.ask(safe())
    with pytest.raises(FactRefused, match="no deadline has passed"):
        run.tell(DeadlinePassed(), at=59.999)
    run.tell(DeadlinePassed(), at=60)
    (error,) = of(ErrorRaised, run.last)
    assert (error.error_type, error.error_code) == ("LimitExceeded", "E5001")
    assert run.outcomes() == ["executing", "failed"]


def test_every_transition_is_told_with_its_progress() -> None:
    run = Run()
    run.ask(safe("a"), safe("b"))
    run.finish("a")
    run.finish("b")
    run.tell(AnswerFinished("x", "x"))
    told = [(event.step_id, event.title, event.status, event.progress) for event in of(TimelineStepUpdated, run.events)]
    assert told == [
        ("1-tool", "도구 실행", "in_progress", 0.0),
        ("2-planning", "계획 수립", "in_progress", 1.0),
        ("3-content", "답변 작성", "in_progress", 1.0),
        ("4-done", "완료", "completed", 1.0),
    ]


def test_events_of_a_call_stand_in_the_order_they_happened() -> None:
    run = Run()
    run.ask(safe())
    kinds: list[type[Event]] = [type(event) for event in run.last]
    assert kinds == [TimelineStepUpdated, PlanStepDeclared, ToolExecution, PlanStepUpdated]


def test_an_answer_that_goes_on_after_a_tool_begins_a_paragraph() -> None:
    run = Run()
    run.tell(AnswerArrived("확인합니다."))
    run.ask(safe())
    run.finish()
    run.tell(AnswerArrived("결과는"))
    run.tell(AnswerFinished("결과는 좋습니다.", " 좋습니다."))
    assert "".join(event.content for event in of(Content, run.events)) == "확인합니다.\n\n결과는 좋습니다."
