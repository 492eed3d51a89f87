"""`advance()`: every pair of state and fact, and the model's turn."""

from __future__ import annotations

from typing import get_args

import pytest

from statemachine.checkpoint import Checkpoint, Usage
from statemachine.errors import FactRefused
from statemachine.events import (
    Content,
    End,
    ErrorRaised,
    Event,
    Start,
    Thought,
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
    Step,
    Stop,
    ThoughtArrived,
    ToolFinished,
    ToolsRequested,
)
from statemachine.prompt import History, conversation
from statemachine.states import OPEN_STATES, State
from statemachine.workflow import ACCEPTED, advance, advance_all
from tests.statemachine.runs import NOW, Run, in_state, of_type, risky, safe

# The next state and effect for each fact in each open state; `-`: the fact is refused. Final states refuse all facts.
# `waits` is awaiting_approval. An approval's deadline is at 300 s, the run's at 3600 s ("late" for `DeadlinePassed`).
TABLE = """
fact                   | planning            | tool               | awaiting_approval   | content
ThoughtArrived         | planning Continue   | -                  | -                   | content Continue
AnswerArrived          | content Continue    | -                  | -                   | content Continue
ToolsRequested safe    | tool RunTools       | -                  | -                   | tool RunTools
ToolsRequested risky   | waits AwaitDecision | -                  | -                   | waits AwaitDecision
ToolsRequested refused | planning CallModel  | -                  | -                   | planning CallModel
ToolsRequested none    | -                   | -                  | -                   | -
AnswerFinished         | done Stop           | -                  | -                   | done Stop
ModelFailed transient  | planning CallModel  | -                  | -                   | content CallModel
ModelFailed permanent  | failed Stop         | -                  | -                   | failed Stop
ToolFinished           | -                   | planning CallModel | -                   | -
ToolFinished other     | -                   | -                  | -                   | -
ApprovalGranted        | -                   | -                  | tool RunTools       | -
ApprovalGranted other  | -                   | -                  | -                   | -
ApprovalGranted late   | -                   | -                  | -                   | -
ApprovalRejected       | -                   | -                  | rejected Stop       | -
ApprovalRejected skip  | -                   | -                  | planning CallModel  | -
ApprovalRejected other | -                   | -                  | -                   | -
ApprovalRejected late  | -                   | -                  | -                   | -
DeadlinePassed early   | -                   | -                  | -                   | -
DeadlinePassed at 300  | -                   | -                  | timed_out Stop      | -
DeadlinePassed late    | failed Stop         | failed Stop        | timed_out Stop      | failed Stop
CancelRequested        | cancelled Stop      | cancelled Stop     | cancelled Stop      | cancelled Stop
InternalErrorOccurred  | failed Stop         | failed Stop        | failed Stop         | failed Stop
RunRecovered           | planning CallModel  | tool RunTools      | waits AwaitDecision | content CallModel
RunResumed             | -                   | -                  | waits AwaitDecision | -
"""
EXPECTED = {
    name: dict(zip(OPEN_STATES, cells, strict=True))
    for name, *cells in ([cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()[1:])
}


def make_fact(name: str, open_request_id: str) -> tuple[Fact, float]:
    """Return the fact of a row, and its time in seconds after the start of the run."""
    facts: dict[str, tuple[Fact, float]] = {
        "ThoughtArrived": (ThoughtArrived("hm"), 1),
        "AnswerArrived": (AnswerArrived("안녕"), 1),
        "ToolsRequested safe": (ToolsRequested((safe("n1"),)), 1),
        "ToolsRequested risky": (ToolsRequested((risky("n1"),)), 1),
        "ToolsRequested refused": (ToolsRequested((safe("n1", refusal="no such tool"),)), 1),
        "ToolsRequested none": (ToolsRequested(()), 1),
        "AnswerFinished": (AnswerFinished("안녕", "안녕"), 1),
        "ModelFailed transient": (ModelFailed("unavailable", "503"), 1),
        "ModelFailed permanent": (ModelFailed("refused", "401"), 1),
        "ToolFinished": (ToolFinished("c1", "ok"), 1),
        "ToolFinished other": (ToolFinished("c9", "ok"), 1),
        "ApprovalGranted": (ApprovalGranted(open_request_id, NOW + 1), 1),
        "ApprovalGranted other": (ApprovalGranted("req-other", NOW + 1), 1),
        "ApprovalGranted late": (ApprovalGranted(open_request_id, NOW + 300), 300),
        "ApprovalRejected": (ApprovalRejected(open_request_id, NOW + 1), 1),
        "ApprovalRejected skip": (ApprovalRejected(open_request_id, NOW + 1, skip=True), 1),
        "ApprovalRejected other": (ApprovalRejected("req-other", NOW + 1), 1),
        "ApprovalRejected late": (ApprovalRejected(open_request_id, NOW + 300), 300),
        "DeadlinePassed early": (DeadlinePassed(), 299.999),
        "DeadlinePassed at 300": (DeadlinePassed(), 300),
        "DeadlinePassed late": (DeadlinePassed(), 3600),
        "CancelRequested": (CancelRequested("user1"), 1),
        "InternalErrorOccurred": (InternalErrorOccurred("broken"), 1),
        "RunRecovered": (RunRecovered(), 1),
        "RunResumed": (RunResumed(), 1),
    }
    return facts[name]


def test_table_contains_every_fact() -> None:
    assert {name.split()[0] for name in EXPECTED} == {kind.__name__ for kind in get_args(Fact)}
    assert set(ACCEPTED) == set(get_args(Fact))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", EXPECTED)
def test_every_fact_in_every_state_is_legal_or_refused_by_name(name: str, state: State) -> None:
    run = in_state(state)
    approval = run.checkpoint.open_approval
    fact, at = make_fact(name, approval.request_id if approval else "req-none")
    expected = "-" if state.is_final else EXPECTED[name][state]
    before, saved = run.checkpoint, run.checkpoint.to_json()
    if expected == "-":
        with pytest.raises(FactRefused) as refused:
            advance(before, fact, NOW + at)
        assert (refused.value.fact, refused.value.state) == (type(fact).__name__, state)
        assert str(refused.value).startswith(f"{type(fact).__name__} refused in state '{state}': ")
    else:
        run.apply(fact, at=at)
        assert f"{run.state} {type(run.effect).__name__}" == expected.replace("waits", "awaiting_approval")
    assert before.to_json() == saved, "a checkpoint is never changed in place"


# --- the model's turn -------------------------------------------------------------------------------------------------


def test_run_begins_with_start_and_a_thought_before_the_model_is_requested() -> None:
    run = Run()
    start, thought = run.events
    assert isinstance(start, Start)
    assert (start.session_id, start.thread_id, start.state) == (run.checkpoint.session_id, "thread-1", "planning")
    assert thought == Thought(thought_type="analysis", content="사용자의 요청을 분석하고 있습니다...")
    assert run.effect == CallModel(tuple(run.checkpoint.messages))
    assert run.checkpoint.messages[-1] == {"role": "user", "content": "메일을 보내주세요"}


def test_streamed_answer_completes_the_run() -> None:
    run = Run()
    run.apply(AnswerArrived("안녕"))
    run.apply(AnswerArrived("하세"))
    run.apply(AnswerFinished("안녕하세요", "요", Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)))
    pieces = of_type(Content, run.events)
    assert "".join(piece.content for piece in pieces) == "안녕하세요"
    assert [piece.chunk for piece in pieces] == [True, True, False]
    assert run.checkpoint.messages[-1] == {"role": "assistant", "content": "안녕하세요"}
    counted = {"promptTokens": 1, "completionTokens": 2, "totalTokens": 3}
    assert run.events[-1] == End(message="작업이 완료되었습니다.", status="completed", usage=counted)
    assert run.checkpoint.ending is None


