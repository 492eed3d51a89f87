"""All endings of a run: each call has one outcome and one answer, no step is open, `end` is last (§2.3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from statemachine.checkpoint import PlanStep, Usage
from statemachine.events import End, ErrorRaised
from statemachine.messages import (
    AnswerFinished,
    CancelRequested,
    DeadlinePassed,
    InternalErrorOccurred,
    Stop,
    ToolsRequested,
)
from statemachine.states import State
from tests.statemachine.runs import Run, check_history, in_state, of_type, risky, safe


def _done(run: Run) -> None:
    for _ in range(4):
        if run.state is State.AWAITING_APPROVAL:
            run.approve()
        for call in run.checkpoint.running:
            run.finish_call(call.id)
    run.apply(AnswerFinished("끝", "끝"))


def _replan(run: Run) -> None:
    for call in run.checkpoint.running:
        run.finish_call(call.id)
    while run.state is State.AWAITING_APPROVAL:
        run.reject(skip=True)
    run.apply(AnswerFinished("끝", "끝"))


def _to_approval(run: Run) -> None:
    for call in run.checkpoint.running:
        run.finish_call(call.id)


def _reject(run: Run) -> None:
    _to_approval(run)
    run.reject(reason="아니요")


def _time_out(run: Run) -> None:
    _to_approval(run)
    run.apply(DeadlinePassed(), at=300)


ENDINGS: dict[str, tuple[Callable[[Run], object], str, dict[str, str]]] = {
    "done": (_done, "completed", {"s1": "completed", "s2": "completed", "r1": "completed", "r2": "completed"}),
    "replan": (_replan, "completed", {"s1": "completed", "s2": "completed", "r1": "rejected", "r2": "rejected"}),
    "reject": (_reject, "rejected", {"s1": "completed", "s2": "completed", "r1": "rejected", "r2": "rejected"}),
    "timeout": (_time_out, "timed_out", {"s1": "completed", "s2": "completed", "r1": "rejected", "r2": "rejected"}),
    "cancel": (
        lambda run: run.apply(CancelRequested("user1")),
        "cancelled",
        {"s1": "failed", "s2": "failed", "r1": "rejected", "r2": "rejected"},
    ),
    "fail": (
        lambda run: run.apply(InternalErrorOccurred("내부 서버 오류가 발생했습니다.")),
        "failed",
        {"s1": "failed", "s2": "failed", "r1": "rejected", "r2": "rejected"},
    ),
    "run time limit": (
        lambda run: run.apply(DeadlinePassed(), at=3600),
        "failed",
        {"s1": "failed", "s2": "failed", "r1": "rejected", "r2": "rejected"},
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_call_has_one_outcome_and_one_answer_after_every_ending(name: str) -> None:
    end, status, outcomes = ENDINGS[name]
    run = Run()
    run.request_tools(safe("s1"), risky("r1"), safe("s2"), risky("r2"), safe("bad", refusal="no such tool"))
    end(run)
    assert isinstance(run.effect, Stop)
    assert run.events[-1].status == status  # type: ignore[attr-defined]
    assert {call.id: call.status.value for call in run.checkpoint.calls} == {**outcomes, "bad": "failed"}
    assert set(run.model_answers) == {"s1", "s2", "r1", "r2", "bad"}
    check_history(run.checkpoint.messages, finished=True)
    assert all(step.status in ("completed", "failed", "skipped") for step in run.checkpoint.plan)


def test_turn_limit_leaves_no_call_without_an_answer() -> None:
    run = Run(turns=1)
    run.request_tools(safe("a"), risky("b"))
    run.finish_call("a")
    run.reject(skip=True)
    assert run.state is State.FAILED
    check_history(run.checkpoint.messages, finished=True)


def test_cancelled_run_tells_the_model_which_calls_may_have_run() -> None:
    run = Run()
    run.request_tools(safe("s1"), risky("r1"))
    run.apply(CancelRequested("user1"))
    assert run.model_answers["s1"].startswith("Stopped, outcome unknown: ")
    assert run.model_answers["r1"].startswith("Not run: ")
    started, waited = run.checkpoint.calls
    assert (started.outcome_unknown, waited.outcome_unknown) == (True, False)


def test_failed_run_ends_with_an_internal_error() -> None:
    run = Run()
    run.apply(InternalErrorOccurred("내부 서버 오류가 발생했습니다."))
    assert run.last_events[-2:] == (
        ErrorRaised(
            message="내부 서버 오류가 발생했습니다.", error_type="InternalError", error_code="E1000", retryable=True
        ),
        End(message="내부 서버 오류가 발생했습니다.", status="failed"),
    )


def test_cancelled_run_ends_with_error_and_end() -> None:
    run = Run()
    run.apply(CancelRequested("user1"))
    (error,) = of_type(ErrorRaised, run.last_events)
    assert (error.error_type, error.retryable) == ("Cancelled", False)
    assert run.checkpoint.ending is not None
    assert run.checkpoint.ending.to_json_object() == {
        "error_type": "Cancelled",
        "error_code": "E1000",
        "message": "요청에 따라 작업이 취소되었습니다.",
    }


@pytest.mark.parametrize(
    ("end", "statuses"),
    [
        (_done, ["completed", "completed", "skipped"]),
        (lambda run: run.apply(InternalErrorOccurred("x")), ["completed", "failed", "skipped"]),
        (lambda run: run.apply(CancelRequested("u")), ["completed", "skipped", "skipped"]),
    ],
)
def test_no_plan_step_stays_open_after_the_end(end: Callable[[Run], object], statuses: list[str]) -> None:
    run = Run()
    plan = (
        PlanStep(id="1", title="읽기", status="completed"),
        PlanStep(id="2", title="쓰기", status="in_progress"),
        PlanStep(id="3", title="보내기"),
    )
    run.request_tools(safe("p", name="update_plan", plan=plan))
    end(run)
    assert [step.status for step in run.checkpoint.plan] == statuses


def test_end_event_has_the_usage_that_the_model_reported() -> None:
    run = Run()
    run.apply(ToolsRequested((safe(),), usage=Usage(prompt_tokens=5, completion_tokens=1, total_tokens=6)))
    run.apply(CancelRequested("user1"))
    (end,) = of_type(End, run.last_events)
    assert end.usage == {"promptTokens": 5, "completionTokens": 1, "totalTokens": 6}


def test_end_event_has_cached_tokens_only_where_the_server_reported_some() -> None:
    run = Run()
    run.apply(AnswerFinished("끝", "끝", Usage(prompt_tokens=5, completion_tokens=1, total_tokens=6, cached_tokens=4)))
    (end,) = of_type(End, run.last_events)
    assert end.usage == {"promptTokens": 5, "completionTokens": 1, "totalTokens": 6, "cachedTokens": 4}


def test_checkpoint_records_the_user_who_cancelled() -> None:
    run = in_state(State.CONTENT)
    run.apply(CancelRequested("user1"))
    assert run.checkpoint.cancelled_by == "user1"