def test_advance_all_makes_the_same_step_as_advance_for_each_fact() -> None:
    run = Run()
    run.request_tools(safe("c1"), safe("c2"))
    facts = [ToolFinished("c1", "ok", {"ok": True}), ToolFinished("c2", "ok", {"ok": True})]
    together = advance_all(run.checkpoint, facts, run.now)
    events: list[Event] = []
    for fact in facts:
        effect = run.apply(fact)
        events += run.last_events
    assert together == Step(run.checkpoint, tuple(events), effect)


def test_advance_all_stops_after_the_first_effect_other_than_continue() -> None:
    run = in_state(State.CONTENT)
    assert advance_all(run.checkpoint, [], NOW) == Step(run.checkpoint, (), Continue())
    ending: list[Fact] = [AnswerArrived("!"), CancelRequested("boss")]
    assert advance_all(run.checkpoint, [*ending, AnswerArrived("?")], NOW) == advance_all(run.checkpoint, ending, NOW)


def test_streamed_text_does_not_change_the_checkpoint() -> None:
    run = in_state(State.CONTENT)
    before = run.checkpoint
    run.apply(AnswerArrived("!"), at=5)
    assert run.checkpoint is before
    run.apply(ThoughtArrived("hm", "reflection"))
    assert run.checkpoint is before
    assert run.last_events == (Thought(thought_type="reflection", content="hm"),)


def test_changed_checkpoint_has_the_time_of_the_change() -> None:
    run = Run()
    run.apply(AnswerArrived("!"), at=5)
    assert run.checkpoint.updated_at == NOW + 5
    assert run.checkpoint.path[-1].at == NOW + 5


def test_tool_call_after_the_answer_began_is_legal() -> None:
    run = in_state(State.CONTENT)
    run.request_tools(safe(), text="안녕")
    assert run.checkpoint.messages[-1]["content"] == "안녕"
    run.finish_call()
    run.apply(AnswerFinished("끝", "끝"))
    assert [record.dest for record in run.checkpoint.path] == ["content", "tool", "planning", "content", "done"]


RETRIED: tuple[ModelFailure, ...] = ("unavailable", "interrupted")


@pytest.mark.parametrize("failure", RETRIED)
def test_transient_model_failure_is_retried_with_growing_pauses_then_ends_the_run(failure: ModelFailure) -> None:
    run = Run(model_attempts=3)
    assert run.apply(ModelFailed(failure, "503")) == CallModel(tuple(run.checkpoint.messages), "", NOW + 0.5)
    assert run.apply(ModelFailed(failure, "503")) == CallModel(tuple(run.checkpoint.messages), "", NOW + 1)
    assert run.checkpoint.retry_at == NOW + 1
    run.apply(ModelFailed(failure, "503"))
    assert of_type(ErrorRaised, run.last_events) == [
        ErrorRaised(message="503", error_type="ModelError", error_code="E5000", retryable=True)
    ]


def test_retry_waits_as_long_as_the_provider_says() -> None:
    run = Run()
    run.apply(ModelFailed("unavailable", "429", retry_after_seconds=7))
    assert run.checkpoint.retry_at == NOW + 7


def test_retry_delay_over_the_limit_ends_the_run() -> None:
    run = Run()
    assert isinstance(run.apply(ModelFailed("unavailable", "429", retry_after_seconds=31)), Stop)


def test_each_turn_has_its_own_attempts() -> None:
    run = Run(model_attempts=2)
    run.apply(ModelFailed("unavailable", "503"))
    run.request_tools(safe())
    run.finish_call()
    assert (run.checkpoint.model_attempt, run.checkpoint.retry_at) == (1, None)
    assert isinstance(run.apply(ModelFailed("unavailable", "503")), CallModel)


def test_interrupted_answer_continues_from_the_streamed_text() -> None:
    run = in_state(State.CONTENT)
    effect = run.apply(ModelFailed("interrupted", "cut", streamed="안녕"))
    assert isinstance(effect, CallModel)
    assert effect.streamed == "안녕"


FAILURES: list[tuple[ModelFailure, str, str, bool]] = [
    ("not_configured", "LLMNotConfigured", "E5000", False),
    ("refused", "ModelError", "E5000", False),
    ("timeout", "ModelTimeout", "E5001", True),
    ("truncated", "LimitExceeded", "E5000", False),
]


@pytest.mark.parametrize(("failure", "error_type", "code", "retryable"), FAILURES)
def test_permanent_model_failure_ends_the_run_with_its_cause(
    failure: ModelFailure, error_type: str, code: str, retryable: bool
) -> None:
    run = Run()
    assert isinstance(run.apply(ModelFailed(failure, "the cause")), Stop)
    (error,) = of_type(ErrorRaised, run.last_events)
    assert (error.message, error.error_type, error.error_code, error.retryable) == (
        "the cause",
        error_type,
        code,
        retryable,
    )
    assert run.checkpoint.ending is not None
    assert run.checkpoint.ending.error_type == error_type
    assert run.events[-1] == End(message="the cause", status="failed")


# --- a conversation that is too long for the model --------------------------------------------------------------------

PROMPT = "그리고 셋은?"
EARLIER = History(
    (
        {"role": "user", "content": "하나"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "둘"},
        {"role": "assistant", "content": "2 [… 9,000 characters left out …]"},
    ),
    omitted_turns=3,
    is_shortened=True,
)


def test_run_begins_with_its_history() -> None:
    run = Run(PROMPT, EARLIER)
    assert run.checkpoint.messages[1:5] == list(EARLIER.messages)
    checkpoint = run.checkpoint
    assert (checkpoint.history_messages, checkpoint.omitted_turns, checkpoint.is_history_shortened) == (4, 3, True)


@pytest.mark.parametrize("model_attempts", [1, 3])
def test_turn_that_is_too_long_is_requested_again_without_the_history(model_attempts: int) -> None:
    run = Run(PROMPT, EARLIER, model_attempts=model_attempts)
    effect = run.apply(ModelFailed("context_too_long", "8192 tokens"), at=2)
    expected = conversation(PROMPT, run.checkpoint.request.context, History(omitted_turns=5))
    assert effect == CallModel(tuple(expected))
    assert run.checkpoint.messages == expected
    checkpoint = run.checkpoint
    assert (checkpoint.history_messages, checkpoint.omitted_turns, checkpoint.is_history_shortened) == (0, 5, False)
    assert [(turn.attempt, turn.outcome, turn.started_at) for turn in checkpoint.model_turns] == [
        (1, "failed", NOW),
        (2, None, NOW + 2),
    ]
    (thought,) = run.last_events
    assert isinstance(thought, Thought)
    assert thought.thought_type == "decision"
    run.apply(AnswerFinished("네", "네"))
    assert run.state is State.DONE


def test_history_is_left_out_in_a_later_turn_and_in_the_middle_of_an_answer() -> None:
    run = Run(PROMPT, EARLIER)
    run.apply(ModelFailed("unavailable", "503"))
    run.request_tools(safe())
    run.finish_call()
    own = run.checkpoint.messages[5:]
    run.apply(AnswerArrived("안녕"), at=1)
    effect = run.apply(ModelFailed("context_too_long", "8192 tokens", streamed="안녕"), at=2)
    assert effect == CallModel(tuple(run.checkpoint.messages), "안녕")
    assert run.checkpoint.messages[1:] == own
    assert (run.checkpoint.turn, run.checkpoint.model_attempt) == (2, 2)
    assert run.state is State.CONTENT
    run.apply(AnswerFinished("안녕하세요", "하세요"))
    assert "".join(piece.content for piece in of_type(Content, run.events)) == "안녕하세요"


def test_run_that_is_too_long_without_a_history_ends_with_cause_and_remedy() -> None:
    run = Run(PROMPT, EARLIER)
    run.apply(ModelFailed("context_too_long", "8192 tokens"))
    assert isinstance(run.apply(ModelFailed("context_too_long", "8192 tokens")), Stop)
    (error,) = of_type(ErrorRaised, run.last_events)
    assert (error.error_type, error.error_code, error.retryable) == ("LimitExceeded", "E5000", False)
    assert error.message.startswith(
        "이 작업의 대화(요청과 도구 결과)가 모델이 읽을 수 있는 길이를 넘었습니다. 요청을 줄이거나"
    )
    assert error.message.endswith("(8192 tokens)")
    assert [turn.outcome for turn in run.checkpoint.model_turns] == ["failed", "failed"]


def test_run_that_left_out_its_history_recovers_without_it() -> None:
    run = Run(PROMPT, EARLIER)
    run.apply(ModelFailed("unavailable", "429", retry_after_seconds=9))
    run.apply(ModelFailed("context_too_long", "8192 tokens"), at=10)
    saved = run.checkpoint.messages
    run.checkpoint = Checkpoint.from_json(run.checkpoint.to_json())
    assert run.apply(RunRecovered(), at=20) == CallModel(tuple(saved))
    assert isinstance(run.apply(ModelFailed("context_too_long", "8192 tokens")), Stop)
